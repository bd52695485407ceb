"""A network's sizes as values: expressions of the symbols that a trace leaves free."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod

BATCH = 2  # of the images traced: a batch of one would look like a dimension to broadcast
_SYMBOL = re.compile(r"\b[su]\d+\b")

Size = int | str  # a number, or an expression of symbols in Python


@dataclass(frozen=True)
class Conv:
    """One convolution as it ran: its module's name, channels, and whether it makes a map."""

    name: str
    inputs: Size
    filters: Size
    spatial: bool


@dataclass(frozen=True)
class Channels:
    """A network's sizes as expressions of free symbols, whose original values are `sizes`.

    `shapes` are those of every parameter and buffer, `attributes` what modules hold as integers, by
    (module, attribute, place in a list or None); `convs` stand in the order in which they run.
    `guards` must hold for the network to run as it did; symbols `kept` stay as they are: of what it
    returns, and of integers that are no channel counts.
    """

    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[Size, ...]]
    trained: frozenset[str]  # the names of shapes that are parameters
    attributes: Mapping[tuple[str, str, int | None], Size]
    convs: tuple[Conv, ...]
    products: tuple[Size, ...]
    guards: tuple[str, ...]
    kept: frozenset[str]

    def changes(self, values: Mapping[str, int]) -> dict:
        """Return the shapes and integers that differ from the original's, as values."""
        shapes, integers = {}, []
        for name, sizes in self.shapes.items():
            shape = tuple(evaluate(size, values) for size in sizes)
            if shape != tuple(evaluate(size, self.sizes) for size in sizes):
                shapes[name] = shape
        for place, size in self.attributes.items():
            if (value := evaluate(size, values)) != evaluate(size, self.sizes):
                integers.append((*place, value))
        return {"shapes": shapes, "integers": tuple(integers)}

    def count(self, what: str, values: Mapping[str, int]) -> int:
        """Return "params", or "macs" of one image, for values of the symbols."""
        if what == "macs":
            return sum(evaluate(size, values) for size in self.products) // BATCH
        shapes = (self.shapes[name] for name in self.trained)
        return sum(prod(evaluate(size, values) for size in shape) for shape in shapes)


@cache  # a solution asks for the same few thousand again and again
def symbols(size: Size) -> tuple[str, ...]:
    """Return the symbols of an expression, each once.

    Examples
    --------
    >>> symbols("s3 + 2*s1 + s3"), symbols(64)
    (('s3', 's1'), ())
    """
    return tuple(dict.fromkeys(_SYMBOL.findall(size))) if isinstance(size, str) else ()


def evaluate(size: Size, values: Mapping[str, int]) -> int:
    """Return an expression's value.

    Examples
    --------
    >>> evaluate("2*s1 + s3//2", {"s1": 8, "s3": 5})
    18
    """
    return size if isinstance(size, int) else eval(_compiled(size), _FUNCTIONS, values)


_FUNCTIONS = {"Mod": lambda a, b: a % b, "Eq": lambda a, b: a == b, "Ne": lambda a, b: a != b}
_FUNCTIONS |= {"FloorDiv": lambda a, b: a // b, "Max": max, "Min": min}
_FUNCTIONS |= {"PythonMod": lambda a, b: a % b, "CleanDiv": lambda a, b: a // b}


@cache
def _compiled(size: str):
    return compile(size, size, "eval")
