"""Where things are, and the one way to write a file."""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PUBLISHED = PACKAGE / "published"  # the paper's networks and numbers
ROOT = PACKAGE.parent  # the checkout, where there is one
NOTEBOOKS = ROOT / "notebooks"
RESULTS = ROOT / "results"  # shipped records
FULL = errno.ENOSPC, errno.EDQUOT  # errors of a disk, or of a user's part of it, that is full


def in_checkout() -> bool:
    """Return whether fredist runs from its checkout rather than installed as a wheel."""
    # A project of the user's, with a copy of the package in it, may have notebooks of its own.
    return (ROOT / "pyproject.toml").is_file() and (NOTEBOOKS / "table1.ipynb").is_file()


def need_checkout(what: str) -> None:
    """Raise an error that names the way out, unless there is a checkout for `what` to work on."""
    if not in_checkout():
        raise RuntimeError(
            f"expected a checkout of fredist for {what}, got an installed package without "
            "notebooks: clone the repository and run it there; create_model, compare and training "
            "work without"
        )


def folder(variable: str, default: Callable[[], Path]) -> Path:
    """Return the folder that an environment variable names, else the default.

    One rule for all of fredist's folders: `~` is the user's home, and a relative name is made
    absolute at the first reading, for this process and its children (notebooks run elsewhere).
    It is made, with its parents, when something is written into it.

    Examples
    --------
    >>> folder("FREDIST_NOWHERE", lambda: Path("/tmp/default")).as_posix()
    '/tmp/default'
    """
    if not os.environ.get(variable):
        return default().absolute()
    path = _expand(variable, os.environ[variable]).absolute()
    os.environ[variable] = str(path)
    return path


def _expand(variable: str, named: str) -> Path:
    try:
        return Path(named).expanduser()
    except RuntimeError:  # a user who is not known, or has no home
        raise RuntimeError(
            f"expected a folder as {variable}, got {named!r}, a home that is not known: let "
            f"{variable} name a folder in full"
        ) from None


def _home(variable: str, usual: str) -> Path:
    named = os.environ.get(variable, "")
    # A relative one would be another folder in each notebook: the XDG specification ignores it.
    return _expand(variable, named if named.startswith(("/", "~")) else usual) / "fredist"


def cache_folder() -> Path:
    """Return FREDIST_CACHE, by default in the user's cache: what can be made again."""
    return folder("FREDIST_CACHE", lambda: _home("XDG_CACHE_HOME", "~/.cache"))


def data_folder() -> Path:
    """Return FREDIST_DATA, by default in the user's cache: the data sets."""
    return folder("FREDIST_DATA", lambda: cache_folder() / "data")


def runs_folder() -> Path:
    """Return FREDIST_RUNS, the user's own records: by default the checkout's `runs/`."""
    if in_checkout():
        return folder("FREDIST_RUNS", lambda: ROOT / "runs")
    return folder("FREDIST_RUNS", lambda: _home("XDG_DATA_HOME", "~/.local/share") / "runs")


def unfinished_folder() -> Path:
    """Return the folder of checkpoints, locks and failures, beside the records."""
    return runs_folder() / "unfinished"


def figures_folder() -> Path:
    """Return FREDIST_FIGURES: by default the checkout's `paper_figures/`."""
    return folder("FREDIST_FIGURES", lambda: (ROOT if in_checkout() else Path()) / "paper_figures")


def make_absolute() -> None:
    """Settle every folder that the environment names, before a child runs somewhere else."""
    for name in ("CACHE", "DATA", "RUNS", "FIGURES", "LOCKS"):
        folder(f"FREDIST_{name}", Path)


def clear(folder: Path) -> None:
    """Remove what `write_whole` left there when it was killed; what is being written is newer."""
    for path in folder.glob(f".*.{'[0-9a-f]' * 32}.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears only complete, whatever stops the process or the machine.

    Raises `OSError` naming the path; a full disk leaves what was there before.
    """
    data = content.encode() if isinstance(content, str) else content
    sibling = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(sibling, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves the name without the bytes
        os.replace(sibling, path)
        with contextlib.suppress(OSError):  # a system that opens or syncs no folders
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        hint = ": make room on the disk" if error.errno in FULL else ""
        said = f"{error.strerror}{hint}; nothing of it was kept"
        raise OSError(error.errno, said, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            sibling.unlink(missing_ok=True)
