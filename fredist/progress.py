"""How long work shows that it moves: a bar for people, plain lines for logs."""

import os
import sys
from collections.abc import Iterable

from tqdm import tqdm

PLAIN = "FREDIST_PLAIN"  # set where output is a log: no bar, one line per finished run


def is_plain() -> bool:
    """Return whether bars are off: in an executed notebook or a file, not in JupyterLab."""
    shell = sys.modules.get("IPython")  # only a kernel, or IPython itself, has a shell in it
    interactive = sys.stdout.isatty() or (shell is not None and shell.get_ipython() is not None)
    return bool(os.environ.get(PLAIN)) or not interactive


def bar(iterable: Iterable | None = None, total: int | None = None, label: str = "") -> tqdm:
    """Return a progress bar on standard output (notebooks keep their standard error empty).

    Examples
    --------
    >>> list(bar([1, 2], label="silent where it is not read"))
    [1, 2]
    """
    return tqdm(iterable, label, total, leave=False, file=sys.stdout, disable=is_plain(), ncols=90)


def say(shown: tqdm, line: str) -> None:
    """Print a line where a bar is shown, or a plain one."""
    if is_plain():
        print(line, flush=True)
    else:
        shown.write(line)


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
