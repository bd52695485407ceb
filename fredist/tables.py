"""The paper's tables: pivots of `results.collect`, each number beside the one published."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import product

import pandas as pd

from . import networks
from .data import DATASETS
from .networks import FAMILIES
from .paper import OWN_DATASETS, Choices
from .recipes import PROFILES
from .report import Table, best_profile, provenance, save, say_text  # noqa: F401 - for notebooks
from .runs import COMPUTED
from .templates import TEMPLATES

TEMPLATE_LABELS: Mapping[str, str] = {
    template: template.replace("_", "-").title() for template in TEMPLATES
} | {"reverse": "Reverse-Base"}
DASH = "–"
_LOST = "? where the paper's text can be read in more than one way"
_MARKS = f"{_LOST}, * where guessing would do as well"
_SHOWN = "in percent, mean [min–max] (n runs)"
_TABLE_1 = (
    f"Top-1 test accuracy on {{}} {_SHOWN}: after the last epoch; at each run's best, selected on "
    "the test set, which is the paper's practice; and published{}, "
    f"very likely so too ({_MARKS})."
)
_TABLE_2 = (
    f"Accuracy on {{}} {_SHOWN}: on training images without augmentation at the best epoch, very "
    "likely what the paper printed as validation accuracy{}; and on validation images after the "
    f"last. Printed millions are truncated; VGG-19 has a 7x7 head ({_MARKS})."
)
# Of each part of Table 3 the caption, and what stays open.
_COUNTS = "Parameters with 10 classes; MACs of one 32x32 image", "Counted exactly."
_MEMORY = (
    "Memory in GB (10^9 bytes) at a batch of 64 32x32 images; the code's reading is what CUDA has "
    "reserved after one pass of batch 2 in training mode; what was not measured has no row",
    "Open: the captions say a batch of 64, but the author's code reads the reserved memory after "
    "one pass of batch 2; and MobileNet's base, 2.5 GB, is more than either explains.",
)
_TIME = (
    "Inference time in ms per batch of 32x32 images: the code's way is the mean over a test set, "
    "by an unsynchronised clock; synchronised times are medians [quartiles]; the bound is the "
    "MACs' time at the device's fastest rate; what was not measured has no row",
    "Open: the captions say a batch of 64, the author's code times batches of 16. On the paper's "
    "Titan X Pascal (11 TFLOPS) ResNet-50 reverse would need 190 ms at 64, or over 100 with the "
    "fewest multiplications that its 3x3 convolutions can do with: not all printed times are "
    "synchronised ones at 64.",
)
_COMPUTED = "Computed, not measured: a pass's tensors at their peak, not what operations need."
_DEPARTURES = (
    "The six of the paper's twenty networks that its equations do not give: filters of the layers "
    "that a template sees, and parameters with 10 classes. Tables and figures show the published."
)


def table1(choices: Choices, frame: pd.DataFrame) -> list[Table]:
    """Return Table 1, top-1 test accuracy, one table for each data set.

    Examples
    --------
    >>> from fredist import paper, results
    >>> chosen = paper.choose("table1", "smoke", datasets="cifar10")
    >>> [table] = table1(chosen, results.collect(chosen))
    >>> table.grid.loc[("VGG-19", "published"), "Quadratic"]
    '94.18?'
    """
    rows = {
        "last epoch": ("top1_last", "ours", 2),
        "best epoch, by the test set": ("top1_best", "ours", 2),
        "published": ("top1_best", "published", 2),
    }
    return _accuracies("Table 1", _TABLE_1, rows, choices, frame)


def table2(choices: Choices, frame: pd.DataFrame) -> list[Table]:
    """Return Table 2, accuracy on training and validation images, one table for each data set.

    Examples
    --------
    >>> from fredist import paper, results
    >>> chosen = paper.choose("table2", "paper")
    >>> [table] = table2(chosen, results.collect(chosen))
    >>> table.grid.loc["VGG-19"]["Uniform"].tolist()[-2:]
    ['19,367,056', '19.3']
    """
    rows = {
        "training images, best epoch": ("train_top1_best", "ours", 2),
        "published accuracy": ("train_top1_best", "published", 2),
        "validation top-1": ("top1_last", "ours", 2),
        "validation top-5": ("top5_last", "ours", 2),
        "parameters at full width": ("params_millions", "ours", 6),
        "published millions": ("params_millions", "published", 1),
    }
    return _accuracies("Table 2", _TABLE_2, rows, choices, frame)


def _accuracies(name, caption, rows, choices, frame) -> list[Table]:
    tables = []
    for dataset in choices.datasets:
        part = frame[frame["dataset"] == dataset]
        # Beside the digits or a subset stand the printed numbers of the paper's first data set.
        first = DATASETS[choices.experiment.datasets[0]].label
        other = "" if dataset in OWN_DATASETS else f" (on {first})"
        said = caption.format(DATASETS[dataset].label, other)
        note = provenance(choices, frame, dataset)
        tables.append(Table(name, said, note, part, _layout(choices, part, rows)))
    return tables


def table3(choices: Choices, frame: pd.DataFrame) -> list[Table]:
    """Return Table 3 in three: parameters and MACs, memory, and inference time.

    Examples
    --------
    >>> from fredist import paper, results
    >>> chosen = paper.choose("table3", "smoke")
    >>> parameters, memory, time = table3(chosen, results.collect(chosen))
    >>> parameters.grid.loc["VGG-19"]["Base"].tolist()
    ['20,035,018', '20.0', '0.40']
    """
    counts = {
        "parameters": ("params_millions", "ours", 6),
        "published": ("params_millions", "published", 1),
        "GMACs, one image": ("gmacs", "ours", 2),
    }
    memory = {
        "published": ("memory_code_gb", "published", 1),
        "the code's reading": ("memory_code_gb", "ours", 2),
    }
    for how, code in (("allocated",) * 2, ("reserved",) * 2, ("computed", "tensors")):
        for pass_ in ("inference", "training"):
            memory[f"{pass_}, {how}"] = (f"memory_{pass_}_{code}_gb", "ours", 3)
    time = {
        "published": ("time_code_16_ms", "published", 1),
        "the code's way, 16": ("time_code_16_ms", "ours", 2),
        "its first pass, 16": ("time_first_16_ms", "ours", 1),
    }
    for batch in (16, 64):
        time[f"synchronised, {batch}"] = (f"time_synchronised_{batch}_ms", "ours", 2)
        time[f"bound, {batch}"] = (f"time_bound_{batch}_ms", "ours", 2)
    tables = []
    for rows, (caption, note) in ((counts, _COUNTS), (memory, _MEMORY), (time, _TIME)):
        part = frame[frame["quantity"].isin([quantity for quantity, *_ in rows.values()])]
        known = part[(part["kind"] != "published") & part["value"].notna()]
        there = set(known["quantity"])
        rows = {k: v for k, v in rows.items() if v[1] == "published" or v[0] in there}
        if not {"params_millions", "memory_code_gb", "time_code_16_ms"} & there:
            note = f"Nothing here was taken as the published numbers were. {note}"
        if devices := " and ".join(sorted(set(known["device"]) - {""})):
            note = f"{_COMPUTED if devices == COMPUTED else f'Measured on {devices}.'} {note}"
        said = f"{caption} ({_LOST})."
        tables.append(Table("Table 3", said, note, part, _layout(choices, part, rows)))
    return tables


def _layout(choices: Choices, frame: pd.DataFrame, rows: Mapping[str, tuple]) -> pd.DataFrame:
    """Return the paper's layout: of each network the given rows, a column for each template.

    `rows` are, by label, a quantity, whether "ours" or "published", and the digits shown.
    """
    found = {
        (row.model, row.width, row.template, row.quantity, row.kind == "published"): row
        for row in frame.itertuples()
    }
    cells = {}
    for model, width in product(choices.models, choices.widths):
        block = FAMILIES[model].label + (f" × {width:g}" if width != 1 else "")
        for label, (quantity, source, digits) in rows.items():
            keys = [(model, width, t, quantity, source != "ours") for t in choices.templates]
            cells[block, label] = [_cell(found.get(key), digits) for key in keys]
    columns = pd.Index(map(TEMPLATE_LABELS.get, choices.templates), name="Template")
    return _grid(cells, columns, ["Model", None])


def _grid(cells: Mapping[tuple, list], columns: Sequence[str], names: list) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(cells, names=names)
    return pd.DataFrame(cells.values(), index, columns)


def _cell(row, digits: int) -> str:
    """Return a number as text; 6 digits of millions are shown as units."""
    if row is None or pd.isna(row.value):
        return DASH
    if digits == 6:
        return f"{round(row.value * 1e6):,}"
    marks = "*" * (row.value < row.chance) + "?" * row.doubtful
    between = f" [{row.low:,.{digits}f}–{row.high:,.{digits}f}]" if row.low < row.high else ""
    n = f"{row.n} of {row.of}" if row.n != row.of else row.n
    return f"{row.value:,.{digits}f}{marks}{between}" + (f" ({n})" if row.kind == "trained" else "")


def recipes(choices: Choices) -> pd.DataFrame:
    """Return the author's recipe for CIFAR and, beside it, each model's on each set.

    Examples
    --------
    >>> from fredist.paper import choose
    >>> recipes(choose("table1", "smoke", datasets="digits", models="vgg19")).loc["epochs"].tolist()
    [160, 8]
    """
    columns = {"the author's": asdict(PROFILES["paper"].cifar.recipe)}
    for cell in choices.cells():
        words = filter(None, (cell.model, cell.dataset, cell.like))
        columns.setdefault(", ".join(words), asdict(choices.run(cell, 0, fingerprint="").recipe))
    return pd.DataFrame(columns).rename_axis("field")


def departures() -> Table:
    """Return the six published networks that are not the equations' solution (NOTES, section 4).

    Examples
    --------
    >>> departures().grid.loc[("ResNet-50 Uniform", "published")].tolist()
    ['200 x4', '12,898,610']
    """
    frame, cells, notes = networks.departures(), {}, []
    for row in frame.to_dict("records"):
        name = f"{FAMILIES[row['model']].label} {TEMPLATE_LABELS[row['template']]}"
        for how in ("equations", "published"):
            network = networks.Network(row["model"], row[f"filters_{how}"])
            cells[name, how] = [_listed(network.layers()), f"{network.params:,}"]
        notes.append(f"{name}: {row['departure']}.")
    grid = _grid(cells, ["Filters", "Parameters"], ["Network", "Convention"])
    return Table("Departures", _DEPARTURES, " ".join(notes), frame, grid)


def _listed(layers: Sequence) -> str:
    """Return filters in few words: a list that is its own mirror image by its first half."""
    values = [f"{float(f):.4g}" for f in layers]
    if len(set(values)) == 1:
        return f"{values[0]} x{len(values)}"
    half = values[: -(-len(values) // 2)]
    return " ".join([*half, "and back"] if values == values[::-1] else values)


TABLES: Mapping[str, Callable] = {"table1": table1, "table2": table2, "table3": table3}
