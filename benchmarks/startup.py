"""What a run waits for before it trains, and after: imports, decoding, the first step, evaluation.

`python -m benchmarks.startup`: seconds, each in a process of its own, the median of three.
"""

import os
import subprocess
import sys
import tempfile
from statistics import median

IMPORTS = ("fredist", "fredist.results", "fredist.train", "timm")
_CLOCK = "import time; start = time.perf_counter()"
_STOP = "print(time.perf_counter() - start)"
_RUN = """
import torch
from fredist.batches import ResidentImages
from fredist.data import load
from fredist.device import choose_device, numerics
from fredist.paper import choose
from fredist.steps import Steps, make_optimizer
from fredist.train import build, evaluate
images, device = load("{dataset}"), choose_device()
[run] = choose("table1", "smoke", datasets="{dataset}", models="vgg19", templates="base").runs()
model = build(run, device)
"""
_STEP = """
how = (*run.normalisation, device)
with numerics(run.recipe, device):
    part = ResidentImages(images.{split}_images, images.{split}_labels, *how)
    {last}
"""
_FIRST = "steps = Steps(model, make_optimizer(model, run.recipe), run.recipe); "
_FIRST += "float(next(steps.epoch(part, 0, 0))[1])"
_DECODE = 'from fredist.data import load; load("{dataset}")'


def seconds(before: str, timed: str, **environment) -> float:
    """Return how long code takes in a new process, after other code that is not timed."""
    code = "\n".join([before, _CLOCK, timed, _STOP])
    options = {"capture_output": True, "text": True, "check": True}
    said = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, **options
    ).stdout
    return float(said.splitlines()[-1])


def main():
    """Print a line for each, as it is known."""
    [dataset] = sys.argv[1:] or ["cifar10"]
    torch, decode = "import fredist.data, torch", _DECODE.format(dataset=dataset)
    seconds(torch, decode)  # once, so that what follows reads it decoded
    parts = {f"import {name}": ("", f"import {name}") for name in IMPORTS}
    run = _RUN.format(dataset=dataset)
    parts["read the decoded set"] = (torch, decode)
    first = _STEP.format(split="train", last=_FIRST)
    parts["from nothing to the first step"] = ("", run + first)
    parts["the first step alone, its images sent to the device"] = (run, first)
    test = _STEP.format(split="test", last="evaluate(model, part, run.recipe)")
    parts["evaluate all test images, VGG-19 at 1/16"] = (run, test)
    for what, (before, timed) in parts.items():
        print(f"{what}: {median(seconds(before, timed) for _ in range(3)):.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        cold = seconds(torch, decode, FREDIST_CACHE=folder)
    print(f"decode it, once: {cold:.2f} s")


if __name__ == "__main__":
    main()
