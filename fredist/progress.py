"""How long work shows that it moves: a bar for people, plain lines for logs."""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

PLAIN = "FREDIST_PLAIN"  # set where output is a log: lines, no bar


def is_plain() -> bool:
    """Return whether bars are off: in an executed notebook or a file, not in JupyterLab."""
    shell = sys.modules.get("IPython")  # only a kernel, or IPython itself, has a shell in it
    interactive = sys.stdout.isatty() or (shell is not None and shell.get_ipython() is not None)
    return bool(os.environ.get(PLAIN)) or not interactive


def bar(
    iterable: Iterable | None = None, total: int | None = None, label: str = "", **options
) -> tqdm:
    """Return a progress bar on standard output, whose label says what it counts.

    Examples
    --------
    >>> list(bar([1, 2], label="shards"))
    [1, 2]
    """
    width, height = shutil.get_terminal_size((90, 24))  # some terminals say 0, and show nothing
    options = {"ncols": width, "nrows": height, "leave": False, "disable": is_plain()} | options
    return tqdm(iterable, label, total, file=sys.stdout, **options)


def say(line: str) -> None:
    """Print a line at once, above a bar where one is shown."""
    with tqdm.external_write_mode():
        print(line, flush=True)


def duration(seconds: float) -> str:
    """Return a duration in the unit a person would use.

    Examples
    --------
    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10.0 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def readable(path: Path) -> str:
    """Return a path as it is found from here: relative below this folder, else absolute."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
