"""Training what is missing of many runs: longest first, each by one process, nothing lost."""

import json
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache

import filelock
import timm
import torch
import torchvision

from . import paths
from .data import ImageSet, load
from .measure import count_macs
from .progress import bar, duration, is_plain
from .runs import Run, Store, write_record
from .train import (
    OutOfTime,
    build,
    choose_device,
    make_optimizer,
    numerics,
    thread_count,
    train,
    train_step,
)


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

    Seeds in order, and of each the longest run first, after an estimate of the whole time. A run
    that another process is training is waited for, at the end. With `minutes`, training stops in
    time and continues at the next call. With `download`, missing data sets are fetched.

    Raises
    ------
    TrainingFailed
        After all others are done, naming the runs that failed and where their tracebacks are.
    """
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    store = Store()
    missing = [run for run in dict.fromkeys(runs) if store.find(run) is None]
    if not missing:
        return 0
    device = choose_device(device)
    for dataset in dict.fromkeys(run.dataset for run in missing):
        _load(dataset, download)
    _revision()  # of the source as it is now, not as it may be when the last run ends
    seconds = estimate(missing, device)
    missing.sort(key=lambda run: (run.seed, -seconds[run]))
    where = device_name(device, thread_count(missing[0].recipe, device))
    print(
        f"training {len(missing)} runs on {where}, estimated {duration(sum(seconds.values()))}",
        flush=True,
    )
    failed, left = [], list(missing)
    with bar(total=round(sum(seconds.values()))) as shown:
        for wait in (False, True):  # first those that nobody else is training
            for run in list(left):
                if time.monotonic() > deadline:
                    break
                start = shown.n

                def advance(epoch, run=run, start=start):
                    done = seconds[run] * epoch / run.recipe.epochs
                    shown.update(start + round(done) - shown.n)

                shown.set_description(describe(run))
                try:
                    line = _train_locked(run, device, deadline, how, wait, advance)
                except OutOfTime:
                    break
                except Exception as error:  # recorded; the others go on
                    failed.append(_record_failure(run))
                    line = f"failed with {type(error).__name__}: {error}"
                if line is None:
                    continue  # another process has it: later
                left.remove(run)
                advance(run.recipe.epochs)
                done = len(missing) - len(left)
                _say(shown, f"[{done}/{len(missing)}] {describe(run)}: {line}")
    if failed:
        raise TrainingFailed(
            f"{len(failed)} of {len(missing)} runs failed; their tracebacks: {', '.join(failed)}"
        )
    if left:
        print(f"time is up: {len(left)} of {len(missing)} runs left; call again to continue")
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


def device_name(device: torch.device, threads: int) -> str:
    """Return the device's name as its maker gives it, of a CPU with the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            model = next(
                (x.split(":")[1].strip() for x in info if x.startswith("model name")), model
            )
    except OSError:
        pass  # not Linux
    return f"{model}, {threads} thread{'s' if threads != 1 else ''}"


def _train_locked(
    run: Run, device, deadline: float, how: str, wait: bool, advance: Callable[[int], None]
) -> str | None:
    """Train one run under its lock; None where another process holds it and `wait` is False."""
    folder = paths.unfinished_folder()
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f"{run.name}.lock")  # the system frees a dead owner's
    limit = deadline - time.monotonic()
    try:
        lock.acquire(timeout=0 if not wait else (max(limit, 0) if limit < 1e9 else -1))
    except filelock.Timeout:
        if wait:
            raise OutOfTime from None
        return None
    try:
        if record := Store().find(run):  # another process has finished it meanwhile
            return f"{record.results['test_top1']:.2f}% (trained by another process)"
        checkpoint = folder / f"{run.name}.pt"
        results, progress = train(
            run,
            _images(run),
            device,
            checkpoint=checkpoint,
            deadline=deadline,
            on_epoch=advance,
        )
        provenance = _provenance(device, thread_count(run.recipe, device), how) | {
            "seconds": round(progress.seconds, 3),
            "sessions": progress.sessions,
        }
        write_record(run, results, progress.history, provenance)
        checkpoint.unlink(missing_ok=True)
        _failure(run).unlink(missing_ok=True)
        return f"{results['test_top1']:.2f}% in {duration(progress.seconds)}"
    finally:
        lock.release()


def _provenance(device: torch.device, threads: int, how: str) -> dict:
    from . import __version__

    return {
        "fredist": __version__,
        "revision": _revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "device_type": device.type,
        "device": device_name(device, threads),
        "threads": threads,
        "compiled": False,
        "packed": 1,
        "how": how,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _revision() -> str | None:
    """Return the checkout's commit, with a plus where the source differs from it."""
    try:
        git = ["git", "-C", str(paths.ROOT)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "fredist"], capture_output=True, text=True
        )
    except OSError:
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")


def _failure(run: Run):
    return paths.unfinished_folder() / f"{run.name}.failed.json"


def _record_failure(run: Run) -> str:
    path = _failure(run)
    content = {"run": describe(run), "traceback": traceback.format_exc()}
    paths.write_whole(path, json.dumps(content, indent=1) + "\n")
    return os.path.relpath(path)


_loaded: dict[str, ImageSet] = {}


def _load(dataset: str, download: bool = False) -> ImageSet:
    if dataset not in _loaded:
        _loaded[dataset] = load(dataset, download=download, progress=bar)
    return _loaded[dataset]


def _images(run: Run) -> ImageSet:
    return _load(run.dataset)


def _train_images(run: Run) -> int:
    images = _images(run)
    return run.reduction.images(len(images.train_labels), len(images.test_labels))[0]


def _macs(run: Run) -> int:
    with torch.device("meta"):
        return count_macs(build(run, "meta"), _images(run).image_size)


def _step_seconds(run: Run, device: torch.device, repeats: int = 2) -> float:
    size, batch = _images(run).image_size, run.recipe.batch_size
    with numerics(run.recipe, device):
        model = build(run, device).train()
        optimizer = make_optimizer(model, run.recipe)
        x = torch.randn(batch, 3, size, size, device=device)
        y = torch.zeros(batch, dtype=torch.long, device=device)
        for step in range(1 + repeats):
            if step == 1:  # after one to warm up
                _synchronize(device)
                start = time.perf_counter()
            train_step(model, optimizer, x, y, run.recipe)
        _synchronize(device)
    return (time.perf_counter() - start) / repeats


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _say(shown, line: str) -> None:
    if is_plain():
        print(line, flush=True)
    else:
        shown.write(line)
