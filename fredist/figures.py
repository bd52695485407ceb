"""The paper's figures: filters per layer (1 and 5), accuracy against cost (2 to 4), and budgets."""

import math
import re
import textwrap
from itertools import product
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from .checks import check_choice
from .data import DATASETS
from .networks import FAMILIES
from .paper import Choices
from .report import LIKE, write_all
from .results import KEYS, gains
from .runs import COMPUTED
from .style import COLUMN_WIDTH, SMALL, TEMPLATE_LOOKS, TEXT_WIDTH, Picture, applied, as_bytes
from .tables import TEMPLATE_LABELS

# Of each cost the quantities that can be an axis, the best first, and what the axis says.
COSTS = {
    "parameters": {"params_millions": "Parameters (millions)"},
    "memory": {
        "memory_training_allocated_gb": "Memory of a training step at batch 64, allocated (GB)",
        "memory_training_tensors_gb": "Memory of a training step at batch 64, computed (GB)",
    },
    "time": {
        "time_synchronised_64_ms": "Inference time of a batch of 64, synchronised (ms)",
        "time_synchronised_16_ms": "Inference time of a batch of 16, synchronised (ms)",
    },
}
_ON_CPU = re.compile(r", \d+ threads?$")  # how a frame names a CPU that was measured
_GREY = {"color": "0.55", "markerfacecolor": "white", "linestyle": "none", "label": "at chance"}
_DASHED = {"color": "0.45", "linewidth": 0.6, "linestyle": (0, (4, 3)), "zorder": 1}


def filters_per_layer(choices: Choices) -> pd.DataFrame:
    """Return the filters of every layer of the paper's networks, one row each: nothing is trained.

    An Inception module whose sizes differ counts by their mean.

    Examples
    --------
    >>> from fredist.paper import choose
    >>> frame = filters_per_layer(choose("figure1", "paper"))
    >>> frame.query("template == 'quadratic'")["filters"].tolist()[:8]
    [512.0, 445.0, 387.0, 339.0, 301.0, 272.0, 253.0, 243.0]
    """
    rows = [
        (cell.model, cell.template, cell.width, layer, float(filters))
        for cell in choices.cells()
        for layer, filters in enumerate(choices.network(cell).layers(), 1)
    ]
    return pd.DataFrame(rows, columns=["model", "template", "width", "layer", "filters"])


def distributions(frame: pd.DataFrame) -> Figure:
    """Return Figure 1 or 5: filters per layer, a panel for each model and width.

    Examples
    --------
    >>> from fredist.paper import choose
    >>> figure = distributions(filters_per_layer(choose("figure5", "paper")))
    >>> [axis.get_title() for axis in figure.axes]
    ['VGG-19', 'ResNet-50', 'Inception', 'MobileNet']
    """
    parts = list(frame.groupby(["model", "width"], sort=False))
    columns = min(len(parts), 2)
    rows = -(-len(parts) // columns)
    with applied():
        figure = Picture((COLUMN_WIDTH, 2.4 if len(parts) == 1 else 0.25 + 1.4 * rows))
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axis, ((model, width), part) in zip(panels.flat, parts, strict=False):
            _plot(axis, part, "layer", "filters")
            template, filters = next(iter(part.groupby("template", sort=False)["filters"]))
            said = f"{TEMPLATE_LABELS[template]}: {filters.sum():g} filters, as published"
            _title(axis, said, model, width=width)
            ticks = range(1, len(filters) + 1, -(-len(filters) // 6))
            axis.set(xlabel=FAMILIES[model].layer, xticks=ticks)
        for axis in panels.flat[len(parts) :]:
            axis.remove()
        for axis in panels[:, 0]:
            axis.set(ylabel="Filters", ylim=(0, None))
        _legend(figure, 3)
    return figure


def points(frame: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Return the points of Figure 2, 3 or 4: each network's accuracy and its cost, a row each.

    Columns `x`, `x_low`, `x_high` are the cost, `quantity` says which and `x_device` where it was
    measured; it is one for the whole figure. NaN is a network not trained, or not measured.

    Examples
    --------
    >>> from fredist import paper, results
    >>> frame = results.collect(paper.choose("figure2", "smoke", datasets="cifar10"))
    >>> points(frame, "parameters")[["width", "x"]].head(2).to_dict("list")
    {'width': [1.0, 0.5], 'x': [0.079318, 0.020116]}
    """
    check_choice("cost", cost, COSTS)
    ours = frame[frame["kind"] != "published"]
    there = [q for q in COSTS[cost] if ours.loc[ours["quantity"] == q, "value"].notna().any()]
    quantity = (there or list(COSTS[cost]))[0]
    names = {"value": "x", "low": "x_low", "high": "x_high", "device": "x_device"}
    costs = ours[ours["quantity"] == quantity].rename(columns=names)[[*KEYS, *names.values()]]
    accuracies = ours[ours["quantity"] == "top1_last"].assign(quantity=quantity)
    return accuracies.merge(costs, how="left", on=KEYS)


def beside_original(frame: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Return what each network gains over the base at width 1.0, and the part of its cost it takes.

    Only networks trained with a seed that the base has, too: mean test `accuracy` in percent,
    `gain` in points, `n` and `of` as in `results.gains`, and a column named as the cost.

    Examples
    --------
    >>> from fredist import paper, results
    >>> chosen = paper.choose("figure2", "smoke", datasets="cifar10", models="vgg19")
    >>> found = beside_original(results.collect(chosen), "parameters").query("template == 'base'")
    >>> found["parameters"].round(2).tolist()
    [0.25, 0.07]
    """
    own = points(frame, cost)[[*KEYS, "x", "value"]].rename(columns={"value": "accuracy"})
    base = own.query("template == 'base' and width == 1.0")[["dataset", "model", "like", "x"]]
    found = gains(frame, "top1_last").query("n > 0").merge(own, on=KEYS)
    found = found.merge(base, on=["dataset", "model", "like"], suffixes=["", "_base"])
    found[cost] = found["x"] / found["x_base"]
    return found.set_index(KEYS[:-1])[["accuracy", "gain", "n", "of", cost]]  # all but `like`


def curves(choices: Choices, frame: pd.DataFrame, cost: str) -> Figure:
    """Return Figure 2, 3 or 4: accuracy against parameters, memory or time, as `cost` says.

    A row of panels for each data set, a column for each model. A template's points are joined in
    the order of their cost; bars go from the smallest to the largest over seeds, of a time from
    quartile to quartile of its repeats; grey points are at chance; dashed lines cross at the base
    at width 1.0. What is missing, or noise, is said.

    Examples
    --------
    >>> from fredist import paper, results
    >>> chosen = paper.choose("figure2", "smoke", datasets="cifar10", models="vgg19")
    >>> curves(chosen, results.collect(chosen), "parameters").axes[0].get_title()
    'VGG-19, CIFAR-10'
    """
    data, models, datasets = points(frame, cost), choices.models, choices.datasets
    wide = len(models) > 2
    with applied():
        height = 2.7 if len(datasets) * len(models) == 1 else 0.55 + 1.55 * len(datasets)
        figure = Picture((TEXT_WIDTH if wide else COLUMN_WIDTH, height))
        shape = {"sharex": "col", "sharey": "row", "squeeze": False}
        panels = figure.subplots(len(datasets), len(models), **shape)
        for row, dataset in zip(panels, datasets, strict=True):
            for axis, model in zip(row, models, strict=True):
                part = data[(data["dataset"] == dataset) & (data["model"] == model)]
                _draw(axis, part)
                runs = f"{part['n'].sum()} of {part['of'].sum()} runs"
                said = f"{choices.profile_name}, {_widths(choices, model)}{runs}"
                _title(axis, said, model, dataset)
            row[0].set(ylabel="Accuracy (%)")
        for column in panels.T:
            drawn = any(axis.lines for axis in column)
            column[-1].xaxis.set_major_locator(MaxNLocator(4) if drawn else NullLocator())
        for row in panels:
            if not any(axis.lines for axis in row):  # nothing is on its scale
                row[0].yaxis.set_major_locator(NullLocator())
        devices = ", ".join(sorted(set(data["x_device"].dropna()) - {"", COMPUTED}))
        said = textwrap.wrap(devices, int(18 * figure.get_figwidth()))
        label = COSTS[cost][data["quantity"].iloc[0]]
        figure.supxlabel("\n".join([label, *said]), fontsize="medium")
        _legend(figure, 6 if wide else 3)
    return figure


def _draw(axis: Axes, part: pd.DataFrame) -> None:
    """Draw one panel: its curves and bars, and the cross at the base at width 1.0."""
    shown = part.dropna(subset=["value", "x"])
    missing = "no runs" if part["value"].isna().all() else "not measured" if shown.empty else ""
    if missing or _is_noise(shown):
        _say(axis, missing or "not drawn: most times\nat a width overlap")
        return
    _plot(axis, shown, "x", "value")
    color = shown["template"].map(lambda template: TEMPLATE_LOOKS[template]["color"])
    for bars, at, low, high in (
        (axis.vlines, "x", "low", "high"),
        (axis.hlines, "value", "x_low", "x_high"),
    ):
        part = shown[shown[low] < shown[high]]
        bars(part[at], part[low], part[high], [*color[part.index]], linewidth=0.8)
    _plot(axis, shown[shown["value"] < shown["chance"]], "x", "value", **_GREY)
    for row in shown.query("template == 'base' and width == 1.0").itertuples():
        axis.axvline(row.x, **_DASHED)
        axis.axhline(row.value, **_DASHED)


def contrasts(choices: Choices, found: pd.DataFrame) -> Figure:
    """Return the gains of `verdicts.contrasts`: filled what is decided, hollow what is not.

    A row of panels for each data set and budget, a column for each model. Solid bars are 95%
    intervals, dotted ones go from the smallest to the largest difference of too few seeds.

    Examples
    --------
    >>> from fredist import paper, results, verdicts
    >>> chosen = paper.choose("budget", "small", datasets="cifar10")
    >>> figure = contrasts(chosen, verdicts.contrasts(results.collect(chosen)))
    >>> [axis.get_title() for axis in figure.axes[:2]]
    ['VGG-19, CIFAR-10', 'MobileNet, CIFAR-10']
    """
    rows, models = list(product(choices.datasets, choices.experiment.like)), choices.models
    labels = [TEMPLATE_LABELS[template] for template in choices.templates if template != "base"]
    with applied():
        size = (TEXT_WIDTH if len(models) > 2 else COLUMN_WIDTH, 0.4 + 1.15 * len(rows))
        figure, shape = Picture(size), {"sharex": "col", "sharey": True, "squeeze": False}
        panels = figure.subplots(len(rows), len(models), **shape)
        for ((dataset, like), model), axis in zip(product(rows, models), panels.flat, strict=True):
            own = {"dataset": dataset, "like": like, "model": model}
            part = found[found[list(own)].eq(own).all(axis=1)]
            runs = f"{part['n'].sum()} of {part['of'].sum()} pairs"
            _title(axis, _widths(choices, model, like) + runs, model, dataset)
            if model == models[0]:
                axis.set_ylabel(LIKE[like])
            if not part["n"].any():
                base = "no pairs" if "base" in choices.templates else "no base to compare with"
                _say(axis, base if labels else "the base alone is chosen")
            for row in part[part["n"] > 0].itertuples():
                look = {**TEMPLATE_LOOKS[row.template], "markersize": 2.2}
                decided = {} if "undecided" not in row.verdict else {"markerfacecolor": "white"}
                place = labels.index(TEMPLATE_LABELS[row.template])
                bar = {"linestyle": ":" if math.isnan(row.p) else "-", "marker": "|"}
                axis.plot([row.low, row.high], [place] * 2, **look | bar | {"markersize": 4})
                axis.plot([row.gain], [place], **look | decided)
            axis.axvline(0, **_DASHED)
            axis.set_yticks(range(len(labels)), labels)
            axis.set_ylim(max(1, len(labels)) - 0.5, -0.5)
        for column in panels.T:
            if not any(len(axis.lines) > 1 for axis in column):
                column[-1].xaxis.set_major_locator(NullLocator())  # it has no scale
        said = [
            f"Gain over the base (points), profile {choices.profile_name}",
            "filled: decided, hollow: not; bars: 95% intervals,",
            "not corrected, or dotted the range of too few seeds",
        ]
        figure.supxlabel("\n".join(said), fontsize="medium")
    return figure


def epochs(choices: Choices, history: pd.DataFrame) -> Figure:
    """Return the mean test accuracy over epochs of `results.histories`.

    A panel for each model, at each width or budget, on each data set.

    Examples
    --------
    >>> from fredist.paper import choose
    >>> runs = {"dataset": "digits", "like": "", "model": "vgg19", "width": 1.0}
    >>> runs |= {"template": "base", "epoch": [1, 2, 1, 2], "test_top1": [20.0, 60.0, 30.0, 70.0]}
    >>> figure = epochs(choose("table1", "smoke", datasets="digits"), pd.DataFrame(runs))
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [25.0, 65.0]
    """
    own = history["width"].where(history["like"] == "", 1.0)  # at a budget each has its own
    parts = list(history.groupby(["dataset", "like", "model", own], sort=False))
    columns = min(2, max(1, len(parts)))
    rows = max(1, -(-len(parts) // columns))
    with applied():
        figure = Picture((COLUMN_WIDTH, 0.5 + 1.4 * rows))
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis, ((dataset, like, model, width), part) in zip(panels.flat, parts, strict=False):
            runs = part.groupby(["template", "epoch"], sort=False)["test_top1"]
            _plot(axis, runs.mean().reset_index(), "epoch", "test_top1", marker="")
            counts = dict.fromkeys([runs.size().min(), runs.size().max()])
            said = _widths(choices, model, like) + (f"{LIKE[like]}, " if like else "")
            _title(axis, f"{said}runs: {' to '.join(map(str, counts))}", model, dataset, width)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if not parts:
            _say(panels[0, 0], "no runs")
            panels[0, 0].set(xticks=[], yticks=[])
        for axis in panels.flat[max(1, len(parts)) :]:
            axis.remove()
        for axis in panels.flat[max(0, len(parts) - columns) : len(parts)]:
            axis.tick_params(labelbottom=True)  # the last in its column, if not in the last row
        figure.supxlabel(f"Epoch, profile {choices.profile_name}", fontsize="medium")
        figure.supylabel("Test accuracy (%), mean of runs", fontsize="medium")
        _legend(figure, 3)
    return figure


def _is_noise(shown: pd.DataFrame) -> bool:
    """Return whether a CPU's times order nothing: of most pairs at a width, the quartiles overlap.

    On CUDA equal times are results: small networks wait for their launches.
    """
    if not shown["x_device"].str.contains(_ON_CPU).any():
        return False
    pairs = shown.merge(shown, on="width").query("template_x < template_y")
    overlap = (pairs["x_low_x"] <= pairs["x_high_y"]) & (pairs["x_low_y"] <= pairs["x_high_x"])
    return bool(overlap.mean() > 0.5)


def _plot(axis: Axes, data: pd.DataFrame, x: str, y: str, **look) -> None:
    """Draw a line for each template, in its own look."""
    for template, part in data.groupby("template", sort=False):
        own = {**TEMPLATE_LOOKS[template], "label": TEMPLATE_LABELS[template]}
        part = part.sort_values(x)
        axis.plot(part[x], part[y], **own | look)


def _say(axis: Axes, words: str) -> None:
    """Write in the middle of a panel why nothing is drawn there."""
    axis.text(0.5, 0.5, words, transform=axis.transAxes, ha="center", va="center")


def _widths(choices: Choices, model: str, like: str = "") -> str:
    """Return how the profile narrows a model, for the words below a title."""
    factor = choices.setting(like).width_factor(model)
    return f"widths × {factor:g}, " if factor != 1 else ""


def _title(axis: Axes, below: str, model: str, dataset: str = "", width: float = 1.0) -> None:
    """Name a panel; profile and runs stand in the picture, from which nobody can cut them off."""
    times = f" × {width:g}" if width != 1 else ""
    images = f", {DATASETS[dataset].label}" if dataset else ""
    axis.set_title(FAMILIES[model].label + times + images, pad=SMALL + 4)
    place = {"xy": (0.5, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
    axis.annotate(below, xytext=(0, 2), ha="center", va="bottom", fontsize=SMALL, **place)


def _legend(figure: Figure, columns: int) -> None:
    """Name what is drawn, each once, if there are several."""
    lines = {line.get_label(): line for axis in figure.axes for line in axis.lines}
    names = [name for name in (*TEMPLATE_LABELS.values(), "at chance") if name in lines]
    if len(names) > 1:
        handles = [lines[name] for name in names]
        figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def save(
    figure: Figure, choices: Choices, frame: pd.DataFrame, folder: Path | None = None
) -> list[Path]:
    """Write a figure as PDF and PNG, its frame as CSV, by what was chosen; return the paths."""
    # All is drawn before anything is written: an error leaves the earlier files as they were.
    pictures = {kind: as_bytes(figure, kind) for kind in ("pdf", "png")}
    return write_all(choices, frame, pictures, folder)
