"""Where the time of a training step goes, by operator, in each precision and memory format.

`python -m benchmarks.operators vgg19 --templates base`: of each network a table of
milliseconds a step, on random images, beside nothing else. The first column is the usual way.
"""

import argparse
from dataclasses import replace

import pandas as pd
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from fredist import machine
from fredist.device import choose_device, describe, device_name, numerics
from fredist.paper import MODELS, choose
from fredist.recipes import VALUES
from fredist.runs import Run
from fredist.steps import make_optimizer, train_step
from fredist.templates import TEMPLATES
from fredist.train import build

LEAST = 0.03  # of a column's time, below which an operator is among the others


def milliseconds(run: Run, device: torch.device, steps: int) -> pd.Series:
    """Return the time of each operator in a step, without that of those it calls."""
    recipe = run.recipe
    x = torch.rand(recipe.batch_size, 3, 32, 32, device=device)
    y = torch.randint(run.network.num_classes, (recipe.batch_size,), device=device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with numerics(recipe, device):
        model = build(run, device).train()
        optimizer = make_optimizer(model, recipe)
        for _ in range(3):
            train_step(model, optimizer, x, y, recipe)
        with profile(activities=activities) as seen:
            for _ in range(steps):
                train_step(model, optimizer, x, y, recipe)
    kind = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    # An operator has its kernels' time, which stand beside it as events of the device.
    own = [one for one in seen.key_averages() if one.device_type == DeviceType.CPU]
    return pd.Series({one.key: getattr(one, kind) for one in own}) / 1000 / steps  # microseconds


def table(run: Run, device: torch.device, steps: int) -> pd.DataFrame:
    """Return operators by precision and memory format, the slowest first, and the step's sum."""
    found = {}
    for precision in VALUES["precision"]:
        for layout in VALUES["memory_format"]:
            recipe = replace(run.recipe, precision=precision, memory_format=layout)
            name = f"{precision}, {layout.replace('_', ' ')}"
            found[name] = milliseconds(replace(run, recipe=recipe), device, steps)
    found = pd.DataFrame(found).fillna(0.0)
    large = (found > LEAST * found.sum()).any(axis=1)
    rows = found[large].loc[found[large].max(axis=1).sort_values(ascending=False).index]
    return pd.concat([rows, pd.DataFrame({"others": found[~large].sum(), "sum": found.sum()}).T])


def main():
    """Print the table of each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--templates", default=TEMPLATES[0])
    parser.add_argument("--profile", default="small")
    parser.add_argument("--steps", type=int, default=5)
    asked, device = parser.parse_args(), choose_device()
    choices = choose(
        "table1", asked.profile, datasets="cifar10", models=asked.models, templates=asked.templates
    )
    where = f"{device_name(device)} ({describe(device)['instructions']}), torch {torch.__version__}"
    print(f"Milliseconds a step of {asked.steps}, {where}")
    for cell in choices.cells():
        run = choices.run(cell, 0)
        with machine.timing():
            found = table(run, device, asked.steps)
        print(f"\n{run.network.model} {run.template}, batch {run.recipe.batch_size}\n")
        print(found.round(1).to_string(), flush=True)


if __name__ == "__main__":
    main()
