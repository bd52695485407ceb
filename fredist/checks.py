"""The errors users meet: each says what was expected, what arrived and what may be meant."""

import contextlib
import operator
import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial
from math import inf, isfinite
from numbers import Real

ALIASES = {"googlenet": "inception", "mobilenetv1": "mobilenet", "tinyimagenet200": "tiny-imagenet"}


def closest(value: str, choices: Iterable[str]) -> str:
    """Return the hint that names the choice meant by `value`, or nothing where none is near.

    Names with other digits are other things: vgg16 is not a misspelled vgg19. A prefix matters,
    too: neg_quadratic does not suggest quadratic.

    Examples
    --------
    >>> closest("VGG-19", ["vgg19", "resnet50"]), closest("resnet18", ["vgg19", "resnet50"])
    (" (did you mean 'vgg19'?)", '')
    """
    keys = {re.sub(r"[-_ .]", "", choice.lower()): choice for choice in choices}
    key = re.sub(r"[-_ .]", "", str(value).lower())
    near = get_close_matches(key, keys, n=3, cutoff=0.7)
    digits = re.findall(r"\d+", key)
    ends = {k for k in near if any(other != k and other.endswith(k) for other in keys)}
    near = [k for k in near if k[0] == key[0] or k not in ends]
    alike = [keys[k] for k in near if not digits or re.findall(r"\d+", k) == digits]
    if ALIASES.get(key) in keys.values():
        alike = [ALIASES[key]]
    return f" (did you mean {alike[0]!r}?)" if alike else ""


def check_choice(what: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is among `choices`, else raise an error that lists them.

    Examples
    --------
    >>> check_choice("template", "Reverse_", ["base", "reverse"])
    Traceback (most recent call last):
    ValueError: unknown template 'Reverse_' (did you mean 'reverse'?); choose from base, reverse
    """
    choices = tuple(choices)
    if not isinstance(value, str):
        raise TypeError(
            f"expected a string as {what}, got {value!r}; choose from {', '.join(choices)}"
        )
    if value not in choices:
        raise ValueError(
            f"unknown {what} {value!r}{closest(value, choices)}; choose from {', '.join(choices)}"
        )
    return value


def check_flag(what: str, value: bool) -> bool:
    """Return True or False, or raise an error: 1 and "no" would be taken for True."""
    if not isinstance(value, bool):
        raise TypeError(f"expected True or False as {what}, got {value!r}")
    return value


def check_integer(what: str, value: int, least: int = 1, most: int | None = None) -> int:
    """Return an integer of any kind as Python's own, or raise an error.

    Examples
    --------
    >>> check_integer("num_classes", 10.0)
    Traceback (most recent call last):
    TypeError: expected an integer of at least 1 as num_classes, got 10.0
    """
    said = f"expected an integer of at least {least} as {what}, got"
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{said} {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{said} {value!r}")
    if number < least:
        raise ValueError(f"{said} {number}")
    if most is not None and number > most:
        shown = number if number < 10**30 else "more than that"
        raise ValueError(f"expected at most {most:,} as {what}, got {shown}")
    return number


def check_number(what: str, value: float, *, above: bool = False) -> float:
    """Return a finite number of any kind, from 0 or `above` it, as Python's float; else an error.

    Examples
    --------
    >>> check_number("lr", float("nan"))
    Traceback (most recent call last):
    ValueError: expected a finite number of at least 0 as lr, got nan
    """
    bound = "above 0" if above else "of at least 0"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"expected a number {bound} as {what}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the largest float
        number = inf
    if not isfinite(number) or number < 0 or (above and number == 0):
        raise ValueError(f"expected a finite number {bound} as {what}, got {value!r}")
    return number + 0.0  # -0.0 is 0.0: one number, one form


def as_words(what: str, value) -> list | None:
    """Return the list that a command line, a notebook or Python means; None is "all of them".

    An empty list would do nothing and look as if all were done, so it is an error.

    Examples
    --------
    >>> as_words("seeds", "0, 1"), as_words("models", "vgg19"), as_words("widths", 0.5)
    (['0', '1'], ['vgg19'], [0.5])
    """
    if value is None:
        return None
    if isinstance(value, str):
        words = [word.strip() for word in value.split(",")]
        if "" in words:
            raise ValueError(f"expected names separated by commas as {what}, got {value!r}")
        return words
    values = [value] if isinstance(value, Real) else value
    if isinstance(values, dict | bytes | bytearray) or not isinstance(values, Iterable):
        raise TypeError(f"expected a list as {what}, got {value!r}")
    if not (values := list(values)):
        raise ValueError(f"expected at least one of {what}, got an empty list; None is all of them")
    return values


def check_choices(what: str, values, choices: Iterable[str]) -> tuple[str, ...]:
    """Return `values` checked against `choices`, each once; None is all of them.

    Examples
    --------
    >>> check_choices("models", "vgg19,vgg19", ["vgg19", "resnet50"])
    ('vgg19',)
    """
    choices, values = tuple(choices), as_words(what, values)
    if values is None:
        return choices
    return tuple(dict.fromkeys(check_choice(what.removesuffix("s"), v, choices) for v in values))


def check_numbers(what: str, values, kind: type) -> tuple | None:
    """Return numbers of one kind, each once; None stays None.

    Examples
    --------
    >>> check_numbers("seeds", "0,1", int), check_numbers("widths", [0.5, "1"], float)
    ((0, 1), (0.5, 1.0))
    """
    check = partial(check_integer, least=0) if kind is int else partial(check_number, above=True)
    values, result = as_words(what, values), []
    for value in values or ():
        with contextlib.suppress(ValueError):  # what is no number is named below
            value = kind(value) if isinstance(value, str) else value
        result.append(check(what, value))
    return None if values is None else tuple(dict.fromkeys(result))
