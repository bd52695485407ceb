"""Training what is missing of many runs: longest first, each trained once, nothing lost."""

import heapq
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial

import filelock
import torch

from . import machine, paths, provenance
from .augment import generator
from .data import ImageSet, load
from .measure import count_macs, synchronize
from .progress import bar, duration, say
from .runs import Run, Store, write_record
from .train import (
    OutOfTime,
    build,
    choose_device,
    make_optimizer,
    numerics,
    train,
    train_step,
)
from .workers import Failure, share


class TrainingFailed(RuntimeError):
    """Runs that were to be trained have failed; the others are done."""


def train_missing(
    runs: Iterable[Run],
    *,
    device: str | torch.device | None = None,
    minutes: float | None = None,
    download: bool = False,
    how: str = "fredist.sweep.train_missing",
) -> int:
    """Train the runs that have no record yet and return how many are still missing.

    Seeds in order, and of each the longest run first, after an estimate of the whole time. On a
    CPU each core trains a run (as many as `torch.get_num_threads()`), in a process of its own: a
    script calls this under `if __name__ == "__main__"`. A run that another process is training is
    waited for, at the end. With `minutes`, training stops in time and continues at the next call.
    With `download`, missing data sets are fetched.

    Raises
    ------
    TrainingFailed
        When the others are done or time is up, naming the runs that failed and where their
        tracebacks are.
    """
    if minutes is not None and not minutes > 0:
        raise ValueError(f"expected a time limit above 0 minutes, got {minutes}; None is no limit")
    deadline = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    store = Store()
    missing = [run for run in dict.fromkeys(runs) if store.find(run) is None]
    if not missing:
        return 0
    device = choose_device(device)
    for dataset in dict.fromkeys(run.dataset for run in missing):
        _load(dataset, download)
    seconds = estimate(missing, device)
    missing.sort(key=lambda run: (run.seed, -seconds[run]))
    processes = min(torch.get_num_threads(), len(missing)) if device.type == "cpu" else 1
    print(
        f"training {len(missing)} runs on {provenance.device_name(device)}"
        + (f", {processes} at a time" if processes > 1 else "")
        + f", estimated {duration(_span([seconds[run] for run in missing], processes))}",
        flush=True,
    )
    source = {"revision": provenance.revision(), "how": how}  # as it is now
    failed, left, epochs, waited = [], list(missing), dict.fromkeys(missing, 0), False
    with bar(total=round(sum(seconds.values()))) as shown:

        def advance(run, epoch):
            epochs[run] = epoch
            done = sum(seconds[run] * epochs[run] / run.recipe.epochs for run in missing)
            shown.set_description(describe(run))
            shown.update(round(done) - shown.n)

        for wait in (False, True):  # first those that nobody else is training
            if not left or time.monotonic() >= deadline:
                break
            waited = wait
            work = partial(
                _train_locked, device=device, deadline=deadline, wait=wait, source=source
            )
            with closing(share(list(left), work, processes, advance)) as outcomes:
                for run, outcome in outcomes:
                    if outcome is None:
                        continue  # another process has it, or time is up
                    if isinstance(outcome, Failure):  # recorded; the others go on
                        failed.append(_record_failure(run, outcome))
                        outcome = f"failed with {outcome.error}"
                    left.remove(run)
                    advance(run, run.recipe.epochs)
                    done = len(missing) - len(left)
                    say(shown, f"[{done}/{len(missing)}] {describe(run)}: {outcome}")
    if left:
        print(f"time is up: {len(left)} of {len(missing)} runs left; call again to continue")
        if not waited and not any(epochs.values()):
            print("no epoch was finished in that time, and none will be: give a longer limit")
    if failed:
        raise TrainingFailed(
            f"{len(failed)} of {len(missing)} runs failed; their tracebacks: {', '.join(failed)}"
        )
    return len(left)


def estimate(runs: list[Run], device: torch.device) -> dict[Run, float]:
    """Return each run's expected seconds, from counted MACs and timed steps.

    Of each network's runs the smallest and the largest by MACs are timed on a batch; a line
    between them gives the others, since small networks pay for launches rather than for MACs.
    """
    macs = {run: _macs(run) for run in runs}
    seconds = {}
    for key in dict.fromkeys((r.model, r.recipe.batch_size) for r in runs):
        group = sorted((r for r in runs if (r.model, r.recipe.batch_size) == key), key=macs.get)
        small, large = group[0], group[-1]
        low, high = _step_seconds(small, device), _step_seconds(large, device)
        span = macs[large] - macs[small]
        for run in group:
            share = (macs[run] - macs[small]) / span if span else 1.0
            step = low + share * (high - low)
            seconds[run] = step * run.recipe.epochs * _train_images(run) / run.recipe.batch_size
    return seconds


def describe(run: Run) -> str:
    """Return a run in a few words, for a line of output."""
    width = f" width {run.width:g}" if run.width != 1 else ""
    convention = " as published" if run.convention == "published" else ""
    return f"{run.dataset} {run.model} {run.template}{convention}{width} seed {run.seed}"


def _span(seconds: list[float], processes: int) -> float:
    """Return how long runs take in this order, each begun by the process that is free first."""
    ends = [0.0] * processes
    for one in seconds:
        heapq.heapreplace(ends, ends[0] + one)
    return max(ends)


def _train_locked(
    run: Run,
    advance: Callable[[int], None],
    *,
    device: torch.device,
    deadline: float,
    wait: bool,
    source: dict,
) -> str | None:
    """Train one run under its lock; None where time is up, or (without `wait`) others have it."""
    limit = deadline - time.monotonic()
    if limit <= 0:
        return None
    folder = paths.unfinished_folder()
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f"{run.name}.lock")  # the system frees a dead owner's
    try:
        lock.acquire(timeout=0 if not wait else (limit if limit < 1e9 else -1))
    except filelock.Timeout:
        return None
    try:
        if record := Store().find(run):  # another process has finished it meanwhile
            return f"{record.results['test_top1']:.2f}% (trained by another process)"
        checkpoint = folder / f"{run.name}.pt"
        for torn in folder.glob(f"{checkpoint.name}.*.tmp"):
            torn.unlink()  # a killed process was writing it
        with machine.training():  # nothing is timed meanwhile
            results, progress = train(
                run,
                _load(run.dataset),
                device,
                checkpoint=checkpoint,
                deadline=deadline,
                on_epoch=advance,
            )
        taken = {"seconds": round(progress.seconds, 3), "sessions": progress.sessions}
        write_record(run, results, progress.history, provenance.describe(device) | taken | source)
        checkpoint.unlink(missing_ok=True)
        _failure(run).unlink(missing_ok=True)
        return f"{results['test_top1']:.2f}% in {duration(progress.seconds)}"
    except OutOfTime:
        return None
    finally:
        lock.release()


def _failure(run: Run):
    return paths.unfinished_folder() / f"{run.name}.failed.json"


def _record_failure(run: Run, failure: Failure) -> str:
    path = _failure(run)
    content = {"run": describe(run), "traceback": failure.traceback}
    paths.write_whole(path, json.dumps(content, indent=1) + "\n")
    return os.path.relpath(path)


_loaded: dict[str, ImageSet] = {}


def _load(dataset: str, download: bool = False) -> ImageSet:
    if dataset not in _loaded:
        _loaded[dataset] = load(dataset, download=download, progress=bar)
    return _loaded[dataset]


def _train_images(run: Run) -> int:
    images = _load(run.dataset)
    return run.reduction.images(len(images.train_labels), len(images.test_labels))[0]


def _macs(run: Run) -> int:
    with torch.device("meta"):
        return count_macs(build(run, "meta"), _load(run.dataset).image_size)


def _step_seconds(run: Run, device: torch.device, repeats: int = 2) -> float:
    size, batch = _load(run.dataset).image_size, run.recipe.batch_size
    with numerics(run.recipe, device):
        model = build(run, device).train()
        optimizer = make_optimizer(model, run.recipe)
        x = torch.randn(batch, 3, size, size, generator=generator("estimate")).to(device)
        y = torch.zeros(batch, dtype=torch.long, device=device)
        for step in range(1 + repeats):
            if step == 1:  # after one to warm up
                synchronize(device)
                start = time.perf_counter()
            train_step(model, optimizer, x, y, run.recipe)
        synchronize(device)
    return (time.perf_counter() - start) / repeats
