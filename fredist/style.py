"""The one style of every figure, and the one way to save them: the same bytes on every call.

Seaborn's, with sizes for a two-column paper set in 9 to 10 points.
"""

import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType

import matplotlib.style
import seaborn
from matplotlib.figure import Figure

COLUMN_WIDTH, TEXT_WIDTH = 3.25, 6.75  # inches
DPI = 300
SCREEN_DPI = 150  # of what a page shows
SMALL = 5  # points: what stands under a panel's title

STYLE: Mapping[str, object] = MappingProxyType(
    seaborn.axes_style("whitegrid")
    | seaborn.plotting_context("paper", font_scale=0.73)  # 7 points
    | {
        "font.family": "DejaVu Sans",  # Matplotlib brings it: the same on every machine
        "legend.frameon": False,
        "legend.handlelength": 2.5,  # a whole period of every line style
        "legend.columnspacing": 1,
        "axes.linewidth": 0.6,
        "axes.formatter.useoffset": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": "0.9",
        "grid.linewidth": 0.4,
        "lines.linewidth": 1.0,
        "lines.markersize": 3.2,
        "figure.constrained_layout.use": True,
        "xtick.major.size": 0,  # of ticks that the grid stands for
        "ytick.major.size": 0,
        "savefig.dpi": DPI,
        "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    }
)
# Each template differs from all others by colour, marker and line style, and the colours in
# lightness too, for grey print. The parabolas' markers point the way they do.
_BLUE, _, _GREEN, _ORANGE, *_, _SKY = seaborn.color_palette("colorblind").as_hex()
TEMPLATE_LOOKS: Mapping[str, Mapping[str, object]] = {
    "base": {"color": "#000000", "marker": "o", "linestyle": "-"},
    "reverse": {"color": _BLUE, "marker": "s", "linestyle": (0, (5, 1.5))},
    "uniform": {"color": _ORANGE, "marker": "D", "linestyle": (0, (5, 1.5, 1, 1.5))},
    "quadratic": {"color": _GREEN, "marker": "v", "linestyle": (0, (1, 1))},
    "negative_quadratic": {"color": _SKY, "marker": "^", "linestyle": (0, (2.5, 1))},
}


def applied() -> AbstractContextManager:
    """Apply the style inside a `with`, on Matplotlib's defaults rather than the user's settings."""
    return matplotlib.style.context(["default", dict(STYLE)])


class Picture(Figure):
    """A figure that a notebook shows, whether or not a backend of Matplotlib's does so."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with applied():
            self.savefig(buffer, format="png", dpi=SCREEN_DPI, metadata={"Software": None})
        return buffer.getvalue()


def as_bytes(figure: Figure, kind: str) -> bytes:
    """Return a figure as a PDF or PNG without dates and versions: equal figures, equal bytes."""
    dates = {"pdf": dict.fromkeys(("Creator", "Producer", "CreationDate"))}
    buffer = io.BytesIO()
    with applied():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # constrained layout would move a little at each drawing
        figure.savefig(buffer, format=kind, metadata=dates.get(kind, {"Software": None}))
    return buffer.getvalue()
