"""The claims' notebook: what it says of records that are all there, in part, or apart by seed."""

import json
from functools import cache
from statistics import mean
from unittest.mock import Mock

import pytest

from fredist import results
from fredist.paths import NOTEBOOKS
from fredist.records import Store
from fredist.templates import TEMPLATES

BASES = {"vgg19": 93.0, "resnet50": 94.0, "inception": 96.0, "mobilenet": 90.0}
MODELS = "VGG and MobileNet improve more than ResNet and Inception"
UNIFORM = "uniform has the best parameter efficiency for all models"
EQUAL = "surpass the original accuracy at the original parameters"


@cache
def of_nothing(choices, collect=results.collect):
    return collect(choices, Store([]))


@pytest.fixture
def said(monkeypatch, tmp_path):
    """Return a function that gives what our records say of each claim, by each row's accuracies."""

    def execute(accuracies, profile="paper", datasets=("cifar10", "cifar100")):
        def collect(choices, store=None):
            frame = of_nothing(choices).copy()
            ours = frame[(frame.quantity == "top1_best") & (frame.kind == "trained")]
            seeds = {row.Index: found for row in ours.itertuples() if (found := accuracies(row))}
            for name, of in {"value": mean, "low": min, "high": max, "n": len}.items():
                frame.loc[list(seeds), name] = [of(values) for values in seeds.values()]
            for i, values in seeds.items():
                frame.at[i, "seeds"] = dict(enumerate(values))
            return frame

        monkeypatch.setattr(results, "collect", collect)
        monkeypatch.setenv("FREDIST_FIGURES", str(tmp_path))
        namespace = {"display": Mock()}  # IPython's
        for cell in json.loads((NOTEBOOKS / "claims.ipynb").read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), namespace)
            if "parameters" in cell["metadata"].get("tags", ()):
                namespace |= {"profile": profile, "datasets": list(datasets)}
        monkeypatch.undo()
        return namespace["verdicts"].set_index("claim")["by our records"]

    return execute


def accuracy(row):
    """Three equal seeds: the templates gain a point or less, the sequential models twice that."""
    gain = TEMPLATES.index(row.template) / 10 if row.template != "uniform" else 1
    more = 2 if row.model in ("vgg19", "mobilenet") else 1
    return [BASES[row.model] + more * gain - 10 * (1.6 - row.width)] * 3


def test_records_that_are_all_there_decide(said):
    found = said(accuracy)
    assert (
        found["models surpass the base accuracy (the best template of each)"]
        == "holds: 1.00 points"
    )
    assert found["ResNet is more accurate than VGG"] == "holds: 1.00 points"
    assert found[MODELS] == "holds: 1.00 points"
    assert found[EQUAL].startswith("holds: ")
    assert found[UNIFORM].startswith("holds: ")


def test_what_a_claim_is_of_and_is_not_there_is_not_yet_measured(said):
    """A model, a data set or a template: no claim of it holds, and those without it do."""
    named = {"Inception has the highest accuracy of all base models", MODELS, EQUAL, UNIFORM}
    named |= {"models surpass the base accuracy (the best template of each)"}
    partial = said(lambda row: accuracy(row) if row.model != "inception" else None)
    assert partial["ResNet is more accurate than VGG"] == "holds: 1.00 points"
    one = said(accuracy, datasets=["cifar10"])
    assert one["VGG, ResNet and MobileNet improve on CIFAR-10 when templates are applied"] != (
        "not yet measured"
    )
    for found in (partial, one, said(lambda row: accuracy(row) if row.width == 0.05 else None)):
        for claim in named:
            assert found[claim].startswith("not yet measured"), claim


def test_the_best_template_is_known_once_all_are(said):
    found = said(lambda row: accuracy(row) if row.template != "quadratic" else None)
    for claim in ("models surpass the base accuracy (the best template of each)", EQUAL, UNIFORM):
        assert found[claim].startswith("not yet measured"), claim


def test_a_curve_is_not_read_outside_its_points(said):
    # No width above 1.0: the largest of MobileNet's reverse has fewer parameters than the base.
    assert said(accuracy, profile="smoke")[EQUAL] == "not yet measured"


def test_ranges_over_seeds_reach_every_group_of_claims(said):
    def apart(row):
        middle, apart = accuracy(row)[0], 2 if row.template == "base" else -2
        return [middle - apart, middle, middle + apart]

    found = said(apart)
    for claim in ("ResNet is more accurate than VGG", MODELS, EQUAL, UNIFORM):
        assert found[claim].startswith("inconclusive"), found[claim]


def test_changes_without_a_sign_go_down_to_zero(said):
    def around(row):
        return [BASES[row.model] + (d if row.template == "reverse" else 0) for d in (-6, 0.2, 6.1)]

    found = said(around)
    assert found["variation less than 5%, in points"].startswith("inconclusive")
