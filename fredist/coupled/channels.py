"""A network's sizes as values: expressions of the symbols that a trace leaves free."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil, floor, prod, trunc
from operator import truediv

# Names under which modules hold the widths of layers, of integers that no forward pass reads.
_WIDTHS = re.compile(
    r"^((in|out)_(?!ind)|(in|out)[cp]|oup|(d|c|n?f|filter)s?$|d_model|d_inner)"
    r"|channel|features|(^|_)chs?$|dims?$|planes|width|filters|embed|hidden"
)
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
    `guards` must hold for the network to run as it did; symbols `kept` stay as they are, each for a
    reason: what the network returns, an order that a buffer holds, integers that are no channel
    counts.
    """

    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[Size, ...]]
    trained: frozenset[str]  # the names of shapes that are parameters
    attributes: Mapping[tuple[str, str, int | None], Size]
    convs: tuple[Conv, ...]
    products: tuple[Size, ...]
    guards: tuple[str, ...]
    kept: Mapping[str, str]

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


def no_channels(attributes, read, shapes, guards) -> tuple[set[str], dict[tuple, Size]]:
    """Return the symbols of integers that stay, and the integers that no forward pass reads.

    An integer is a channel count if the trace has made it one with a tensor's size. One that
    only multiplies such sizes (bins of a pool), scales values or is compared, is none.

    Examples
    --------
    >>> places = {("head", "bins", None): "s1", ("head", "inputs", None): "s2"}
    >>> no_channels(places, set(), {"conv.weight": ("s0", 3), "head.weight": (9, "s0*s1**2")}, ())
    ({'s1'}, {('head', 'inputs', None): 's2'})
    >>> places = {("attention", "dim", None): "s3"}
    >>> no_channels(places, {*places}, {"qkv.weight": ("s1", "s0")}, ["Eq(3*s3, (s1 + s2)//8)"])
    (set(), {})
    """
    equations = [guard for guard in guards if guard.startswith("Eq(") and "Mod" not in guard]
    sums = [size for shape in (equations, *shapes.values()) for size in shape if symbols(size)]
    terms = [(term, symbols(term)) for size in sums for term in re.split(" [+-] |, ", size)]
    counts = {named[0] for term, named in terms if len(named) == 1 and "**" not in term}
    factors = {s for _, named in terms for s in named if not counts.isdisjoint(named)} - counts
    equated = {s for _, named in terms for s in named} - factors
    compared = {symbol for guard in guards for symbol in symbols(guard)} | factors
    own = {p: size for p, size in attributes.items() if symbols(size) == (size,)}
    own = {place: size for place, size in own.items() if size not in equated}
    kept = {size for place, size in own.items() if place in read or size in compared}
    return kept, {place: size for place, size in own.items() if size not in kept}


def likely(unread, shapes, sizes) -> dict[tuple, Size]:
    """Return what integers mean that no forward pass reads, such as a head's `in_features`.

    If all tensors inside the module that have a dimension of that size have it by one expression,
    it is that one; else nothing is known, and the integer stays. So does one whose name is not of a
    width, such as a loss's `num_steps`.
    """
    found = {}
    for place, size in unread.items():
        if not _WIDTHS.search(place[1]):
            continue
        inside = f"{place[0]}." if place[0] else ""
        dims = (d for name, shape in shapes.items() if name.startswith(inside) for d in shape)
        same = {d for d in dims if symbols(d) and evaluate(d, sizes) == sizes[size]}
        if len(same) == 1:
            found[place] = same.pop()
    return found


@cache  # a solution asks for the same few thousand again and again
def symbols(size: Size) -> tuple[str, ...]:
    """Return the symbols of an expression, each once.

    Examples
    --------
    >>> symbols("s3 + 2*s1 + s3"), symbols(64)
    (('s3', 's1'), ())
    """
    return tuple(dict.fromkeys(_SYMBOL.findall(size))) if isinstance(size, str) else ()


def size_of(size) -> Size:
    """Return a size of PyTorch's as a number, or as an expression of symbols."""
    return int(size) if str(size).isdigit() else str(size)


def evaluate(size: Size, values: Mapping[str, int]) -> int:
    """Return an expression's value.

    Examples
    --------
    >>> evaluate("2*s1 + s3//2", {"s1": 8, "s3": 5})
    18
    """
    try:
        return size if isinstance(size, int) else eval(_compiled(size), _FUNCTIONS, values)
    except NameError as error:  # a function of PyTorch's, or a number known when it runs
        raise ValueError(
            f"expected sizes that filters decide, got {size}, where a number depends on tensors' "
            f"values (nonzero, a mask) or is unknown here: {error}"
        ) from None


_FUNCTIONS = {"Mod": lambda a, b: a % b, "Eq": lambda a, b: a == b, "Ne": lambda a, b: a != b}
_FUNCTIONS |= {"FloorDiv": lambda a, b: a // b, "Max": max, "Min": min}
_FUNCTIONS |= {"PythonMod": lambda a, b: a % b, "CleanDiv": lambda a, b: a // b}
_FUNCTIONS |= {"IntTrueDiv": truediv, "FloatTrueDiv": truediv, "FloatPow": pow}
_FUNCTIONS |= {"PowByNatural": pow, "ToFloat": float, "TruncToFloat": trunc, "TruncToInt": trunc}
_FUNCTIONS |= {"FloorToInt": floor, "CeilToInt": ceil, "RoundToInt": round}


@cache
def _compiled(size: str):
    return compile(size, size, "eval")
