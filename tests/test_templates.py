"""The templates: against the paper's equations solved another way, and as properties."""

import math
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fredist.templates
from fredist.templates import (
    CONVENTIONS,
    TEMPLATES,
    apply_template,
    exact_width,
    published_rule,
    round_filters,
    solve,
)

PARABOLAS = ("quadratic", "negative_quadratic")
MIRRORED = ("uniform", *PARABOLAS)
VGG = (64, 64, 128, 128, *(256,) * 4, *(512,) * 8)
RESNET = (64, 128, 256, 512)
MOBILENET = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024)
OUTPUTS = (256, 480, 512, 512, 512, 528, 832, 832, 1024)  # of Inception's modules

unhurried = settings(deadline=None, max_examples=60)  # a busy machine is no failure
networks = st.lists(st.integers(1, 3000), min_size=3, max_size=24)
# Thousandths: the float written 0.007 means 7/1000, whatever its binary value.
thousandths = st.integers(1, 3000)


def half_up(value: Fraction) -> int:
    """Return the nearest integer, ties up, in integers alone."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def eliminate(rows):
    """Return the solution of a linear system in fractions: rows of coefficients and right side."""
    rows = [[Fraction(number) for number in row] for row in rows]
    for i in range(len(rows)):
        pivot = next(k for k in range(i, len(rows)) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [number / rows[i][i] for number in rows[i]]
        for k in range(len(rows)):
            if k != i:
                factor = rows[k][i]
                rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


def paper_parabola(filters, layer, value):
    """Return f'_l = a l^2 + b l + c of sum F, with f'_1 = f'_D and f'_layer = value."""
    depth = len(filters)
    layers = range(1, depth + 1)
    a, b, c = eliminate(
        [
            [sum(i * i for i in layers), sum(layers), depth, sum(filters)],
            [1 - depth**2, 1 - depth, 0, 0],
            [layer**2, layer, 1, value],
        ]
    )
    return tuple(a * i * i + b * i + c for i in layers)


def published(filters, template):
    return solve(filters, template, **published_rule(tuple(filters), template))


@unhurried
@given(networks)
def test_the_quadratic_solves_the_papers_equations(filters):
    expected = paper_parabola(filters, math.ceil(len(filters) / 2), min(filters))
    assert solve(filters, "quadratic") == expected


@unhurried
@given(networks)
def test_the_negative_quadratic_solves_the_papers_equations(filters):
    assert solve(filters, "negative_quadratic") == paper_parabola(filters, 1, min(filters))


@unhurried
@given(networks)
def test_the_published_quadratic_pins_its_ends_where_they_would_exceed_the_largest_layer(filters):
    equations, result = solve(filters, "quadratic"), published(filters, "quadratic")
    if equations[0] > max(filters):
        assert result == paper_parabola(filters, 1, max(filters))
    else:
        assert result == equations
    assert sum(result) == sum(filters)
    assert min(filters) <= min(result) <= max(result) <= max(filters)


@pytest.mark.parametrize("template", TEMPLATES)
@unhurried
@given(networks)
def test_the_total_is_kept_exactly(template, filters):
    assert sum(solve(filters, template)) == sum(filters)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("template", MIRRORED)
@unhurried
@given(networks, thousandths)
def test_mirrored_layers_stay_mirrored(template, convention, filters, width):
    exact = solve(filters, template, **published_rule(tuple(filters), template, convention))
    rounded = apply_template(filters, template, width / 1000, convention=convention)
    assert exact == exact[::-1]
    assert rounded == rounded[::-1]


@unhurried
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=24))
def test_base_reverse_and_uniform_are_what_they_are_called(filters):
    assert apply_template(filters, "base") == tuple(filters)
    assert apply_template(filters, "reverse") == tuple(reversed(filters))
    assert apply_template(apply_template(filters, "reverse"), "reverse") == tuple(filters)
    assert set(solve(filters, "uniform")) == {Fraction(sum(filters), len(filters))}
    assert len(set(apply_template(filters, "uniform"))) == 1


@unhurried
@given(networks)
def test_the_quadratic_is_least_in_the_middle(filters):
    values = solve(filters, "quadratic")
    assert values[(len(values) - 1) // 2] == values[len(values) // 2] == min(filters) == min(values)
    assert all(a >= b for a, b in pairwise(values[: (len(values) + 1) // 2]))


@unhurried
@given(networks)
def test_the_negative_quadratic_is_least_at_its_ends(filters):
    values = solve(filters, "negative_quadratic")
    assert values[0] == values[-1] == min(filters) == min(values)
    assert all(a <= b for a, b in pairwise(values[: (len(values) + 1) // 2]))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("template", TEMPLATES)
@unhurried
@given(networks, thousandths)
def test_filters_are_rounded_once_half_up_at_the_end(template, convention, filters, width):
    exact = solve(filters, template, **published_rule(tuple(filters), template, convention))
    expected = tuple(max(1, half_up(Fraction(width, 1000) * value)) for value in exact)
    assert apply_template(filters, template, width / 1000, convention=convention) == expected


@pytest.mark.parametrize(
    ("size", "width", "expected"),
    [
        (5, 0.7, 4),  # 0.7 in binary lies below 7/10
        (5, 0.5, 3),
        (7, 0.5, 4),  # half up, not half to even
        (3, 0.5, 2),
        (5, 0.69, 3),
        (64, 0.05, 3),
        (1, 0.05, 1),
        (10, 0.05, 1),
        (1, 1e-300, 1),
        (64, 1.6, 102),
        (5, 3, 15),
        (5, Fraction(7, 10), 4),
        (5, np.float64(0.7), 4),
        (5, np.float32(0.7), 4),
        (5, np.int64(2), 10),
    ],
)
def test_a_width_means_the_decimal_that_is_written(size, width, expected):
    assert apply_template([size], "base", width) == (expected,)


@pytest.mark.parametrize("template", TEMPLATES)
@unhurried
@given(networks, thousandths)
def test_keep_total_keeps_the_rounded_total(template, filters, width):
    factor = Fraction(width, 1000)
    total = half_up(factor * sum(filters))
    if total < len(filters):
        with pytest.raises(
            ValueError, match=rf"at least {len(filters)} filters.*, got {total}: use"
        ):
            apply_template(filters, template, width / 1000, keep_total=True)
        return
    result = apply_template(filters, template, width / 1000, keep_total=True)
    assert sum(result) == total
    assert min(result) >= 1
    if template in MIRRORED:
        assert max(abs(a - b) for a, b in zip(result, result[::-1], strict=True)) <= 1
    scaled = [factor * value for value in solve(filters, template)]
    if min(scaled) >= 1:  # nothing is lifted: only the largest remainders are rounded up
        ups = [value % 1 for value, n in zip(scaled, result, strict=True) if n > value]
        downs = [value % 1 for value, n in zip(scaled, result, strict=True) if n <= value]
        assert all(abs(value - n) < 1 for value, n in zip(scaled, result, strict=True))
        assert min(ups, default=1) >= max((r for r in downs), default=0)


@pytest.mark.parametrize("template", TEMPLATES)
@unhurried
@given(networks)
def test_keep_total_differs_from_half_up_by_one_filter_at_most(template, filters):
    kept = apply_template(filters, template, keep_total=True)
    rounded = apply_template(filters, template)
    assert sum(kept) == sum(filters)
    assert max(abs(a - b) for a, b in zip(kept, rounded, strict=True)) <= 1


def test_keep_total_takes_back_what_lifted_layers_overspend():
    assert apply_template([1, 1, 1, 27], "base", 0.2, keep_total=True) == (1, 1, 1, 3)
    assert apply_template([1, 1, 1, 27], "base", 0.2) == (1, 1, 1, 5)


@pytest.mark.parametrize("template", TEMPLATES)
@unhurried
@given(networks, thousandths, st.integers(1, 64))
def test_round_to_gives_the_nearest_multiples(template, filters, width, step):
    result = apply_template(filters, template, width / 1000, round_to=step)
    scaled = [Fraction(width, 1000) * value for value in solve(filters, template)]
    assert result == tuple(step * max(1, half_up(value / step)) for value in scaled)
    if step == 1:
        assert result == apply_template(filters, template, width / 1000)


@pytest.mark.parametrize(
    ("filters", "template", "options", "expected"),
    [
        (VGG, "uniform", {}, (344,) * 16),
        (VGG, "quadratic", {}, (811, 624, 464, 331, 224, 144, 91, 64)),
        (VGG, "quadratic", {"convention": "published"}, (512, 445, 387, 339, 301, 272, 253, 243)),
        (VGG, "negative_quadratic", {}, (64, 176, 272, 352, 416, 464, 496, 512)),
        (RESNET, "uniform", {}, (240,) * 4),
        (RESNET, "uniform", {"convention": "published"}, (200,) * 4),
        (RESNET, "uniform", {"convention": "published", "width": 0.5}, (100,) * 4),
        (list(RESNET), "uniform", {"convention": "published"}, (200,) * 4),
        (RESNET, "quadratic", {"convention": "published"}, (416, 64)),
        (RESNET, "negative_quadratic", {}, (64, 416)),
        (MOBILENET, "uniform", {"convention": "published"}, (382,) * 13),
        (MOBILENET, "uniform", {"keep_total": True}, (382,) * 7 + (381,) * 6),
        (MOBILENET, "quadratic", {"convention": "published"}, (931, 656, 431, 257, 132, 57, 32)),
        (MOBILENET, "negative_quadratic", {}, (32, 207, 350, 461, 540, 588, 604)),
        # As published, Inception alone stays uncapped; any other list of its size is capped.
        (OUTPUTS, "quadratic", {"convention": "published"}, (1105, 734, 468, 309, 256)),
        (OUTPUTS[::-1], "quadratic", {"convention": "published"}, (1024,)),
    ],
)
def test_filters_of_the_papers_networks(filters, template, options, expected):
    result = apply_template(filters, template, **options)
    assert len(result) == len(filters)
    assert result[: len(expected)] == expected
    if "keep_total" not in options:
        assert result == result[::-1]


@pytest.mark.parametrize("kind", [list, tuple, iter, np.array])
def test_any_list_of_integers_will_do_and_is_left_alone(kind):
    filters = kind([64, 96, 512, 512])
    result = apply_template(filters, "negative_quadratic")
    assert result == (64, 528, 528, 64)
    assert [type(n) for n in result] == [int] * 4
    if kind is not iter:
        assert list(filters) == [64, 96, 512, 512]


@unhurried
@given(st.integers(1, 10**6), st.integers(0, 9))
def test_exact_width_reads_decimals(digits, places):
    text = f"{digits}e-{places}"
    assert exact_width(float(text)) == Fraction(text) == exact_width(Fraction(text))


@unhurried
@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_any_positive_width_is_good(width):
    assert float(exact_width(width)) == width
    assert min(round_filters([64, 1], width)) >= 1


def test_the_templates_need_no_torch():
    source = Path(fredist.templates.__file__)
    code = f"""
import runpy, sys
assert runpy.run_path({str(source)!r})["apply_template"]([1, 2, 6], "uniform") == (3, 3, 3)
print(*sorted(name for name in ("torch", "timm", "numpy") if name in sys.modules), "none")
"""
    command = [sys.executable, "-I", "-c", code]
    assert subprocess.check_output(command, text=True).split() == ["none"]
