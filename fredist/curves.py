"""Figures 2 to 4: the points of the curves, accuracy against what a network costs."""

import textwrap
from collections.abc import Sequence

import pandas as pd

from . import costs, experiments
from .data import DATASETS
from .measurements import Network
from .models import FAMILIES
from .report import DASH, TEMPLATE_LABELS
from .runs import Run, Store
from .tables import describe, provenance, sources, statistics


def points(
    profile: str, datasets: Sequence[str] | None = None, store: Store | None = None
) -> pd.DataFrame:
    """Return one row for each network and width: its accuracy over the seeds, and its parameters.

    Parameters are counted on the network as built, with the profile's width factor in it.

    Examples
    --------
    >>> frame = points("narrow", ["cifar10"], Store([]))
    >>> frame[["width", "params_millions", "n"]].head(2).to_dict("list")
    {'width': [1.6, 1.3], 'params_millions': [0.335227, 0.217914], 'n': [0, 0]}
    """
    return _frame(_runs(profile, datasets), profile, store)


def networks(profile: str, datasets: Sequence[str] | None = None) -> list[Network]:
    """Return the networks of `points`, row by row, to be measured.

    Examples
    --------
    >>> networks("narrow", ["cifar10"])[0].filters[:3]
    (8, 8, 16)
    """
    return [_network(run) for run in _runs(profile, datasets)]


def caption(frame: pd.DataFrame) -> str:
    """Return where the accuracies of points come from, a paragraph for each data set."""
    said = []
    for (profile, dataset), part in frame.groupby(["profile", "dataset"], sort=False):
        devices = [name for text in part["devices"] for name in text.split("; ") if name]
        expected = len(part) * len(experiments.get_profile(profile).seeds)
        text = provenance(profile, dataset, int(part["n"].sum()), expected, devices)
        said.append("\n".join(textwrap.wrap(f"{DATASETS[dataset].label}: {text}", 88)))
    return "\n\n".join(said)


def to_text(frame: pd.DataFrame, value: str, digits: int = 2) -> str:
    """Return a column of the points that have a record as text: a line for each curve.

    Examples
    --------
    >>> print(to_text(points("narrow", ["cifar10"], Store([])), "mean"))
    no runs
    """
    frame = frame[frame["n"] > 0]
    if frame.empty:
        return "no runs"
    wide = frame.assign(
        model=frame["model"].map({name: family.label for name, family in FAMILIES.items()}),
        template=frame["template"].map(TEMPLATE_LABELS),
    ).pivot_table(
        value, ["dataset", "model", "template"], "width", sort=False, observed=True, dropna=False
    )
    wide = wide.dropna(how="all").sort_index(axis=1, ascending=False)
    wide.columns = [f"x {width:g}" for width in wide.columns]
    text = wide.reset_index()
    for column in ("dataset", "model"):
        text[column] = text[column].where(text[column] != text[column].shift(), "")
    return text.to_string(index=False, na_rep=DASH, float_format=lambda v: f"{v:.{digits}f}")


def accuracies(
    profile: str,
    datasets: Sequence[str] | None = None,
    device: str | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """Return the points with their costs, and the networks as published: what claims are about.

    Memory is of a training step at a batch of 64. The digits are left out: no claim is about them.

    Examples
    --------
    >>> frame = accuracies("narrow", ["cifar10"], "a device", Store([]))
    >>> len(frame), int(frame["network"].eq("as published").sum())
    (162, 2)
    """
    store = Store() if store is None else store
    seeds = experiments.get_profile(profile).seeds[:1]
    published = [
        run
        for run in experiments.table1(profile, datasets, seeds=seeds)
        if run.convention == "published"
    ]
    runs = _runs(profile, datasets) + published
    sizes = [_network(run) for run in runs]
    frame = _frame(runs, profile, store).assign(
        memory_gb=costs.memory_gb(sizes, device, store=store),
        time_ms=costs.time_ms(sizes, device, store),
    )
    return frame[frame["dataset"] != "digits"]


def _frame(runs: Sequence[Run], profile: str, store: Store | None) -> pd.DataFrame:
    store = Store() if store is None else store
    rows = []
    for run in runs:
        found, params = store.replicates(run), _network(run).params
        rows.append(
            {
                **describe(run, profile),
                "params": params,
                "params_millions": params / 1e6,
                **statistics("", [record.results["test_top1"] for record in found.values()]),
                "n": len(found),
                **sources(found),
            }
        )
    return pd.DataFrame(rows)


def _network(run: Run) -> Network:
    size = DATASETS[run.dataset].size
    return Network(run.model, run.filters, run.options, run.num_classes, size)


def _runs(profile: str, datasets: Sequence[str] | None) -> list[Run]:
    return experiments.curves(profile, datasets, seeds=experiments.get_profile(profile).seeds[:1])
