"""Tables as text, Markdown and LaTeX, and the paper's own numbers to set beside them."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from . import paths
from .templates import TEMPLATES

TEMPLATE_LABELS = {
    "base": "Base",
    "reverse": "Reverse-Base",
    "uniform": "Uniform",
    "quadratic": "Quadratic",
    "negative_quadratic": "Negative-Quadratic",
}
DASH = "–"
INDENT = "\u2003"  # before the label of a further row of one network


@dataclass(frozen=True)
class Table:
    """A table: its numbers, and the same as text in two layouts.

    `frame` has one row for each network and every number: the CSV. `lines` has the same rows as
    text, for a terminal; `grid` is the paper's layout, a column for each template.
    """

    number: int
    caption: str
    note: str  # where the numbers come from
    frame: pd.DataFrame
    lines: pd.DataFrame
    grid: pd.DataFrame


def published(table: int) -> pd.DataFrame:
    """Return the paper's numbers of a table, one row each, doubtful ones marked.

    A number is doubtful where the paper's text lost a digit or its decimal point.

    Examples
    --------
    >>> published(1).query("model == 'vgg19' and template == 'quadratic'").value.tolist()
    [94.18, 73.55]
    """
    wide = pd.read_csv(paths.PUBLISHED / f"table{table}.csv")
    keys = [column for column in wide.columns if column not in TEMPLATES]
    long = wide.melt(keys, list(TEMPLATES), "template", "value")
    doubtful = pd.read_csv(paths.PUBLISHED / "doubtful.csv").query("table == @table")
    on = [column for column in ("dataset", "model", "template") if column in long.columns]
    if "quantity" in long.columns and "dataset" not in long.columns:
        on.append("quantity")
    marked = long.merge(doubtful[on].assign(doubtful=True), how="left", on=on)
    return marked.assign(doubtful=marked["doubtful"].eq(True))


def number(value: float | None, digits: int = 2, doubtful: bool = False) -> str:
    """Return a number as text, a dash for none; doubtful ones of the paper have a mark.

    Examples
    --------
    >>> number(94.18, doubtful=True), number(None)
    ('94.18?', '–')
    """
    return DASH if pd.isna(value) else f"{value:,.{digits}f}{'?' if doubtful else ''}"


def spread(mean, low, high, n: int, digits: int = 2) -> str:
    """Return a mean with its range and number of runs.

    Examples
    --------
    >>> spread(50, 40, 60, 3), spread(50, 50, 50, 1)
    ('50.00 [40.00–60.00] (3)', '50.00 (1)')
    """
    if not n:
        return DASH
    between = f" [{low:.{digits}f}{DASH}{high:.{digits}f}]" if n > 1 else ""
    return f"{mean:.{digits}f}{between} ({n})"


def to_text(table: Table) -> str:
    """Return a table as plain lines of at most 100 characters, one network each."""
    lines = table.lines.astype(str)
    widths = [max(map(len, [name, *lines[name]])) for name in lines.columns]

    def line(cells):
        # The first two columns name the network; numbers stand right.
        pairs = enumerate(zip(cells, widths, strict=True))
        return "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in pairs).rstrip()

    rows = [line(row) for row in lines.itertuples(index=False)]
    said = [*textwrap.wrap(table.caption, 88), *textwrap.wrap(table.note, 88)]
    return "\n".join([*said, "", line(lines.columns), *rows])


def to_markdown(table: Table) -> str:
    """Return a table in the paper's layout as Markdown."""
    header = [table.grid.index.name, *table.grid.columns]
    rows = [[label, *cells] for label, *cells in table.grid.itertuples()]
    body = "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])
    return f"**Table {table.number}.** {table.caption}\n\n{body}\n\n{table.note}\n"


def to_latex(table: Table) -> str:
    r"""Return a table in the paper's layout as LaTeX; it needs booktabs and adjustbox."""
    header = [table.grid.index.name, *table.grid.columns]
    rows = [[label, *cells] for label, *cells in table.grid.itertuples()]
    first, *rest = (" & ".join(map(escape, row)) + r" \\" for row in [header, *rows])
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{escape(table.caption)}}}",
            r"\begin{adjustbox}{max width=\textwidth}",
            rf"\begin{{tabular}}{{l{'c' * len(table.grid.columns)}}}",
            r"\toprule",
            first,
            r"\midrule",
            *rest,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{adjustbox}",
            "",
            rf"\smallskip\parbox{{\textwidth}}{{\footnotesize {escape(table.note)}}}",
            r"\end{table*}",
            "",
        ]
    )


def save(tables: Sequence[Table], name: str, folder: Path) -> None:
    """Write tables as `<name>.csv`, `.md` and `.tex` into a folder, each whole or not at all."""
    frame = pd.concat([table.frame for table in tables])
    paths.write_whole(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.4f"))
    paths.write_whole(folder / f"{name}.md", "\n".join(map(to_markdown, tables)))
    paths.write_whole(folder / f"{name}.tex", "\n".join(map(to_latex, tables)))


def picture(table: Table, path: Path) -> None:
    """Draw the text of a table as a PNG."""
    import matplotlib.pyplot as plt  # slow to import, and needed here only

    text = to_text(table)
    rows = text.count("\n") + 1
    figure = plt.figure(figsize=(8.2, 0.18 * rows + 0.3), dpi=150)
    figure.text(0.02, 0.98, text, family="monospace", fontsize=8.5, va="top")
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    paths.write_whole(path, buffer.getvalue())


def escape(text: str) -> str:
    r"""Return text as LaTeX.

    Examples
    --------
    >>> escape("45% of 1–2")
    '45\\% of 1--2'
    """
    for character in "&%#_$":
        text = text.replace(character, f"\\{character}")
    for character, latex in {
        DASH: "--",
        "·": r"\textperiodcentered{}",
        "×": r"$\times$",
        INDENT: r"\quad ",
    }.items():
        text = text.replace(character, latex)
    return text.replace("<", r"$<$").replace(">", r"$>$").replace("^", r"\textasciicircum{}")
