"""Images per second in training and evaluation, fredist against the usual script.

Every side is a process of its own; they take turns, several times over, so that whatever else the
machine does meets all of them. Of the usual script's loaders (0 or 2 workers), at its batch of 128,
the faster counts. On a CPU fredist is timed alone and as in a sweep, two runs at a time. Each
network's numbers are kept as records; a table and a plot are drawn from them.
"""

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial
from math import exp, log
from pathlib import Path
from statistics import mean, median

import pandas as pd
import seaborn
import torch
from matplotlib.figure import Figure

from fredist import machine
from fredist.device import (
    choose_device,
    describe,
    device_name,
    has_bfloat16,
    numerics,
    thread_count,
)
from fredist.measure import passes_ms
from fredist.networks import costs
from fredist.paper import MODELS, choose
from fredist.paths import figures_folder, write_whole
from fredist.records import Store, write_record
from fredist.runs import Measurement
from fredist.style import TEXT_WIDTH, applied, as_bytes
from fredist.tables import TEMPLATE_LABELS
from fredist.templates import TEMPLATES

HERE = Path(__file__).parent


class Side:
    """A process that times one side when it is told to."""

    def __init__(self, side, profile, model, template):
        command = [sys.executable, HERE / "side.py", side, profile, model, template]
        places = filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH")))
        how = {"env": os.environ | {"PYTHONPATH": os.pathsep.join(places)}, "text": True}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, **how)

    def begin(self, order, seconds):
        """Let it time without waiting for it."""
        print(order, seconds, file=self.process.stdin, flush=True)

    def answer(self):
        """Return images per second, or the size of the images once it is ready."""
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("a side of the benchmark ended; what it printed says why")
        return float(line)


def rates(device: torch.device, precision: str) -> dict:
    """Return what one thread does at most: operations and bytes of a copy per second."""

    def rate(amount, work, *tensors):
        return 1000 * amount / min(passes_ms(partial(work, *tensors), device, seconds=0.2))

    # A CPU without bfloat16 takes minutes for its product, and trains with float32's.
    kind = getattr(torch, precision) if has_bfloat16(device) else torch.float32
    # Of a copy in CUDA's memory so much that a launch takes no time beside it, and no cache has it.
    n, floats = (8192, 2**28) if device.type == "cuda" else (2048, 2**24)
    a = torch.rand(n, n, device=device, dtype=kind)
    source = torch.rand(floats, device=device)
    return {
        precision: rate(2 * n**3, torch.mm, a, a),
        "copy": rate(2 * source.nbytes, torch.empty_like(source).copy_, source),
    }


def bound(run, size, order, limits) -> float:
    """Return images per second that no implementation passes with these rates.

    Of each layer the larger of its operations' and its maps' time: a map is read and written once
    in each pass, batch norm and activations cost nothing more, weights are in the cache.
    """
    passes, wide = 3 if order == "training" else 1, 2 if run.recipe.precision == "bfloat16" else 4
    seconds = 0.0
    for layer in costs.layers(run.network, size):
        moved = wide * layer.size**2 * (layer.inputs + layer.outputs)
        operations = 2 * layer.macs / limits[run.recipe.precision]
        seconds += passes * max(operations, moved / limits["copy"])
    return 1 / seconds


def measure(order, sides, seconds, repeats, sweep) -> dict[str, list[float]]:
    """Return every repeat's images per second: the usual script's, ours alone, ours in a sweep."""
    names = {"usual, 0 workers": ["0"], "usual, 2 workers": ["2"], "alone": ["a"]}
    names |= {"sweep": ["a", "b"]} if sweep else {}
    found = {name: [] for name in names}
    for _ in range(repeats):
        for name, own in names.items():
            for side in own:
                sides[side].begin(order, seconds)
            found[name].append(sum(sides[side].answer() for side in own))
    return found


def results_of(found, run, size, order, limits) -> dict[str, float]:
    """Return the medians, their ratios to the usual script's, and the share of the bound."""
    usual = max(("usual, 0 workers", "usual, 2 workers"), key=lambda name: median(found[name]))
    results = {"usual": median(found[usual]), "bound": bound(run, size, order, limits)}
    for name in [name for name in ("alone", "sweep") if name in found]:
        results[name] = median(found[name])
        ratios = [a / b for a, b in zip(found[name], found[usual], strict=True)]
        places = {"": median, "_low": min, "_high": max}
        results |= {f"ratio_{name}{end}": take(ratios) for end, take in places.items()}
    return results | {"share": results["alone"] / results["bound"]}


def show(rows: pd.DataFrame, folder: Path, where: str) -> None:
    """Print the table and the geometric means, and write both as files; `where` is their place."""
    rows = rows.sort_values(["order", "model", "template"], ignore_index=True)
    print(rows.round(2).to_string())
    for order, part in rows.groupby("order"):
        for name in [name for name in ("ratio_alone", "ratio_sweep") if name in part]:
            ratio = exp(mean(map(log, part[name])))
            print(f"{order}: {name.removeprefix('ratio_')} {ratio:.2f} times the usual script")
    kinds = [name for name in ("alone", "sweep") if f"ratio_{name}" in rows]
    with applied():
        figure = Figure((TEXT_WIDTH, 3.6))
        orders = rows.groupby("order")
        panels = figure.subplots(1, len(orders), sharey=True, squeeze=False)
        for axis, (order, part) in zip(panels.flat, orders, strict=True):
            names = part["model"] + " " + part["template"].map(TEMPLATE_LABELS)
            for shift, kind in enumerate(kinds):
                color = seaborn.color_palette("colorblind")[shift]
                low, high = part[f"ratio_{kind}_low"], part[f"ratio_{kind}_high"]
                axis.vlines(names, low, high, color, linewidth=0.8)
                axis.plot(names, part[f"ratio_{kind}"], "o", color=color, label=kind)
            axis.axhline(1, color="0.4", linewidth=0.6)
            axis.tick_params("x", rotation=90)
            axis.set_title(order)
        panels.flat[0].set_ylim(0, None)  # once both are drawn, whose scale it is
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
        figure.supylabel("Times the usual script", fontsize="medium")
        figure.supxlabel(f"{where}; sweep: two runs side by side", fontsize="medium")
    write_whole(folder / "bench.csv", rows.to_csv(index=False, float_format="%.5g"))
    write_whole(folder / "bench.png", as_bytes(figure, "png"))
    print(f"files: {folder / 'bench'}.csv, .png")


def keep(run, cell, jobs, asked, device, sweep) -> None:
    """Measure one network in training and evaluation, and write the records."""
    start = time.monotonic()
    with numerics(run.recipe, device):
        limits = rates(device, run.recipe.precision)
    with ExitStack() as ending:
        sides = {}
        kinds = {"0": "0", "2": "2", "a": "ours"} | ({"b": "ours"} if sweep else {})
        for side, kind in kinds.items():
            sides[side] = Side(kind, asked.profile, cell.model, cell.template)
            ending.callback(sides[side].process.kill)
        size, *_ = [int(side.answer()) for side in sides.values()]  # all are ready
        for order in ("training", "evaluation"):
            found = measure(order, sides, asked.seconds, asked.repeats, sweep)
            results = results_of(found, run, size, order, limits)
            here = describe(device) | {"seconds": time.monotonic() - start}
            provenance = {"sessions": [here], "how": "make bench", "rates": limits}
            write_record(jobs[cell, order], results, found, provenance)
            said = {name: round(value, 2) for name, value in results.items()}
            print(cell.model, cell.template, order, said, flush=True)


def main() -> None:
    """Measure what is asked for and show all that has been measured here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="small")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--templates", default=",".join(TEMPLATES))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train", action="store_true", help="measure what has no record")
    parser.add_argument("--remeasure", action="store_true", help="measure all, too")
    asked = parser.parse_args()
    device = choose_device()
    sweep = device.type == "cpu" and torch.get_num_threads() > 1
    choices = choose(
        "table1", asked.profile, models=asked.models, templates=asked.templates, datasets="cifar10"
    )
    cells = choices.cells()
    jobs, runs = {}, {cell: choices.run(cell, 0) for cell in cells}
    for cell, run in runs.items():
        for order in ("training", "evaluation"):
            jobs[cell, order] = Measurement(
                run.network, 32, "speed", order, run.recipe.batch_size, device_name(device),
                thread_count(device), str(torch.__version__), template=cell.template,
                width=cell.width,
            )  # fmt: skip

    def there() -> dict:
        """Return the newest record of each, of its precision, which no identity here tells."""
        return {
            key: record
            for record in Store().measurements()
            for key, job in jobs.items()
            if record.id == job.id and runs[key[0]].recipe.precision in record.provenance["rates"]
        }

    if asked.train or asked.remeasure:
        known = {} if asked.remeasure else there()
        with suppress(KeyboardInterrupt), machine.timing():  # nothing trains meanwhile
            for cell in cells:
                if not {(cell, "training"), (cell, "evaluation")} <= known.keys():
                    keep(runs[cell], cell, jobs, asked, device, sweep)
    measured = there()
    rows = [
        {"order": order, "model": cell.model, "template": cell.template, **record.results}
        for (cell, order), record in measured.items()
    ]
    if not rows:
        sys.exit("nothing has been measured on this device: call again with --train")
    where = f"profile {asked.profile}, {device_name(device)}, PyTorch {torch.__version__}"
    show(pd.DataFrame(rows), figures_folder() / asked.profile, where)
    days = sorted(record.finished.date().isoformat() for record in measured.values())
    print(f"measured from {days[0]} to {days[-1]}; --remeasure takes all again")


if __name__ == "__main__":
    main()
