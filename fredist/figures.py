"""The paper's figures: filters per layer (1 and 5), accuracy against cost (2 to 4)."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from .data import DATASETS
from .experiments import check_choices
from .models import FAMILIES, redistribute
from .style import COLUMN_WIDTH, TEMPLATE_STYLES, TEXT_WIDTH, applied
from .templates import CONVENTIONS, TEMPLATES, check_choice

# What a template's list counts in each network.
LAYERS = {
    "vgg19": "Convolution",
    "resnet50": "Stage",
    "inception": "Module (mean of its sizes)",
    "mobilenet": "Stem and blocks",
}


def filters_per_layer(
    models: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    width: float = 1.0,
) -> pd.DataFrame:
    """Return the filters of every layer of networks, one row each: exact, nothing is trained.

    By the equations, then as published where that is another network. An Inception module whose
    sizes differ counts by their mean.

    Examples
    --------
    >>> filters_per_layer(["resnet50"], ["quadratic"])["filters"].tolist()
    [416, 64, 64, 416]
    """
    rows = []
    for model in check_choices("model", models, FAMILIES):
        for template in check_choices("template", templates, TEMPLATES):
            previous = None
            for convention in CONVENTIONS:
                filters = redistribute(model, template, width, convention=convention)
                if filters != previous:
                    rows += [
                        (model, template, convention, layer, _mean(sizes))
                        for layer, sizes in enumerate(filters, 1)
                    ]
                previous = filters
    return pd.DataFrame(rows, columns=["model", "template", "convention", "layer", "filters"])


def to_text(frame: pd.DataFrame) -> str:
    """Return the frame of `filters_per_layer` as text: a column for each network, and its sum.

    Examples
    --------
    >>> print(to_text(filters_per_layer(["resnet50"], ["base", "reverse"])))
    layer  Base  Reverse-Base
        1    64           512
        2   128           256
        3   256           128
        4   512            64
      sum   960           960
    """
    several = frame["model"].nunique() > 1
    labels = [
        (f"{FAMILIES[row.model].label} " if several else "") + _label(row.template, row.convention)
        for row in frame.itertuples()
    ]
    wide = frame.assign(network=labels).pivot(index="layer", columns="network", values="filters")
    wide = wide[list(dict.fromkeys(labels))]
    wide = pd.concat([wide, wide.sum().to_frame("sum").T]).rename_axis("layer").reset_index()
    text = wide.to_string(index=False, na_rep="", float_format="{:g}".format)
    return "\n".join(line.rstrip() for line in text.splitlines())


def distributions(frame: pd.DataFrame) -> Figure:
    """Return Figure 1 or 5: filters per layer, one panel for each model of `filters_per_layer`.

    A network as published is a thin line with open markers beside the equations' one.

    Examples
    --------
    >>> figure = distributions(filters_per_layer(["vgg19", "resnet50"], ["base"]))
    >>> [axis.get_title() for axis in figure.axes]
    ['VGG-19', 'ResNet-50']
    """
    models = list(dict.fromkeys(frame["model"]))
    by = ["template", "convention"]
    columns = min(len(models), 2)
    rows = -(-len(models) // columns)
    with applied():
        figure = Figure(figsize=(COLUMN_WIDTH, 2.3 if rows * columns == 1 else 0.2 + 1.3 * rows))
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axis, model in zip(panels.flat, models, strict=False):
            part = frame[frame["model"] == model]
            for (template, convention), network in part.groupby(by, sort=False):
                axis.plot(network["layer"], network["filters"], **_look(template, convention))
            axis.set(title=FAMILIES[model].label, xlabel=LAYERS[model])
            axis.set_xticks(range(1, part["layer"].max() + 1, -(-part["layer"].max() // 6)))
        for axis in panels.flat[len(models) :]:
            axis.remove()
        for axis in panels[:, 0]:
            axis.set(ylabel="Filters")
        panels[0, 0].set_ylim(bottom=0)
        _legend(figure, list(dict.fromkeys(zip(*(frame[key] for key in by), strict=True))), 2)
    return figure


def curves(frame: pd.DataFrame, x: str, x_label: str, *, log: bool = False) -> Figure:
    """Return Figure 2, 3 or 4: accuracy against a cost, one curve per template over the widths.

    A row of panels for each data set, a column for each model. Bars go from the minimum to the
    maximum over seeds, where there are several; dashed lines cross at the unmodified model.

    Parameters
    ----------
    frame : DataFrame
        A row for each data set, model, template and width: columns `dataset`, `model`,
        `template`, `width`, `n`, `mean`, `min`, `max` (percent) and `x`. Rows without a record or
        without a cost are left out.
    x, x_label : str
        The column of the cost, and what the axis says.
    log : bool
        Logarithmic costs. The paper's axes are linear, where small widths crowd on the left.

    Examples
    --------
    >>> row = {"dataset": "cifar10", "model": "vgg19", "template": "base", "width": 1.0, "n": 1}
    >>> row |= {"mean": 93.5, "min": 93.5, "max": 93.5, "params_millions": 20.0}
    >>> figure = curves(pd.DataFrame([row]), "params_millions", "Parameters (millions)")
    >>> figure.axes[0].get_title()
    'VGG-19, CIFAR-10'
    """
    check_choice("column", x, tuple(frame.columns))
    datasets = [name for name in DATASETS if name in set(frame["dataset"])]
    models = [name for name in FAMILIES if name in set(frame["model"])]
    if not datasets or not models:
        raise ValueError("expected a row for each point, got an empty frame; n = 0 is no record")
    recorded = frame[frame["n"] > 0]
    points = recorded.dropna(subset=x)
    width = COLUMN_WIDTH if len(models) < 3 else TEXT_WIDTH
    height = 2.4 if len(datasets) * len(models) == 1 else 0.4 + 1.35 * len(datasets)
    with applied():
        figure = Figure(figsize=(width, height))
        panels = figure.subplots(len(datasets), len(models), sharex="col", squeeze=False)
        for row, dataset in zip(panels, datasets, strict=True):
            for axis, model in zip(row, models, strict=True):
                here = (recorded["dataset"] == dataset) & (recorded["model"] == model)
                _draw_curves(axis, recorded[here], x)
                axis.set(title=f"{FAMILIES[model].label}, {DATASETS[dataset].label}")
            row[0].set(ylabel="Accuracy (%)")
        for axis, model in zip(panels[-1], models, strict=True):
            costs = points.loc[points["model"] == model, x]
            if costs.empty:
                axis.set_xticks([])
            else:
                _cost_axis(axis, costs, x_label, log)
        drawn = [(name, "equations") for name in TEMPLATES if name in set(points["template"])]
        _legend(figure, drawn, 5 if width == TEXT_WIDTH else 3)
    return figure


def _draw_curves(axis: Axes, recorded: pd.DataFrame, x: str) -> None:
    """Draw one panel: its curves, their bars, and the cross at the unmodified model."""
    points = recorded.dropna(subset=x)
    if points.empty:
        missing = "no runs" if recorded.empty else "not measured"
        axis.text(0.5, 0.5, missing, transform=axis.transAxes, ha="center", va="center")
        axis.set_yticks([])
    for template in TEMPLATES:
        curve = points[points["template"] == template].sort_values(x)
        look = _look(template)
        axis.plot(curve[x], curve["mean"], **look)
        several = curve[curve["n"] > 1]
        axis.vlines(several[x], several["min"], several["max"], look["color"], linewidth=0.8)
    unmodified = points[(points["template"] == "base") & (points["width"] == 1.0)]
    dashed = {"color": "0.45", "linewidth": 0.6, "linestyle": (0, (4, 3)), "zorder": 1}
    for cost, accuracy in zip(unmodified[x], unmodified["mean"], strict=True):
        axis.axvline(cost, **dashed)
        axis.axhline(accuracy, **dashed)


def _cost_axis(axis: Axes, costs: pd.Series, label: str, log: bool) -> None:
    """Label a column of panels, with few and plain ticks."""
    axis.set(xlabel=label, xscale="log" if log else "linear")
    spread = costs.max() / costs.min()
    if log and spread > 10:
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if spread < 50 else (1,)))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())


def _legend(figure: Figure, networks: list[tuple[str, str]], columns: int) -> None:
    if len(networks) > 1:
        handles = [Line2D([], [], **_look(*network)) for network in networks]
        figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def _look(template: str, convention: str = "equations") -> dict:
    style = TEMPLATE_STYLES[template]
    look = {"color": style.color, "marker": style.marker, "linestyle": style.linestyle}
    if convention == "published":
        look |= {"linewidth": 0.5, "markerfacecolor": "white", "markeredgewidth": 0.5}
    return look | {"label": _label(template, convention)}


def _label(template: str, convention: str) -> str:
    label = TEMPLATE_STYLES[template].label
    return f"{label}, as published" if convention == "published" else label


def _mean(sizes: int | tuple[int, ...]) -> int | float:
    return sum(sizes) / len(sizes) if isinstance(sizes, tuple) else sizes
