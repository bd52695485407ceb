"""The paper's filter redistribution templates, as pure functions of a list of filters (section 3).

A template takes the filters per layer f = (f_1, ..., f_D) of a known network and spreads their
total F = sum(f) over the D layers anew. Everything is solved in exact rationals and rounded once,
at the very end, so that mirrored layers stay mirrored and no float decides a tie.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from difflib import get_close_matches
from fractions import Fraction
from math import floor, isfinite
from numbers import Rational, Real

TEMPLATES = ("base", "reverse", "uniform", "quadratic", "negative_quadratic")
CONVENTIONS = ("equations", "published")

# What the printed parameter counts need beyond the text's equations. The quadratic's ends are
# capped at the largest layer, except in Inception (by the means of its modules' sizes, or by its
# modules' output channels), whose printed count lies away from the capped network; and
# ResNet-50's uniform is the bare number 200 where F / D is 240.
_UNCAPPED = {(256, 480, 512, 512, 512, 528, 832, 832, 1024)}
_PUBLISHED_UNIFORM = {(64, 128, 256, 512): 200}


def apply_template(
    filters: Sequence[int],
    template: str,
    width: float = 1.0,
    *,
    convention: str = "equations",
    keep_total: bool = False,
    round_to: int | None = None,
) -> tuple[int, ...]:
    """Return the redistributed filters: the template's solution times `width`, rounded half up.

    Implements the four templates of section 3 (`base` leaves the list as it is) and the width
    multiplier, which scales the new list proportionally.

    Parameters
    ----------
    filters : (D,) integers of at least 1
        Filters per layer of the known network. The parabolas need D >= 3.
    template : {"base", "reverse", "uniform", "quadratic", "negative_quadratic"}
    width : positive number
        The width multiplier, read as the decimal that is written: 0.7 means 7/10.
    convention : {"equations", "published"}
        "equations" is the text to the letter. "published" is what the paper's parameter counts
        imply: the quadratic's ends never exceed max(filters) (VGG-19's do), and ResNet-50's
        uniform is 200 filters in each stage.
    keep_total : bool
        Keep the sum at exactly round(width * F) by the largest-remainder method, at the price of
        mirror symmetry by up to one filter. By default each layer is rounded on its own.
    round_to : int, optional
        Round to multiples of this number (at least one multiple), for hardware that wants them.

    Returns
    -------
    tuple of D integers, each at least 1.

    Raises
    ------
    TypeError, ValueError
        For anything that is not as described, saying what was expected and what arrived.

    Examples
    --------
    >>> apply_template([64, 128, 256, 512], "uniform")
    (240, 240, 240, 240)
    >>> apply_template([64, 128, 256, 512], "quadratic", width=0.5)
    (208, 32, 32, 208)
    """
    filters = check_filters(filters)
    check_choice("convention", convention, CONVENTIONS)
    check_flag("keep_total", keep_total)
    values = solve(filters, template, **published_rule(filters, template, convention))
    if keep_total and sum(values) != sum(filters):
        raise ValueError(
            f"keep_total keeps the total of {sum(filters)} filters, but the published {template} "
            f"of {filters} has {sum(values)}; use convention='equations' or leave keep_total out"
        )
    return round_filters(values, width, keep_total=keep_total, round_to=round_to)


def solve(
    filters: Sequence[Rational],
    template: str,
    *,
    f_max: Rational | None = None,
    level: Rational | None = None,
) -> tuple[Fraction, ...]:
    """Return the template's exact, unrounded solution for `filters`, as D fractions.

    Both parabolas are symmetric, so they are written f'_l = e + b q_l with q_l = (l - 1)(D - l):
    e is the ends' value and sum(q) = D (D - 1)(D - 2) / 6. Two conditions then fix e and b, which
    is the paper's three-equation system with f'_1 = f'_D already used.

    Parameters
    ----------
    filters : (D,) positive rationals
    template : one of `TEMPLATES`
    f_max : rational, optional
        Cap of the quadratic: where its ends would exceed it they are pinned to it, and the vertex
        floats (NOT in the text; implied by the published counts of VGG-19).
    level : rational, optional
        A value for the uniform template in place of F / D.

    Examples
    --------
    >>> [str(f) for f in solve([1, 2, 6], "uniform")]
    ['3', '3', '3']
    >>> [str(f) for f in solve([64, 96, 512, 512], "negative_quadratic")]
    ['64', '528', '528', '64']
    """
    check_choice("template", template, TEMPLATES)
    f = tuple(Fraction(value) for value in filters)
    _check_depth(f)
    depth, total = len(f), sum(f)
    if template == "base":
        return f
    if template == "reverse":
        return f[::-1]
    if template == "uniform":
        return (total / depth if level is None else Fraction(level),) * depth
    if depth <= 2:
        raise ValueError(
            f"expected at least 3 layers for the {template} template, got {depth}: a parabola "
            "through so few is not determined; use base, reverse or uniform"
        )
    q = [(layer - 1) * (depth - layer) for layer in range(1, depth + 1)]
    if template == "negative_quadratic":  # f'_1 = f'_D = f_min
        ends = min(f)
    else:  # f'_m = f_min at the middle layer m = ceil(D / 2), and so at both middles of an even D
        middle = q[(depth + 1) // 2 - 1]
        ends = min(f) - middle * (total - depth * min(f)) / (sum(q) - depth * middle)
        if f_max is not None:
            ends = min(ends, Fraction(f_max))
    bend = (total - depth * ends) / sum(q)
    return tuple(ends + bend * value for value in q)


def published_rule(
    filters: tuple[int, ...], template: str, convention: str = "published"
) -> dict[str, int]:
    """Return what `convention` adds to `solve` for these filters: {} where nothing is added.

    Examples
    --------
    >>> published_rule((64, 128, 256, 512), "uniform", "published")
    {'level': 200}
    >>> published_rule((64, 128, 256, 512), "uniform", "equations")
    {}
    """
    if convention == "equations":
        return {}
    if template == "uniform" and filters in _PUBLISHED_UNIFORM:
        return {"level": _PUBLISHED_UNIFORM[filters]}
    if template == "quadratic" and filters not in _UNCAPPED:
        return {"f_max": max(filters)}
    return {}


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
    >>> round_filters([Fraction(5, 2), 3, Fraction(1, 9)])
    (3, 3, 1)
    >>> round_filters([37, 100], width=0.5, round_to=8)
    (16, 48)
    """
    factor = exact_width(width)
    check_flag("keep_total", keep_total)
    scaled = [factor * Fraction(value) for value in values]
    if keep_total and round_to is not None:
        raise ValueError(
            "expected keep_total or round_to, got both: multiples of "
            f"{round_to} cannot also keep the total exactly; choose one"
        )
    if keep_total:
        return _largest_remainder(scaled)
    step = 1 if round_to is None else check_integer("round_to", round_to)
    return tuple(max(1, _half_up(value / step)) * step for value in scaled)


def exact_width(width: float) -> Fraction:
    """Return the width multiplier as the fraction that its decimal notation names.

    Examples
    --------
    >>> exact_width(0.7)
    Fraction(7, 10)
    """
    if isinstance(width, bool) or not isinstance(width, Real):
        raise TypeError(f"expected a number as width, got {width!r}")
    try:
        good = isfinite(width) and width > 0
    except OverflowError:
        raise ValueError(
            "expected a finite width above 0, got one beyond the largest float (1.8e308)"
        ) from None
    if not good:
        raise ValueError(f"expected a finite width above 0, got {width!r}")
    # A float stands for the shortest decimal that names it: Fraction(0.7) lies below 7/10 and
    # would round 0.7 * 5 = 3.5 down.
    return Fraction(width) if isinstance(width, Rational) else Fraction(str(width))


def check_filters(filters: Sequence[int], depth: int | None = None) -> tuple[int, ...]:
    """Return `filters` as a tuple of integers, or raise an error that says what is wrong.

    Examples
    --------
    >>> check_filters([64, 128])
    (64, 128)
    """
    unordered = isinstance(filters, str | bytes | Set | Mapping)
    if unordered or not hasattr(filters, "__iter__"):
        raise TypeError(f"expected a list of filters per layer, got {filters!r}")
    result = tuple(check_integer("filters", value) for value in filters)
    _check_depth(result)
    if depth is not None and len(result) != depth:
        raise ValueError(f"expected {depth} filters, one per layer, got {len(result)}: {result}")
    return result


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Raise an error that lists `choices`, and the closest one, unless `value` is among them.

    Examples
    --------
    >>> check_choice("template", "Reverse-Base", TEMPLATES)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: unknown template 'Reverse-Base' (did you mean 'reverse'?); choose from base, ...
    """
    if not isinstance(value, str):
        raise TypeError(
            f"expected a string as {what}, got {value!r}; choose from {', '.join(choices)}"
        )
    if value not in choices:
        raise ValueError(
            f"unknown {what} {value!r}{closest(value, choices)}; choose from {', '.join(choices)}"
        )


def closest(value: str, choices: Iterable[str]) -> str:
    """Return the hint that names the choice closest to `value`, or nothing where none is close.

    Examples
    --------
    >>> closest("VGG-19", ["vgg19", "resnet50"])
    " (did you mean 'vgg19'?)"
    """
    key = value.lower().replace("-", "_")
    close = get_close_matches(key, choices, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_flag(what: str, value: bool) -> None:
    """Raise an error unless `value` is True or False: 1 and "no" would be taken for True."""
    if not isinstance(value, bool):
        raise TypeError(f"expected True or False as {what}, got {value!r}")


def check_integer(what: str, value: int, least: int = 1) -> int:
    """Return an integer of any kind as Python's own, or raise an error.

    Examples
    --------
    >>> check_integer("num_classes", 10.0)
    Traceback (most recent call last):
    TypeError: expected an integer of at least 1 as num_classes, got 10.0
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"expected an integer of at least {least} as {what}, got {value!r}"
        ) from None
    if number < least:
        raise ValueError(f"expected an integer of at least {least} as {what}, got {number}")
    return number


def _check_depth(filters: tuple) -> None:
    if not filters:
        raise ValueError("expected at least one layer, got an empty list of filters")


def _half_up(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))


def _largest_remainder(scaled: list[Fraction]) -> tuple[int, ...]:
    """Round so that the sum is round(sum(scaled)): the largest remainders are rounded up."""
    total = _half_up(sum(scaled))
    if total < len(scaled):
        raise ValueError(
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
