"""Make what is missing, runs and measurements alike: each once, nothing lost, whatever fails."""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf
from pathlib import Path

import filelock
import torch

from . import machine
from .checks import check_number
from .data import DATASETS, load
from .device import choose_device, describe, device_name, named_device
from .estimate import in_order
from .measure import measure
from .paths import FULL, runs_folder, unfinished_folder, write_whole
from .progress import bar, duration, is_plain, readable, say
from .records import Record, RecordError, Store, heading, read_record, write_record
from .runs import COMPUTED, Measurement, Run
from .steps import OutOfTime
from .train import read_checkpoint, train
from .workers import Failure, attempt, share

Job = Run | Measurement
_OWN = re.compile(r"\.?([a-z0-9]+)-([a-z_]+-)?([0-9a-f]{12})[-.]")  # model and id of a job's files
_ENDINGS = (".pt.damaged", ".failed.json", ".lock")  # of no use once there is a record
# Without a rate or the time that is left: epochs take unequal time, and the longest are first.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
_QUIET = 60.0  # seconds without a line after which a log gets one at the end of an epoch


@dataclass(frozen=True)
class Outcome:
    """What came of the jobs asked for: those not made, left or failed had a record before.

    Time was up for those `left`; `failed` has a job in words and why, with the traceback's path.

    Examples
    --------
    >>> make([])
    Outcome(asked=0, made=0, left=0, failed={})
    """

    asked: int
    made: int
    left: int
    failed: dict[str, str]


def make(
    jobs: Iterable[Job],
    *,
    device: str | torch.device | None = None,
    minutes: float | None = None,
    download: bool = False,
    remeasure: bool = False,
    how: str = "fredist.jobs.make",
) -> Outcome:
    """Make the runs and measurements that have no record yet, and return what came of them.

    Measurements first, the smallest first and those computed before those measured; then runs,
    seeds in order and of each the longest first; last what failed before, or ended its process. On
    a CPU each core trains a run (as many as `torch.get_num_threads()`). Nothing is timed while a
    run trains on this machine. Processes and machines with one folder of records divide the jobs:
    what another makes is waited for at the end. What fails is named, its traceback kept beside the
    records, and the others go on; only a device, folders or a disk that cannot be used are errors.
    After a Ctrl-C the next call continues.

    Parameters
    ----------
    device : str or torch.device, optional
        Where runs train, by default CUDA where there is one; then a record of any kind of device
        will do. If it is given, a record must have been trained on that kind at least in part; a
        checkpoint of another kind is continued. A measurement names its own device.
    minutes : float, optional
        A limit: what is not finished in time is left, and continues at the next call.
    download, remeasure : bool
        Fetch missing data sets, without which runs fail; make measurements that have a record.
    how : str
        What the records say made them.
    """
    limit = inf if minutes is None else 60 * check_number("minutes", minutes, above=True)
    deadline = time.monotonic() + limit
    kind = None if device is None else named_device(device).type
    clean()
    jobs, failed = list(dict.fromkeys(jobs)), {}
    chosen = cache(lambda: choose_device(device))  # where nothing is trained, none is needed
    left = _missing(jobs, kind, download, remeasure, failed, chosen)
    total, unfit = len(left), len(failed)
    runs, processes = [job for job in left if isinstance(job, Run)], 1
    if left:
        machine.check_folders()
    if runs:
        device = chosen()
        processes = min(torch.get_num_threads(), len(runs)) if device.type == "cpu" else 1
        runs = in_order(runs, left, device, processes, deadline)
    measured = sorted((job for job in left if isinstance(job, Measurement)), key=left.get)
    parts = (
        ([job for job in measured if job.device == COMPUTED], 1, nullcontext),
        ([job for job in measured if job.device != COMPUTED], 1, partial(machine.timing, deadline)),
        (runs, processes, nullcontext),
    )
    work = partial(
        _make_one, device=device, kind=kind, deadline=deadline, remeasure=remeasure, how=how
    )
    # First those that nobody else is making, before what has failed, which may kill this process.
    for again, wait in ((False, False), (True, False), (True, True)):
        for part, at_once, rule in parts:
            todo = [job for job in part if job in left]
            todo = [job for job in todo if again or not _beside(job, ".failed.json").exists()]
            if todo and time.monotonic() < deadline:
                with suppress(filelock.Timeout), rule():  # time is up while others are timed
                    own = partial(work, wait=wait, alone=at_once == 1)
                    _share(todo, own, at_once, left, failed, total, device)
    if left:
        print(f"time is up: {len(left)} of {total} left; call again to continue", flush=True)
    made = total - len(left) - (len(failed) - unfit)
    same = Counter(map(str, failed))  # words that are several jobs'
    words = {f"{job} ({job.id})" if same[str(job)] > 1 else str(job): failed[job] for job in failed}
    return Outcome(len(jobs), made, len(left), words)


def _check(device: str | torch.device | None, failure: str) -> None:
    """Refuse to go on with a GPU that is lost or a disk that is full: all others would fail."""
    kept = "what is done is kept, and the same command continues once"
    if re.search(rf"\[Errno ({'|'.join(map(str, FULL))})\]", failure):
        raise RuntimeError(f"the disk is full; {kept} there is room: {failure}")
    try:
        with suppress(torch.OutOfMemoryError):  # others fill it, who may end: the run's own failure
            choose_device(device)
    except RuntimeError as error:
        raise RuntimeError(f"the device was lost; {kept} it is back: {error.__cause__}") from error


def clean() -> None:
    """Remove what dead processes and finished jobs have left, and nothing of a live one's.

    All is removed under its job's lock, which a live process holds. Once there is a record the lock
    file goes, too: two processes may then hold a lock of one job, the old file's and a new one's,
    and each looks for the record first. A checkpoint stays until there is a record of each kind of
    device that it was trained on.
    """
    files = defaultdict(list)
    for path in (*unfinished_folder().glob("*"), *runs_folder().glob(".*.tmp")):
        if match := _OWN.match(path.name):
            files[match[1], match[3]].append(path)
    for (model, identity), paths in files.items():
        if not _recorded(identity) and all(path.suffix != ".tmp" for path in paths):
            continue
        lock = unfinished_folder() / f"{model}-{identity}.lock"
        with suppress(OSError, MemoryError), machine.holding(lock, deadline=0):
            kinds = {kind for path in paths if path.suffix == ".pt" for kind in _progress(path)[1]}
            done = all(_recorded(identity, kind) for kind in (None, *kinds))
            for path in (*paths, lock):
                if path.name.endswith((".tmp", ".pt", *_ENDINGS) if done else ".tmp"):
                    path.unlink(missing_ok=True)


def _progress(checkpoint: Path) -> tuple[int, set[str]]:
    """Return the epochs of a checkpoint and their kinds of device: none if it is damaged."""
    try:
        state = read_checkpoint(checkpoint)
        return len(state["history"]["loss"]), {one["device_type"] for one in state["sessions"]}
    except (OSError, MemoryError):  # it may well be read at another time
        raise
    except Exception:  # whatever is wrong with it
        return 0, set()


def _missing(
    jobs: list[Job], kind, download: bool, remeasure: bool, failed: dict, chosen: Callable
) -> dict[Job, int]:
    """Return the jobs to make and their MACs; those that cannot be begun are named in `failed`."""
    sizes, store = {}, Store()

    @cache  # once for all runs on a set, also where it is not to be had
    def fingerprint(dataset: str) -> str | Failure:
        found = attempt(lambda: load(dataset, download=download, progress=bar).fingerprint)
        if isinstance(found, Failure):
            print(found.error, flush=True)  # whole: it says where one was looked for
        return found

    for job in jobs:
        if isinstance(job, Run) and job.fingerprint is None:  # it is known once the data are there
            found = fingerprint(job.dataset)
            job = job if isinstance(found, Failure) else replace(job, fingerprint=found)
        found = store.find(job, kind)
        if found and not (remeasure and isinstance(job, Measurement)):
            continue
        size = None
        if isinstance(job, Run):
            chosen()  # before data are fetched for it
            size = fingerprint(job.dataset)
        size = size if isinstance(size, Failure) else attempt(_size, job)
        if isinstance(size, Failure):
            failed[job] = _record_failure(job, size)
            print(f"{job}: {failed[job]}", flush=True)
        else:
            sizes[job] = size
    return sizes


def _size(job: Job) -> int:
    """Return the MACs left of a job; what cannot be built, or have a record, fails here."""
    heading(job)
    if isinstance(job, Measurement):
        return job.network.macs(job.image_size) * job.batch
    images = (3 + job.recipe.evaluate_train) * job.train_images + job.test_images  # 3: backward too
    epochs = job.recipe.epochs
    with suppress(OSError, MemoryError):  # mostly there is none; others will fail the run itself
        epochs -= _progress(_beside(job, ".pt"))[0]
    return job.network.macs(DATASETS[job.dataset].size) * images * epochs


def _share(jobs, work, processes: int, left: dict, failed: dict, total: int, device) -> None:
    """Make jobs of one kind: take from `left` those made or failed, and say so."""
    is_run = isinstance(jobs[0], Run)
    whole = {job: job.recipe.epochs if is_run else 1 for job in jobs}
    counted, spoken = dict.fromkeys(jobs, 0), time.monotonic()

    def news(job: Job, news: int | str) -> None:
        """Take a line, or a number of finished epochs."""
        nonlocal spoken
        if is_epoch := not isinstance(news, str):
            shown.update(news - counted[job])
            counted[job], news = news, f"{job}, {news} of {whole[job]} epochs"
            shown.set_postfix_str(news)
        if not is_epoch or (is_plain() and time.monotonic() > spoken + _QUIET):
            say(news)
            spoken = time.monotonic()

    label = "epochs" if is_run else "measurements"
    shown = bar(total=sum(whole.values()), label=label, bar_format=_BAR)
    with shown, closing(share(jobs, work, processes, news)) as outcomes:
        for job, outcome in outcomes:
            if outcome is None:
                continue  # another process has it, or time is up
            if isinstance(outcome, Failure):
                outcome = failed[job] = _record_failure(job, outcome)
            del left[job]
            shown.update(whole[job] - counted[job])
            news(job, f"[{total - len(left)}/{total}] {job}: {outcome}")
            if job in failed:
                _check(device, outcome)


def _make_one(
    job: Job, report: Callable, *, device, kind, deadline, wait: bool, alone: bool, remeasure, how
) -> str | None:
    """Make one job under its lock; None where time is up, or (without `wait`) others have it."""
    if time.monotonic() >= deadline:
        return None
    lock, awaited = _beside(job, ".lock"), f"another process to make {job}"
    try:
        with machine.holding(lock, awaited, deadline if wait else 0.0, report):
            record = _recorded(job.id, kind)
            if record and not (remeasure and isinstance(job, Measurement)):
                said = f"{_words(record.results)} (made by another process)"
            else:
                with _marked(job) if alone else nullcontext():
                    said = _make_it(job, report, device, kind, deadline, how)
            for ending in _ENDINGS:  # the lock, too: see `clean`
                _beside(job, ending).unlink(missing_ok=True)
            return said
    except (OutOfTime, filelock.Timeout):
        return None


@contextmanager
def _marked(job: Job) -> Iterator[None]:
    """Name a job as failed while it is made: one that kills this process is last the next time."""
    path = _beside(job, ".failed.json")
    if new := not path.exists():
        write_whole(path, json.dumps({"job": str(job), "error": "its process ended meanwhile"}))
    try:
        yield
    finally:
        if new:
            path.unlink(missing_ok=True)


def _make_it(job: Job, report: Callable, device, kind, deadline: float, how: str) -> str:
    """Make a job's record, and return its result in words."""
    if isinstance(job, Measurement):
        made = _measure(job)
    else:
        options = {"checkpoint": _beside(job, ".pt"), "deadline": deadline, "on_epoch": report}
        with machine.training(deadline, report):
            made = train(job, load(job.dataset), device, **options)
    record = write_record(job, *made[:2], {"sessions": made[2], "how": how})
    _beside(job, ".pt").unlink(missing_ok=True)
    if not record.counts(kind):  # its checkpoint was finished on another kind of device: anew
        return _make_it(job, report, device, kind, deadline, how)
    return _words(made[0])


def _measure(job: Measurement) -> tuple[dict, dict, list[dict]]:
    """Return results, history and sessions, as `train` does."""
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    named = (device for device in devices if device_name(device) == job.device)
    device = next(named, torch.device("cpu"))  # if it is neither, `measure` says so
    start, results = time.monotonic(), measure(job, device)
    return results, {}, [describe(device) | {"seconds": round(time.monotonic() - start, 3)}]


def _words(results: dict[str, float]) -> str:
    if "top1_last" in results:
        return f"{results['top1_last']:.2f}% in {duration(results['seconds'])}"
    shown = ("allocated", "mean", "median", "reserved", "tensor")  # of each method one comes first
    name = next(name for name in sorted(results) if name.startswith(shown))
    return f"{name.replace('_', ' ')} {results[name]:,.5g}"


def _recorded(identity: str, kind: str | None = None) -> Record | None:
    """Return a record of the user's own of that kind of device, without reading all others."""
    for path in runs_folder().glob(f"*-{identity}-*.json"):
        with suppress(RecordError):
            if (record := read_record(path)).counts(kind):
                return record
    return None


def _beside(job: Job, ending: str) -> Path:
    """Return the path of a job's file, which equal jobs share whatever their labels are."""
    return unfinished_folder() / f"{job.network.model}-{job.id}{ending}"


def _record_failure(job: Job, failure: Failure) -> str:
    """Keep a failure's traceback and return the failure in a sentence."""
    path, said = _beside(job, ".failed.json"), failure.error.partition("\n")[0].rstrip(" :")
    if isinstance(job, Run) and job.fingerprint is None:
        return f"failed with {said}"  # of its data, with which it is another run
    content = {"job": str(job), "error": failure.error, "traceback": failure.traceback}
    try:
        # Not while another process has the job by now, which then says what becomes of it.
        with machine.holding(_beside(job, ".lock"), deadline=0):
            write_whole(path, json.dumps(content, indent=1) + "\n")
    except (OSError, filelock.Timeout) as error:
        return f"failed with {said}; its traceback was not kept: {error}"
    return f"failed with {said}; its traceback: {readable(path)}"
