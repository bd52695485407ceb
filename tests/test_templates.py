"""The templates: against the paper's equations solved another way, as properties, and refused."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fredist.templates import TEMPLATES, apply_template, exact_width, round_filters, solve

PARABOLAS = ("quadratic", "negative_quadratic")
MIRRORED = ("uniform", *PARABOLAS)
VGG = (64, 64, 128, 128, *(256,) * 4, *(512,) * 8)
RESNET = (64, 128, 256, 512)
MOBILENET = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024)

unhurried = settings(deadline=None, max_examples=60)  # a busy machine is no failure
networks = st.lists(st.integers(1, 3000), min_size=3, max_size=24)
# Thousandths: the float written 0.007 means 7/1000, whatever its binary value.
thousandths = st.integers(1, 3000)


def half_up(value: Fraction) -> int:
    """Return the nearest integer, ties up, in integers alone."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def determinant(rows):
    (a, b, c), (d, e, f), (g, h, i) = rows
    return Fraction(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))


def paper_parabola(filters, at, value):
    """Return f'(l) = a l^2 + b l + c of sum F, with f'_1 = f'_D and f'(at) = value, by Cramer."""
    depth, layers = len(filters), range(1, len(filters) + 1)
    rows = [[sum(i * i for i in layers), sum(layers), depth], [1 - depth**2, 1 - depth, 0]]
    rows, right = [*rows, [at**2, at, 1]], (sum(filters), 0, value)
    a, b, c = (
        determinant([[*row[:i], r, *row[i + 1 :]] for row, r in zip(rows, right, strict=True)])
        / determinant(rows)
        for i in range(3)
    )
    return tuple(a * i * i + b * i + c for i in layers)


def vertex_for(template):
    """Return the option with which every list has a solution."""
    return {"vertex": "middle"} if template == "quadratic" else {}


@unhurried
@given(networks)
def test_the_parabolas_solve_the_papers_equations(filters):
    depth, least = len(filters), min(filters)
    negative = solve(filters, "negative_quadratic")
    assert negative == paper_parabola(filters, 1, least)
    assert negative[0] == negative[-1] == least == min(negative)
    middle = solve(filters, "quadratic", vertex="middle")
    assert middle == paper_parabola(filters, math.ceil(depth / 2), least)
    assert middle[(depth - 1) // 2] == middle[depth // 2] == least == min(middle)
    half = paper_parabola(filters, Fraction(depth, 2), least)
    if depth % 2 == 0:  # both middle layers are f_min: the two readings are one
        assert half == middle
    # The notes: negative where the mean exceeds f_min (D^2 - 1) / 3.
    bound = Fraction(least * (depth**2 - 1), 3)
    assert (min(half) < 0) == (depth % 2 == 1 and Fraction(sum(filters), depth) > bound)
    if min(half) >= 1:
        assert solve(filters, "quadratic") == half
    else:
        with pytest.raises(ValueError, match="expected at least one filter in every layer"):
            solve(filters, "quadratic")


@pytest.mark.parametrize("template", TEMPLATES)
@unhurried
@given(networks, thousandths, st.integers(1, 64))
def test_a_solution_keeps_the_total_and_is_rounded_once_half_up(template, filters, width, step):
    options = vertex_for(template)
    exact = solve(filters, template, **options)
    assert sum(exact) == sum(filters)
    mean = Fraction(sum(filters), len(filters))
    known = {"base": filters, "reverse": filters[::-1], "uniform": [mean] * len(filters)}
    assert exact == tuple(known.get(template, exact))
    rounded = apply_template(filters, template, width / 1000, **options)
    assert rounded == tuple(max(1, half_up(Fraction(width, 1000) * value)) for value in exact)
    multiples = apply_template(filters, template, width / 1000, round_to=step, **options)
    parts = [Fraction(width, 1000) * value / step for value in exact]
    assert multiples == tuple(step * max(1, half_up(part)) for part in parts)
    if template in MIRRORED:
        assert (exact, rounded, multiples) == (exact[::-1], rounded[::-1], multiples[::-1])


@pytest.mark.parametrize(
    ("size", "width", "expected"),
    [
        (5, 0.7, 4),  # 0.7 in binary lies below 7/10
        *((5, 0.5, 3), (7, 0.5, 4), (3, 0.5, 2)),  # half up, not half to even
        *((64, 0.05, 3), (1, 0.05, 1), (1, 1e-300, 1)),
        (64, 1.6, 102),
        *((5, Fraction(7, 10), 4), (2, 10**30, 2 * 10**30)),
        *((5, kind("0.7"), 4) for kind in (np.float16, np.float32, np.longdouble)),
        *((240, kind(2), 480) for kind in (np.int8, np.uint8, np.int64, np.float16)),
    ],
)
def test_a_width_means_the_decimal_that_is_written(size, width, expected):
    assert apply_template([size], "base", width) == (expected,)
    if size > 1:
        assert apply_template([size], "base", width, keep_total=True) == (expected,)
    assert type(apply_template([size], "base", width)[0]) is int


@pytest.mark.parametrize("template", TEMPLATES)
@unhurried
@given(networks, thousandths)
def test_keep_total_keeps_the_rounded_total(template, filters, width):
    factor = Fraction(width, 1000)
    total = half_up(factor * sum(filters))
    options = {"keep_total": True, **vertex_for(template)}
    if total < len(filters):
        message = rf"at least {len(filters)} filters.*, got {total}: use"
        with pytest.raises(ValueError, match=message):
            apply_template(filters, template, width / 1000, **options)
        return
    result = apply_template(filters, template, width / 1000, **options)
    assert sum(result) == total
    assert min(result) >= 1
    if template in MIRRORED:
        assert max(abs(a - b) for a, b in zip(result, result[::-1], strict=True)) <= 1
    scaled = [factor * value for value in solve(filters, template, **vertex_for(template))]
    if min(scaled) >= 1:  # nothing is lifted: only the largest remainders are rounded up
        ups = [value % 1 for value, n in zip(scaled, result, strict=True) if n > value]
        downs = [value % 1 for value, n in zip(scaled, result, strict=True) if n <= value]
        assert min(ups, default=1) >= max(downs, default=0)


def test_keep_total_takes_back_what_lifted_layers_overspend():
    assert apply_template([1, 1, 1, 27], "base", 0.2, keep_total=True) == (1, 1, 1, 3)
    assert apply_template([1, 1, 1, 27], "base", 0.2) == (1, 1, 1, 5)


@pytest.mark.parametrize(
    ("filters", "template", "options", "expected"),
    [
        (VGG, "uniform", {}, (344,) * 16),
        (VGG, "quadratic", {}, (811, 624, 464, 331, 224, 144, 91, 64)),
        (VGG, "negative_quadratic", {}, (64, 176, 272, 352, 416, 464, 496, 512)),
        (RESNET, "uniform", {}, (240,) * 4),
        (RESNET, "quadratic", {}, (416, 64)),
        (MOBILENET, "uniform", {}, (382,) * 13),
        (MOBILENET, "uniform", {"keep_total": True}, (382,) * 7 + (381,) * 6),
        (MOBILENET, "quadratic", {}, (941, 661, 432, 254, 127, 51, 26)),
        (MOBILENET, "quadratic", {"vertex": "middle"}, (931, 656, 431, 257, 132, 57, 32)),
        (MOBILENET, "negative_quadratic", {}, (32, 207, 350, 461, 540, 588, 604)),
        ((16, 64, 256), "quadratic", {"vertex": "middle"}, (160, 16, 160)),
    ],
)
def test_filters_of_the_papers_networks(filters, template, options, expected):
    result = apply_template(filters, template, **options)
    assert len(result) == len(filters)
    assert result[: len(expected)] == expected
    if "keep_total" not in options:
        assert result == result[::-1]


def test_a_layer_below_one_filter_is_an_error_that_names_the_way_out():
    message = r'got -41\.6 in layer 2 of 3: .*; vertex="middle" puts f_min on the middle layer'
    for width in (0.1, 5.0):  # whatever the width would make of it
        with pytest.raises(ValueError, match=message):
            apply_template([16, 64, 256], "quadratic", width)


@pytest.mark.parametrize("kind", [list, iter, np.uint8, np.int64])
def test_any_list_of_integers_will_do_and_nothing_wraps_around(kind):
    result = apply_template(kind([64, 96, 192, 192]), "negative_quadratic", 2)
    assert (result, {type(n) for n in result}) == ((128, 416, 416, 128), {int})
    assert solve(kind([100] * 20), "uniform") == (100,) * 20
    assert round_filters(kind([100] * 20), 3) == (300,) * 20


@unhurried
@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_any_positive_width_is_good_and_its_decimal_is_meant(width):
    assert exact_width(width) == Fraction(repr(width))
    assert min(round_filters([64, 1], width)) >= 1


@pytest.mark.parametrize(
    ("filters", "error", "message"),
    [
        ([], ValueError, "at least one layer, got an empty list"),
        ([64, 0], ValueError, "integer of at least 1 as filters, got 0"),
        ([64, 2.0], TypeError, "integer of at least 1 as filters, got 2.0"),
        ([64, True], TypeError, "integer of at least 1 as filters, got True"),
        ([[64], [2]], TypeError, r"integer of at least 1 as filters, got \[64\]"),
        ("64", TypeError, "a list of filters per layer, got '64'"),
        (None, TypeError, "a list of filters per layer, got None"),
        ({64, 2}, TypeError, r"a list of filters per layer, got \{.*\}"),
        ({64: 1}, TypeError, r"a list of filters per layer, got \{64: 1\}"),
    ],
)
def test_other_filters_are_refused(filters, error, message):
    for template in TEMPLATES:
        with pytest.raises(error, match=message):
            apply_template(filters, template)


def test_the_solver_and_the_rounding_take_fractions_alone():
    for solved in (lambda: solve(["64"], "uniform"), lambda: round_filters([64.5])):
        with pytest.raises(TypeError, match="integers or fractions as filters, got "):
            solved()


@pytest.mark.parametrize("filters", [[7], [7, 8]])
@pytest.mark.parametrize("template", PARABOLAS)
def test_a_parabola_needs_three_layers(filters, template):
    message = f"at least 3 layers for a parabola, got {len(filters)}: use base, reverse or uniform"
    with pytest.raises(ValueError, match=message):
        apply_template(filters, template, **vertex_for(template))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"template": "xyz"}, ValueError, "unknown template 'xyz'; choose from base, "),
        ({"template": "Uniform"}, ValueError, r"unknown template 'Uniform' \(did you mean 'unif"),
        ({"template": None}, TypeError, "a string as template, got None; choose from base, "),
        ({"vertex": "mid"}, ValueError, "unknown vertex 'mid'.*; choose from half, middle"),
        ({"vertex": "middle"}, ValueError, "vertex='middle' with the quadratic only, got uniform"),
        *(
            ({"width": width}, ValueError, "a finite number above 0 as width, got ")
            for width in (0, -0.5, math.inf, math.nan, Fraction(-1, 2), np.float32("nan"), 10**400)
        ),
        *(
            (
                {"width": width},
                TypeError,
                f"a number above 0 as width, got {re.escape(repr(width))}",
            )
            for width in (True, np.True_, "0.5", None, 1j, [1.0], np.array(0.5))
        ),
        ({"keep_total": 1}, TypeError, "True or False as keep_total, got 1"),
        ({"keep_total": True, "round_to": 8}, ValueError, "keep_total or round_to, got both"),
        ({"keep_total": True, "round_to": 1}, ValueError, "got both"),
        ({"round_to": 0}, ValueError, "integer of at least 1 as round_to, got 0"),
        ({"round_to": 8.0}, TypeError, "integer of at least 1 as round_to, got 8.0"),
    ],
)
def test_other_arguments_of_a_template_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        apply_template(RESNET, **{"template": "uniform", **arguments})
