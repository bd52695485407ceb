"""One rule for the whole machine: nothing is timed while a run trains, nor the other way round.

It holds across processes and folders of runs, by locks that the system frees with their owner.
"""

import getpass
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock


@contextmanager
def training() -> Iterator[None]:
    """Hold off timings on this machine for the time of a training run; many may train at once.

    Waits, with a line that says so, while something is timed.

    Examples
    --------
    >>> with training():
    ...     pass  # one run
    """
    own = filelock.FileLock(_folder() / f"training-{uuid.uuid4().hex}.lock")
    with _held(_gate(), "a timing to end before training"):
        own.acquire()
    try:
        yield
    finally:
        own.release()
        Path(own.lock_file).unlink(missing_ok=True)


@contextmanager
def timing() -> Iterator[None]:
    """Hold off training runs on this machine, those under way awaited, for the time of a timing.

    Not inside `training()` of the same process: it would wait for itself.
    """
    with _held(_gate(), "another timing to end before timing"):
        for path in _folder().glob("training-*.lock"):  # no more of them while the gate is held
            with _held(filelock.FileLock(path), "a training run to end before timing"):
                pass
            path.unlink(missing_ok=True)  # its owner is done, or has died
        yield


def _gate() -> filelock.FileLock:
    """The lock that a timing holds, and that each training passes on its way in."""
    return filelock.FileLock(_folder() / "timing.lock")


def _folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    shared = Path(tempfile.gettempdir()) / f"fredist-{user}"
    folder = Path(os.environ.get("FREDIST_LOCKS") or shared)  # tests have one of their own
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def _held(lock: filelock.FileLock, awaited: str) -> Iterator[None]:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"waiting for {awaited}", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
