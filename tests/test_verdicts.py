"""Verdicts: what may judge a claim, and what may not."""

import math

import pandas as pd
import pytest

from fredist.verdicts import judge, verdict


def cells(*values, kind="published", **columns):
    return pd.DataFrame({"gain": values, "kind": kind} | columns)


def above(bound):
    return lambda value: value > bound


@pytest.mark.parametrize(
    ("values", "some", "expected"),
    [
        ((1, 2), False, "holds"),
        ((1, -1), False, "fails"),
        ((1, -1), True, "holds"),
        ((-1, -2), True, "fails"),
        ((1, math.nan), False, "not yet measured"),
        ((-1, math.nan), False, "fails"),  # one that fails decides, whatever the others are
        ((1, math.nan), True, "holds"),
        ((math.nan,), False, "not yet measured"),
    ],
)
def test_a_claim_of_every_cell_and_of_some(values, some, expected):
    assert verdict(cells(*values), "gain", above(0), some) == expected


def trained(gain, low, high, n=3, profile="paper"):
    return cells(gain, kind="trained", low=low, high=high, n=n, profile=profile)


def test_ranges_decide_not_means():
    assert verdict(trained(1, 0.5, 1.5), "gain", above(0)) == "holds"
    assert verdict(trained(1, -0.5, 1.5), "gain", above(0)) == "inconclusive"
    assert verdict(trained(-1, -1.5, -0.5), "gain", above(0)) == "fails"


def test_fewer_than_three_seeds_decide_nothing():
    assert verdict(trained(1, 1, 1, n=2), "gain", above(0)) == "inconclusive"


def test_another_protocol_may_not_judge():
    assert (
        verdict(trained(1, 1, 1, profile="smoke"), "gain", above(0)) == "not the paper's protocol"
    )


@pytest.mark.parametrize(
    ("kind", "quantity", "decides"),
    [
        ("measured", "memory_code_gb", True),
        ("measured", "time_synchronised_1_ms", False),
        ("computed", "memory_training_tensors_gb", False),
        ("counted", "params_millions", True),
    ],
)
def test_memory_and_time_are_guarded_as_accuracy_is(kind, quantity, decides):
    found = verdict(cells(1.0, kind=kind, quantity=quantity), "gain", above(0))
    assert (found == "holds") == decides


def test_the_number_shown_is_the_one_that_decides():
    both = cells(3.0, 44.0, 46.0)
    assert judge("", "", both, "gain", reaches=45, some=True)["by the paper"] == "holds: 46.0"
    assert judge("", "", both, "gain", above=2)["by the paper"] == "holds: 3.00"
    assert judge("", "", both, "gain", below=45)["by the paper"] == "fails: 46.0"
    assert judge("", "", both, "gain", above=2)["by our records"] == "not yet measured"


def test_a_bound_is_one_of_three():
    assert judge("", "", cells(5.0), "gain", below=5)["by the paper"].startswith("fails")
    assert judge("", "", cells(5.0), "gain", above=5)["by the paper"].startswith("fails")
    assert judge("", "", cells(5.0), "gain", reaches=5)["by the paper"].startswith("holds")
    with pytest.raises(ValueError, match="one of above, below and reaches"):
        judge("", "", cells(5.0), "gain", above=5, below=6)
