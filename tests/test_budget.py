"""Equal budgets: the largest width that stays within parameters or MACs."""

import pytest

from fredist import TEMPLATES, compare, largest_width, make_network, redistribute
from fredist.networks.budget import GRID
from fredist.paper import MODELS


@pytest.mark.parametrize("convention", ["equations", "published"])
@pytest.mark.parametrize("model", MODELS)
def test_the_next_width_of_the_grid_costs_more(model, convention):
    original = make_network(model, num_classes=100)
    for template in TEMPLATES:
        for name, most in (("params", original.params), ("macs", original.macs(64))):
            options = {"num_classes": 100, "convention": convention}
            width = largest_width(model, template, image_size=64, **{name: most}, **options)
            steps = (width, (round(width * GRID) + 1) / GRID)
            networks = [make_network(model, template, step, **options) for step in steps]
            costs = [n.params if name == "params" else n.macs(64) for n in networks]
            assert costs[0] <= most < costs[1]


def test_budgets_that_say_nothing_are_errors():
    with pytest.raises(ValueError, match="params or macs"):
        largest_width("vgg19")
    with pytest.raises(ValueError, match="params or macs"):
        largest_width("vgg19", params=1, macs=1)
    with pytest.raises(ValueError, match="expected at least 214 as params for vgg19 uniform"):
        largest_width("vgg19", "uniform", params=100)
    with pytest.raises(ValueError, match="finite number of at least 0 as macs, got nan"):
        largest_width("vgg19", macs=float("nan"))
    for given in ({"width": 2}, {"filters": [8] * 16}, {"drop_rate": 0.1}):
        with pytest.raises(TypeError, match=f"largest_width has no option '{next(iter(given))}'"):
            largest_width("vgg19", params=1e9, **given)
    assert largest_width("vgg19", params=5e6) == largest_width("vgg19", params=5_000_000)


def test_compare_shows_the_widths_at_the_originals_budget():
    frame = compare("mobilenet", 0.5)
    original = make_network("mobilenet")
    for template, row in frame.iterrows():
        assert row.width_at_macs == largest_width("mobilenet", template, macs=original.macs())
        assert row.width_at_params == largest_width("mobilenet", template, params=original.params)


def test_compare_shows_that_no_width_fits():
    """As of many filters in every layer, where the original has few in its large maps."""
    frame = compare("vgg19", round_to=256)
    assert frame.width_at_macs.isna().all()
    assert frame.loc["uniform", "filters"] == (256,) * 16
    with pytest.raises(ValueError, match=r"1,111,230,976 as macs .* the smallest that these"):
        largest_width("vgg19", macs=398_136_320, round_to=256)


def test_a_width_that_leaves_a_layer_without_a_filter_is_passed_over():
    """With `keep_total` narrow widths cannot be rounded; the search goes on above them."""
    options = {"keep_total": True}
    cheapest = make_network("mobilenet", "quadratic", 0.0024, **options).macs()
    width = largest_width("mobilenet", "quadratic", macs=cheapest, **options)
    assert make_network("mobilenet", "quadratic", width, **options).macs() == cheapest
    with pytest.raises(ValueError, match=f"at least {cheapest:,} as macs for mobilenet quadratic"):
        largest_width("mobilenet", "quadratic", macs=cheapest - 1, **options)
    found = redistribute(
        "resnet18", "quadratic", params=3000, num_classes=2, image_size=32, **options
    ).redistribution
    assert found.params[1] <= 3000 < found.params[0]
    with pytest.raises(ValueError, match=r"expected at least [\d,]+ as params, got 10"):
        redistribute("resnet18", "quadratic", params=10, num_classes=2, image_size=32, **options)


def test_a_budget_that_no_network_uses_up_is_named():
    with pytest.raises(ValueError, match="expected a budget that a width of 16,384 exceeds"):
        largest_width("vgg19", params=1e20)
