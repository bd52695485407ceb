"""The paper's filter redistribution templates, as pure functions of a list of filters (section 3).

A template takes the filters per layer f = (f_1, ..., f_D) of a known network and spreads their
total F = sum(f) over the D layers anew. Everything is solved in exact rationals and rounded once,
at the very end, so that mirrored layers stay mirrored and no float decides a tie.
"""

from collections.abc import Mapping, Sequence, Set
from fractions import Fraction
from math import floor
from numbers import Rational

from .checks import check_choice, check_flag, check_integer, check_number

TEMPLATES = ("base", "reverse", "uniform", "quadratic", "negative_quadratic")
VERTICES = ("half", "middle")


def apply_template(
    filters: Sequence[int],
    template: str,
    width: float = 1.0,
    *,
    keep_total: bool = False,
    round_to: int | None = None,
    vertex: str = "half",
) -> tuple[int, ...]:
    """Return the redistributed filters: the template's solution times `width`, rounded half up.

    The width is read as the decimal that is written: 0.7 means 7/10. No layer gets less than one
    filter. `keep_total` keeps the sum at exactly round(width * F) by the largest-remainder method,
    at the price of mirror symmetry by up to one filter; `round_to` rounds to multiples.

    `vertex` is where the quadratic is f_min: "half", at the real number D / 2, as in the text, or
    "middle", on the layer ceil(D / 2). They differ for odd D only, where D / 2 puts the middle
    layer below f_min: a ValueError where it falls below one filter, before the width.

    Examples
    --------
    >>> apply_template([64, 128, 256, 512], "uniform")
    (240, 240, 240, 240)
    >>> apply_template([64, 128, 256, 512], "quadratic", width=0.5)
    (208, 32, 32, 208)
    """
    values = solve(check_filters(filters), template, vertex=vertex)
    return round_filters(values, width, keep_total=keep_total, round_to=round_to)


def solve(
    filters: Sequence[Rational], template: str, *, vertex: str = "half"
) -> tuple[Fraction, ...]:
    """Return the template's exact, unrounded solution for D positive rationals.

    Both parabolas are symmetric, so they are written f'(l) = e + b q(l) with q(l) = (l - 1)(D - l):
    the paper's three equations with f'_1 = f'_D already used. The sum and f_min fix e and b.

    Examples
    --------
    >>> [str(f) for f in solve([16, 16, 16, 64], "quadratic")]
    ['40', '16', '16', '40']
    """
    check_choice("template", template, TEMPLATES)
    check_choice("vertex", vertex, VERTICES)
    if vertex != "half" and template != "quadratic":
        raise ValueError(f"expected vertex={vertex!r} with the quadratic only, got {template}")
    f = tuple(_fraction(value) for value in filters)
    depth, total, least = len(f), sum(f), min(f)
    if template == "base":
        return f
    if template == "reverse":
        return f[::-1]
    if template == "uniform":
        return (total / depth,) * depth
    if depth <= 2:
        raise ValueError(
            f"expected at least 3 layers for a parabola, got {depth}: use base, reverse or uniform"
        )
    q = [(layer - 1) * (depth - layer) for layer in range(1, depth + 1)]
    ends = least
    if template == "quadratic":  # f'(l) = f_min at l = D / 2, or at l = ceil(D / 2)
        at = Fraction(depth, 2) if vertex == "half" else (depth + 1) // 2
        at_q = (at - 1) * (depth - at)
        ends -= at_q * (total - depth * least) / (sum(q) - depth * at_q)
    bend = (total - depth * ends) / sum(q)
    result = tuple(ends + bend * value for value in q)
    if min(result) < 1 <= least:
        layer = result.index(min(result))
        raise ValueError(
            f"expected at least one filter in every layer, got {float(result[layer]):g} in layer "
            f"{layer + 1} of {depth}: with f_min at D / 2 the quadratic's middle layer lies below "
            'it; vertex="middle" puts f_min on the middle layer itself'
        )
    return result


def round_filters(
    values: Sequence[Rational],
    width: float = 1.0,
    *,
    keep_total: bool = False,
    round_to: int | None = None,
) -> tuple[int, ...]:
    """Return width * values as integers of at least 1: the one place where filters are rounded.

    Examples
    --------
    >>> round_filters([37, 100], width=0.5, round_to=8)
    (16, 48)
    """
    factor = exact_width(width)
    check_flag("keep_total", keep_total)
    step = 1 if round_to is None else check_integer("round_to", round_to)
    if keep_total and round_to is not None:
        raise ValueError(
            "expected keep_total or round_to, got both: multiples cannot keep the total exactly"
        )
    scaled = [factor * _fraction(value) for value in values]
    if keep_total:
        return _largest_remainder(scaled)
    return tuple(max(1, _half_up(value / step)) * step for value in scaled)


def exact_width(width: float) -> Fraction:
    """Return the width multiplier as the fraction that its decimal notation names."""
    check_number("width", width, above=True)
    # A float stands for the shortest decimal that names it: Fraction(0.7) lies below 7/10 and
    # would round 0.7 * 5 = 3.5 down.
    return _fraction(width) if isinstance(width, Rational) else Fraction(str(width))


def check_filters(
    filters: Sequence[int], depth: int | None = None, most: int | None = None
) -> tuple[int, ...]:
    """Return `filters` as a tuple of integers, or raise an error that says what is wrong."""
    unordered = isinstance(filters, str | bytes | Set | Mapping)
    if unordered or not hasattr(filters, "__iter__"):
        raise TypeError(f"expected a list of filters per layer, got {filters!r}")
    result = tuple(check_integer("filters", value, most=most) for value in filters)
    if not result:
        raise ValueError("expected at least one layer, got an empty list of filters")
    if depth is not None and len(result) != depth:
        raise ValueError(f"expected {depth} filters, one per layer, got {len(result)}: {result}")
    return result


def _fraction(value: Rational) -> Fraction:
    if not isinstance(value, Rational):
        raise TypeError(f"expected integers or fractions as filters, got {value!r}")
    # In Python's own integers: NumPy's stay what they are inside a Fraction, and wrap around.
    return Fraction(int(value.numerator), int(value.denominator))


def _half_up(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))


class TooNarrow(ValueError):
    """A width at which there are fewer filters than layers."""


def _largest_remainder(scaled: list[Fraction]) -> tuple[int, ...]:
    """Round so that the sum is round(sum(scaled)): the largest remainders are rounded up."""
    total = _half_up(sum(scaled))
    if total < len(scaled):
        raise TooNarrow(
            f"expected a total of at least {len(scaled)} filters, one per layer, got {total}: "
            "use a larger width, or leave keep_total out"
        )
    result = [max(1, floor(value)) for value in scaled]
    # Layers lifted to 1 can overspend the total: then the smallest surplus gives one back.
    while sum(result) != total:
        step = 1 if sum(result) < total else -1
        open_layers = [i for i, n in enumerate(result) if step > 0 or n > 1]
        i = max(open_layers, key=lambda i: step * (scaled[i] - result[i]))
        result[i] += step
    return tuple(result)
