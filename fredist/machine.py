"""One rule for all of a user's processes on a machine: nothing is timed while a run trains.

It holds in both directions and across folders of runs, by locks that the system frees with their
owner, so that a lock file left by a dead process holds up nobody.
"""

import errno
import functools
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from pathlib import Path

import filelock

from .paths import folder, unfinished_folder
from .progress import say

_PATIENCE = 0.5  # seconds for which it is not said that one waits


@contextmanager
def training(deadline: float = inf, tell: Callable[[str], None] = say) -> Iterator[None]:
    """Hold off timings on this machine for the time of a training run; many may train at once.

    Waits while something is timed, until `deadline` (as `time.monotonic()`), and `tell`s so.
    Raises `filelock.Timeout` once that has passed.

    Examples
    --------
    >>> with training():
    ...     pass  # one run
    """
    path = _folder() / f"training-{uuid.uuid4().hex}.lock"
    with ExitStack() as held:
        with holding(_gate(), "a timing to end before training", deadline, tell):
            held.enter_context(holding(path))
        held.callback(path.unlink, missing_ok=True)
        yield


@contextmanager
def timing(deadline: float = inf, tell: Callable[[str], None] = say) -> Iterator[None]:
    """Hold off training runs on this machine, those under way awaited, for the time of a timing.

    Waits and raises as `training` does; a deadline of 0 asks whether the machine is free. Not
    inside `training()` of the same process: it would wait for itself.
    """
    tell = functools.cache(tell)  # each line once, however many are awaited
    with holding(_gate(), "another timing to end before timing", deadline, tell):
        for path in _folder().glob("training-*.lock"):  # no more of them while the gate is held
            with holding(path, "a training run to end before timing", deadline, tell):
                path.unlink(missing_ok=True)  # its owner is done, or has died
        yield


@contextmanager
def holding(
    path: Path, awaited: str = "", deadline: float = inf, tell: Callable[[str], None] = say
) -> Iterator[None]:
    """Hold a lock file, waiting for who else does until the deadline; then `filelock.Timeout`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, mode=0o666)  # for all who share a folder, whatever their umask
    left = max(0.0, deadline - time.monotonic())
    try:
        lock.acquire(timeout=min(left, _PATIENCE))
    except filelock.Timeout:
        if left <= _PATIENCE:
            raise
        tell(f"waiting for {awaited}")
        lock.acquire(timeout=-1 if left == inf else left - _PATIENCE)
    try:
        # What filelock falls back on outlives a dead owner.
        if isinstance(lock, filelock.SoftFileLock):
            raise OSError(errno.ENOSYS, "no locks of the system there", str(path))
        yield
    finally:
        lock.release()


def check_folders() -> None:
    """Raise an error unless files can be made and locked where jobs and this rule need it."""
    places = {"FREDIST_RUNS": unfinished_folder, "FREDIST_LOCKS": _folder}
    for variable, place in places.items():
        try:
            with holding(path := place() / f"{uuid.uuid4().hex}.lock"):
                path.unlink()
        except (OSError, NotImplementedError) as error:
            raise RuntimeError(
                f"expected a folder where files can be made and locked as {variable}, got {error}: "
                f"let {variable} name another"
            ) from error


def _gate() -> Path:
    """The lock that a timing holds, and that each training passes on its way in."""
    return _folder() / "timing.lock"


def _folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "locks"  # elsewhere that one is the user's
    place = folder("FREDIST_LOCKS", lambda: Path(tempfile.gettempdir()) / f"fredist-{user}")
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place
