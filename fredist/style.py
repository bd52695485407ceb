"""The one style of every figure, and the one way to save them: the same bytes on every call.

Sizes fit a two-column paper set in 9 to 10 points. The text's font is one that Matplotlib brings.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import matplotlib.style
import seaborn
from cycler import cycler
from matplotlib.figure import Figure

from . import paths
from .report import TEMPLATE_LABELS

if TYPE_CHECKING:
    import pandas as pd

COLUMN_WIDTH = 3.25  # inches
TEXT_WIDTH = 6.75
DPI = 300

STYLE: Mapping[str, object] = MappingProxyType(
    {
        "font.family": "DejaVu Sans",  # a large x-height: 7 points read like 8 of a paper's text
        "font.size": 7,
        "axes.titlesize": 7,
        "axes.labelsize": 7,
        "xtick.labelsize": 6.5,
        "ytick.labelsize": 6.5,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "legend.handlelength": 2.5,  # a whole period of every line style
        "legend.handletextpad": 0.4,
        "legend.columnspacing": 0.8,
        "legend.borderpad": 0.2,
        "axes.titlepad": 3,
        "axes.labelpad": 2,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.formatter.useoffset": False,
        "axes.prop_cycle": cycler(color=["black"]),  # colours are the templates'
        "grid.color": "0.9",
        "grid.linewidth": 0.4,
        "lines.linewidth": 1.0,
        "lines.markersize": 3.2,
        "lines.markeredgewidth": 0.7,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2,
        "ytick.major.size": 2,
        "xtick.major.pad": 2,
        "ytick.major.pad": 2,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.03,
        "figure.constrained_layout.w_pad": 0.03,
        "savefig.dpi": DPI,
        "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    }
)


@dataclass(frozen=True)
class TemplateStyle:
    """How a template looks in every figure, apart from all others by each of the first three."""

    color: tuple[float, float, float]
    marker: str
    linestyle: tuple[int, tuple[float, ...]]
    label: str


# Four that also differ in lightness; the palette's orange is too near its vermilion.
_BLUE, _, _GREEN, _VERMILION, *_, _SKY = seaborn.color_palette("colorblind")
_LOOKS = {
    "base": ((0.0, 0.0, 0.0), "o", ()),
    "reverse": (_BLUE, "s", (5, 1.5)),
    "uniform": (_VERMILION, "D", (5, 1.5, 1, 1.5)),
    # The markers point the way their parabolas do.
    "quadratic": (_GREEN, "v", (1, 1)),
    "negative_quadratic": (_SKY, "^", (2.5, 1)),
}
TEMPLATE_STYLES: Mapping[str, TemplateStyle] = MappingProxyType(
    {
        template: TemplateStyle(color, marker, (0, dashes), TEMPLATE_LABELS[template])
        for template, (color, marker, dashes) in _LOOKS.items()
    }
)


@contextmanager
def applied() -> Iterator[None]:
    """Apply the style inside a `with`, on Matplotlib's defaults rather than the user's settings.

    Examples
    --------
    >>> with applied():
    ...     matplotlib.rcParams["pdf.fonttype"]
    42
    """
    with matplotlib.style.context(["default", dict(STYLE)]):
        yield


def save(
    figure: Figure, name: str, folder: Path, frame: "pd.DataFrame | None" = None
) -> list[Path]:
    """Write `<name>.pdf` and `<name>.png`, and a frame as `<name>.csv`; return their paths.

    Each file appears only complete. Without dates and versions in them, equal figures are equal
    files.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in save(Figure(), "empty", Path(folder))]
    ['empty.pdf', 'empty.png']
    """
    metadata = {
        "pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")),
        "png": {"Software": None},
    }
    contents: dict[str, str | bytes] = {}
    with applied():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # constrained layout would move a little at each drawing
        for kind, nothing in metadata.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=nothing)
            contents[kind] = buffer.getvalue()
    if frame is not None:
        contents["csv"] = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    written = []
    for kind, content in contents.items():
        written.append(folder / f"{name}.{kind}")
        paths.write_whole(written[-1], content)
    return written
