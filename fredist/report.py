"""A table as text, Markdown and LaTeX, and where its numbers come from, for any terminal.

Markdown and LaTeX are written here: pandas' own need a package each, and escape no caption.
"""

import codecs
import sys
import textwrap
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pandas as pd

from .paper import Choices, choose
from .paths import figures_folder, write_whole
from .recipes import differences
from .records import Store

LIKE = {"macs": "equal MACs", "params": "equal parameters"}  # what an equal cost is called
_PLAIN = {"–": "-", "—": "-", "−": "-", "×": "x", "’": "'", "…": "..."}
_LATEX = {c: f"\\{c}" for c in "&%#_${}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "–": "--", "×": r"$\times$", "*": r"\textasteriskcentered{}",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Table:
    """A table, which a notebook shows as one and a terminal as lines of at most 100 characters."""

    name: str
    caption: str
    note: str  # where the numbers come from, and what stays open
    frame: pd.DataFrame  # the numbers, for a CSV
    grid: pd.DataFrame  # their text; rows of one level or two; columns "Template" are the paper's

    def __repr__(self) -> str:
        return to_text(self)

    def _repr_markdown_(self) -> str:
        return to_markdown(self)

    def rows(self) -> list[list[str]]:
        """Return the header and the rows; what a block of rows has in common stands once."""
        grid = self.grid.reset_index()
        first = grid.columns[0]
        grid[first] = grid[first].mask(grid[first].duplicated(), "")
        names = [name or "" for name in self.grid.index.names]
        return [[*names, *self.grid.columns], *grid.to_numpy().tolist()]


def to_text(table: Table) -> str:
    """Return a table as lines for a terminal: of the paper's layout, one for each network."""
    grid = table.grid
    if grid.columns.name == "Template" and len(grid):
        grid = pd.concat({block: grid.loc[block].T for block in grid.index.unique(0)})
    grid = grid.rename_axis(index=[None] * grid.index.nlevels, columns=None)
    said = [textwrap.fill(text, 88) for text in (f"{table.name}. {table.caption}", table.note)]
    lines = "\n".join([*said, "", grid.to_string(line_width=100)]).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def to_markdown(table: Table) -> str:
    """Return a table in the paper's layout as Markdown."""
    header, *rows = table.rows()
    lines = ["| " + " | ".join(map(_markdown, row)) + " |" for row in (header, *rows)]
    lines.insert(1, "|" + " --- |" * len(header))
    said = [f"**{table.name}.** {_markdown(table.caption)}", "\n".join(lines)]
    return "\n\n".join([*said, _markdown(table.note)]) + "\n"


def _markdown(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_|<$~" else c for c in text)


def to_latex(table: Table) -> str:
    r"""Return a table in the paper's layout as LaTeX; it needs booktabs and adjustbox."""
    header, *rows = (" & ".join(map(_latex, row)) + r" \\" for row in table.rows())
    rows = [rf"\addlinespace {row}" if i and row[0] != " " else row for i, row in enumerate(rows)]
    body = "\n".join([header, r"\midrule", *rows])
    return rf"""\begin{{table*}}\centering
\caption{{{_latex(table.caption)}}}
\begin{{adjustbox}}{{max width=\textwidth}}
\begin{{tabular}}{{{"l" * table.grid.index.nlevels}{"c" * len(table.grid.columns)}}}\toprule
{body}
\bottomrule\end{{tabular}}\end{{adjustbox}}

\smallskip\parbox{{\textwidth}}{{\footnotesize {_latex(table.note)}}}
\end{{table*}}
"""


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c) or plain(c) for c in text)


def plain(text: str, encoding: str = "ascii") -> str:
    """Return text with a plain character for each that an encoding lacks."""
    return text.encode(encoding, "fredist.plain").decode(encoding)


def _nearest(error: UnicodeEncodeError) -> tuple[str, int]:
    c = error.object[error.start]
    near = unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
    return _PLAIN.get(c) or near or "?", error.start + 1


codecs.register_error("fredist.plain", _nearest)


def say_text(text: object, file: TextIO | None = None) -> None:
    """Print a table or other text to a terminal of any encoding."""
    file = file or sys.stdout
    print(plain(str(text), getattr(file, "encoding", None) or "utf-8"), file=file, flush=True)


def provenance(choices: Choices, frame: pd.DataFrame, dataset: str) -> str:
    """Return where a data set's accuracies come from, and how they are not the paper's.

    Examples
    --------
    >>> from fredist.results import collect
    >>> chosen = choose("table1", "smoke", datasets="cifar10")
    >>> provenance(chosen, collect(chosen, Store([])), "cifar10").split(".")[0]
    "Profile smoke (a few minutes' rehearsal): 0 of 20 runs"
    """
    profile = choices.profile
    part = frame.query("dataset == @dataset and quantity == 'top1_last'")
    devices = sorted(set("; ".join(part["device"]).split("; ")) - {""})
    trained = f", trained on {' and '.join(devices)}" if devices else ""
    runs = f"{part['n'].sum()} of {part['of'].sum()} runs"
    said = [f"Profile {choices.profile_name} ({profile.label}): {runs}{trained}."]
    if dataset == "digits":
        said.append(
            "The images are scikit-learn's digits, none of the paper's sets, never flipped."
        )
    for kind in choices.experiment.kinds:
        where = f", at {LIKE[kind]}" if kind in choices.experiment.like else ""
        chosen = choices.models, choices.templates, choices.seeds
        if changes := differences(profile, kind, *chosen):
            said.append(f"Unlike the author's released code{where}: {'; '.join(changes)}.")
    deterministic = "Training is deterministic, which the author's is not."
    said.append(deterministic if profile.protocol else "Not the paper's protocol.")
    if low := (part["value"] < part["chance"]).sum():
        mark = " (grey)" if choices.experiment.curves else " (*)" * (not choices.experiment.like)
        trained = (part["n"] > 0).sum()
        said.append(f"{low} of {trained} networks are at chance{mark}: they say nothing.")
    return " ".join(said)


def best_profile(name: str, dataset: str, store: Store, profiles: Sequence[str]) -> str | None:
    """Return the first profile that has all of an experiment's runs of a data set at seed 0.

    Of several budgets one that is whole is enough.
    """
    for profile in profiles:
        choices, found = choose(name, profile, datasets=dataset, seeds=[0]), defaultdict(list)
        runs = choices.runs(store, making=False)
        for cell, run in zip(choices.cells(), runs, strict=True):
            found[cell.like].append(store.find(run))
        if any(map(all, found.values())):
            return profile
    return None


def save(tables: Sequence[Table], choices: Choices, folder: Path | None = None) -> list[Path]:
    """Write tables as one `.csv`, `.md` and `.tex` into the profile's folder; return the paths."""
    pages = {"md": "\n".join(map(to_markdown, tables)), "tex": "\n".join(map(to_latex, tables))}
    return write_all(choices, pd.concat([table.frame for table in tables]), pages, folder)


def write_all(
    choices: Choices, frame: pd.DataFrame, files: Mapping, folder: Path | None
) -> list[Path]:
    """Write a frame as CSV, and files by suffix, named by what was chosen; return the paths."""
    csv = frame.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    folder, paths = folder or figures_folder() / choices.profile_name, []
    for kind, content in {"csv": csv, **files}.items():
        # A part of an experiment has a suffix of its own: it never overwrites the whole.
        paths.append(folder / f"{choices.name}{choices.suffix}.{kind}")
        write_whole(paths[-1], content)
    return paths
