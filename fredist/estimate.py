"""How long runs take and in which order they are begun, by steps timed here."""

import heapq
import time
from collections import defaultdict
from contextlib import suppress
from math import inf

import filelock
import torch

from . import machine
from .batches import generator
from .data import DATASETS
from .device import device_name, empty_cache, numerics, synchronize
from .progress import bar, duration
from .runs import Run
from .steps import make_optimizer, train_step
from .train import build


def in_order(
    runs: list[Run], sizes: dict, device: torch.device, processes: int, deadline: float
) -> list[Run]:
    """Return the runs in the order they are begun, and say how many they are and how long."""
    seconds = estimate(runs, sizes, device, deadline)
    runs = sorted(runs, key=lambda run: (run.seed, -(seconds or sizes)[run]))
    said = f"training {len(runs)} run{'s' * (len(runs) > 1)} on {device_name(device)}"
    said += f", {processes} at a time" * (processes > 1)
    if seconds:
        ends = [0.0] * processes  # each run is begun by the process that is free first
        for run in runs:
            heapq.heapreplace(ends, ends[0] + seconds[run])
        said += f", estimated {duration(max(ends))}"
    print(said, flush=True)
    return runs


def estimate(runs: list[Run], sizes: dict, device, deadline: float = inf) -> dict[Run, float]:
    """Return each run's expected seconds, from its MACs and timed steps; nothing if none is timed.

    Of each model, batch and precision the smallest and the largest are timed on a batch; a line
    between them gives the others, since small networks pay for launches rather than for MACs. A
    step that fails (out of memory, say) is done without. None is timed while another process
    trains or times, which would disturb both: the sizes alone then give the order. Steps on CUDA
    are timed plain, not as the graphs that follow.
    """
    macs = {r: r.network.macs(DATASETS[r.dataset].size) * r.recipe.batch_size for r in runs}
    groups, steps = defaultdict(list), {}
    for run in sorted(runs, key=macs.get):
        groups[run.network.model, run.recipe.batch_size, run.recipe.precision].append(run)
    ends = dict.fromkeys(run for group in groups.values() for run in (group[0], group[-1]))
    with suppress(filelock.Timeout), machine.timing(deadline=0):
        for run in bar(ends, label="timing steps"):
            if time.monotonic() < deadline:
                with suppress(Exception):
                    steps[run] = _step_seconds(run, device)
    empty_cache(device)
    if not steps:
        return {}
    usual = sum(steps.values()) / sum(macs[run] for run in steps)
    seconds = {}
    for group in groups.values():
        timed = {macs[run]: steps[run] for run in group if run in steps}
        (x0, y0), (x1, y1) = [(0, 0.0), *(sorted(timed.items()) or [(1, usual)])][-2:]
        for run in group:
            step = max(0.0, y1 + (macs[run] - x1) * (y1 - y0) / (x1 - x0))
            seconds[run] = step * sizes[run] / (3 * macs[run])
    return seconds


def _step_seconds(run: Run, device: torch.device) -> float:
    size, batch, taken = DATASETS[run.dataset].size, run.recipe.batch_size, []
    with numerics(run.recipe, device):
        model = build(run, device).train()
        optimizer = make_optimizer(model, run.recipe)
        x = torch.randn(batch, 3, size, size, generator=generator("estimate")).to(device)
        y = torch.zeros(batch, dtype=torch.long, device=device)
        if device.type == "cuda":  # it loads kernels, which would be most of the first step's time
            train_step(model, optimizer, x, y, run.recipe)
            synchronize(device)
        while len(taken) < 3 and sum(taken) < 1:  # the first warms up; large networks take seconds
            start = time.perf_counter()
            train_step(model, optimizer, x, y, run.recipe)
            synchronize(device)
            taken.append(time.perf_counter() - start)
    return min(taken)
