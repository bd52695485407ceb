"""Which coupled channels make one layer f_l, and which sizes follow from the layers' filters.

Layers are the convolutions that make maps, in the order in which they run; those whose channels are
coupled are one layer, named by the first. Its filters decide its symbols; equations between sizes
decide others; what is left (squeeze-excitation, hidden linear layers) follows what it reads.
"""

import ast
import contextlib
import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice
from math import floor

from ..templates import round_filters
from .channels import Channels, Size, evaluate, symbols

_TRIES = 500  # of numbers of filters for one layer, until what follows from one has a solution
_RETURNED = "makes what the network returns"
_REST = re.compile(r"\d+( - (\d+\*)?s\d+)+")  # a number less symbols, as 64 - s1
_SUM = re.compile(r"((\d+\*)?s)?\d+( \+ ((\d+\*)?s)?\d+)*")
_SEARCH = 8192  # how far from the wished filters numbers that run are looked for


@dataclass(frozen=True)
class Layer:
    """One layer f_l: named by its first convolution, with all of them and its original filters.

    `size` is what the first convolution makes; of its symbols this layer decides the `free` ones,
    and has as many filters as they contribute.
    """

    name: str
    convs: tuple[str, ...]
    filters: int
    size: Size
    free: tuple[str, ...]


@dataclass(frozen=True)
class Layers:
    """Layers in the order in which they run; `frozen` are convolutions, each with the reason."""

    channels: Channels
    layers: tuple[Layer, ...]
    frozen: Mapping[str, str]

    def solve(self, wished: Sequence[int]) -> dict[str, int]:
        """Return every symbol's value for the layers' filters, as near as the forward pass allows.

        Where a layer has no number that would run, the one before on which that depends gets more.

        Raises
        ------
        ValueError
            If that does not help either.
        """
        wished = list(wished)
        for _ in range(_TRIES):
            try:
                return self._solve(wished)
            except _Unsolvable as problem:
                before = [
                    i
                    for i, layer in enumerate(self.layers)
                    if layer.name != problem.name and set(layer.free) & problem.depends
                ]
                if not before:
                    raise ValueError(str(problem)) from None
                wished[before[-1]] += 1 + wished[before[-1]] // 16
        raise ValueError(f"expected numbers of filters that run, got none near {wished}")

    def _solve(self, wished: Sequence[int]) -> dict[str, int]:
        solver, wished = _Solver(self.channels), iter(wished)
        for conv in self.channels.convs:
            solver.follow(conv.name, conv.inputs)
            if conv.spatial and solver.unknown(conv.filters):
                solver.decide(conv.name, conv.filters, next(wished))
        return solver.finish()


def find_layers(channels: Channels) -> Layers:
    """Return the layers of a traced network.

    Symbols that contribute to one convolution's filters and are still free are one layer together:
    of a convolution whose output is split, the pieces keep their proportions.
    """
    channels = _of_fixed_joins(channels)
    solver, found, frozen = _Solver(channels), [], {}
    owners = dict.fromkeys(solver.values, -1)
    for conv in channels.convs:
        solver.follow(conv.name, conv.inputs)
        if not conv.spatial:
            continue
        if free := tuple(solver.unknown(conv.filters)):
            filters = part(conv.filters, free, channels.sizes)
            found.append(Layer(conv.name, (), filters, conv.filters, free))
            solver.decide(conv.name, conv.filters, filters)
        # What was decided since the layer before follows from this one.
        for symbol in solver.values:
            owners.setdefault(symbol, len(found) - 1)
        owned = max((owners[symbol] for symbol in symbols(conv.filters)), default=-1)
        if owned >= 0:
            layer = found[owned]
            found[owned] = replace(layer, convs=tuple(dict.fromkeys((*layer.convs, conv.name))))
        elif symbols(conv.filters):
            frozen[conv.name] = channels.kept.get(symbols(conv.filters)[0], _RETURNED)
        else:
            one = conv.filters == 1
            frozen[conv.name] = "has one filter" if one else "has a size that stays a number"
    return Layers(channels, tuple(found), frozen)


def _of_fixed_joins(channels: Channels) -> Channels:
    """Let filters stay that are joined to a fixed number; tie what is cut again as it was joined.

    Else only the sum would be kept: what is joined and what is cut would have other boundaries.
    """
    sizes, kept, ties = channels.sizes, dict(channels.kept), []
    filters = {s for conv in channels.convs if conv.spatial for s in symbols(conv.filters)}
    sums = [str(conv.filters) for conv in channels.convs if _REST.fullmatch(str(conv.filters))]
    for sides in filter(None, map(_sides, channels.guards)):
        joined = [side for side in sides if len(filters.intersection(symbols(side))) > 1]
        if len(joined) != 1 or not all(map(_SUM.fullmatch, sides)):
            continue
        if not all(map(symbols, sides)):
            sums += joined
        one, two = ({evaluate(s, sizes): s for s in side.split(" + ")} for side in sides)
        # By their original sizes, where those tell them apart.
        if one.keys() == two.keys() and all(side.count("+") == len(one) - 1 for side in sides):
            ties += [f"Eq({one[size]}, {two[size]})" for size in one if one[size] != two[size]]
    kept = {s: "joins others to a fixed number" for size in sums for s in symbols(size)} | kept
    return replace(channels, kept=kept, guards=(*channels.guards, *ties))


class _Unsolvable(Exception):
    """A size has no value that would run, for those that were decided before it depends on."""

    def __init__(self, name: str, wished: int, depends: Iterable[str] = ()):
        super().__init__(f"expected {wished} filters, or near that, for {name}: none would run")
        self.name, self.depends = name, set(depends)


class _Solver:
    """Decides symbols one after the other, and what follows from them by equations."""

    def __init__(self, channels: Channels):
        self.channels, self.original = channels, channels.sizes
        self.values = {symbol: channels.sizes[symbol] for symbol in channels.kept}
        self.guards = _by_symbol({guard: symbols(guard) for guard in channels.guards})
        sides = filter(None, map(_sides, channels.guards))
        self.equations = {pair: (*symbols(pair[0]), *symbols(pair[1])) for pair in sides}
        self.equations_of = _by_symbol(self.equations)
        of_layers = (symbols(conv.filters) for conv in channels.convs if conv.spatial)
        self.of_layers = set(chain.from_iterable(of_layers))
        shapes = {s: [*map(symbols, s)] for s in dict.fromkeys(channels.shapes.values()) if s}
        self.made_by = _by_symbol({shape: named[0] for shape, named in shapes.items()})
        self.read_by = _by_symbol({shape: sum(named[1:], ()) for shape, named in shapes.items()})
        self._propagate({*self.equations})

    def unknown(self, size: Size) -> list[str]:
        return [symbol for symbol in symbols(size) if symbol not in self.values]

    def decide(self, name: str, size: Size, wished: int) -> None:
        """Give an expression's unknown symbols values with which they contribute what is wished."""
        free, before = self.unknown(size), self.values
        touched = {pair for symbol in free for pair in self.equations_of.get(symbol, ())}
        tries = self._nearest(size, free, wished + _rest(size, free, before))
        for _, values in islice(tries, _TRIES):
            self.values = before | values
            with contextlib.suppress(_Unsolvable):  # what follows from it may have no solution
                self._propagate(touched)
                return
            self.values = before
        known = [symbol for guard in self._guards_of(free) for symbol in symbols(guard)]
        raise _Unsolvable(name, wished, [symbol for symbol in known if symbol in self.values])

    def follow(self, name: str, size: Size, asked: Iterable[str] = ()) -> None:
        """Decide an expression's unknown symbols in the proportion of what is known already.

        That is the rest of the expression, what the tensors that make them read (which follows
        first, unless a layer will decide it), what tensors make of them, or what must divide or
        exceed them. `asked` are symbols that wait for these: they are not asked for again.
        """
        if not (free := self.unknown(size)):
            return
        guards = [symbol for guard in self._guards_of(free) for symbol in symbols(guard)]
        # Of several the one that had the same size: most likely it is the same number.
        guards.sort(key=lambda symbol: self.original[symbol] not in map(self.original.get, free))
        rest = [symbol for symbol in symbols(size) if symbol not in free]
        for host in chain(rest, self._beside(name, free, {*self.of_layers, *asked, *free}), guards):
            if symbols(host) and not self.unknown(host):
                ratio = Fraction(evaluate(host, self.values), evaluate(host, self.original))
                break
        else:
            ratio = Fraction(1)
        if not (free := self.unknown(size)):  # what had to follow first has decided them, too
            return
        before = part(size, free, self.original)
        wished = floor(before * ratio + Fraction(1, 2))
        self.decide(name, size, max(1, wished) if before > 0 else wished)

    def _beside(self, name: str, free: Sequence[str], asked: set[str]) -> Iterator[Size]:
        """Yield other sizes of tensors with free symbols: first of those that make them."""
        for symbol in free:
            for _, *others in self.made_by.get(symbol, ()):
                for other in others:
                    if asked.isdisjoint(symbols(other)):
                        self.follow(name, other, asked)
                yield from others
        for symbol in free:
            for first, *_ in self.read_by.get(symbol, ()):
                yield first

    def finish(self) -> dict[str, int]:
        """Decide what no layer does; return all values, once all that must hold does."""
        for symbol in self.original:
            self.follow(symbol, symbol)
        for guard in self.channels.guards:
            if not _holds(guard, self.values):
                said = ", ".join(f"{symbol} = {self.values[symbol]}" for symbol in symbols(guard))
                raise ValueError(f"expected sizes with {guard}, got {said}")
        return self.values

    def _propagate(self, touched: Iterable[tuple[str, str]]) -> None:
        """Decide what follows from equations that have symbols which are newly decided."""
        touched = set(touched)
        while touched:
            for sides in filter(touched.__contains__, self.equations):  # in their order
                touched.remove(sides)
                free = [self.unknown(side) for side in sides]
                if any(free) and not all(free):
                    side, other = sides if free[0] else sides[::-1]
                    wished = evaluate(other, self.values)
                    off, values = next(self._nearest(side, free[0] or free[1], wished), (1, None))
                    if off:
                        raise _Unsolvable(side, wished)
                    self.values = self.values | values
                    touched.update(pair for one in values for pair in self.equations_of[one])

    def _nearest(self, size: Size, free: Sequence[str], wished: int) -> Iterator[tuple]:
        """Yield (distance, the free symbols' values), by how far `size` is from what is wished."""
        original = {symbol: self.original[symbol] for symbol in free}
        guards = [g for g in self._guards_of(free) if original.keys() >= {*self.unknown(g)}]
        read = {symbol for one in (size, *guards) for symbol in symbols(one)}
        known = {symbol: self.values[symbol] for symbol in read.difference(free)}
        total = sum(original.values())
        # Sizes are linear in their symbols, up to a division's remainder.
        here = evaluate(size, known | original)
        twice = evaluate(size, known | {symbol: 2 * n for symbol, n in original.items()})
        slope = Fraction(twice - here, total)
        middle = max(len(free), floor(total + (wished - here) / slope) if slope else total)
        found = []
        for off, sign in ((off, sign) for off in range(_SEARCH) for sign in (1, -1)):
            while found and off > found[0][1] + 2:
                yield found[0][0], heapq.heappop(found)[-1]
            if (amount := middle + sign * off) >= len(free) and (off or sign > 0):
                values = _split(original, amount)
                if all(_holds(guard, known | values) for guard in guards):
                    distance = abs(evaluate(size, known | values) - wished)
                    heapq.heappush(found, (distance, off, -sign, values))
        yield from ((one[0], one[-1]) for one in sorted(found))

    def _guards_of(self, free: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(guard for s in free for guard in self.guards.get(s, ())))


def _by_symbol(expressions: Mapping[object, Iterable[str]]) -> dict[str, list]:
    """Return the expressions that each symbol is in."""
    found = {}
    for expression, named in expressions.items():
        for symbol in named:
            found.setdefault(symbol, []).append(expression)
    return found


def _rest(size: Size, free: Sequence[str], values: Mapping[str, int]) -> int:
    """Return what an expression is without its free symbols, if it has others."""
    others = len(free) < len(symbols(size))
    return evaluate(size, {**values, **dict.fromkeys(free, 0)}) if others else 0


def part(size: Size, free: Sequence[str], values: Mapping[str, int]) -> int:
    """Return what the free symbols contribute to an expression."""
    return evaluate(size, values) - _rest(size, free, values)


def _holds(guard: str, values: Mapping[str, int]) -> bool:
    try:
        return bool(evaluate(guard, values))
    except ArithmeticError:
        return False


def _sides(guard: str) -> tuple[str, str] | None:
    """Return both sides of an equation of integers, but of none that only asks for a remainder.

    Examples
    --------
    >>> _sides("Eq(s1 + s2, 2*s3)"), _sides("Eq(Mod(s1, 4), 0)")
    (('s1 + s2', '2*s3'), None)
    """
    if not guard.startswith("Eq(") or re.search(r"Mod|[|&]|Float|TrueDiv", guard):
        return None
    one, two = ast.parse(guard, mode="eval").body.args
    sides = ast.get_source_segment(guard, one), ast.get_source_segment(guard, two)
    # A quotient that is a constant only says in which range its symbols lie.
    return sides if all(map(symbols, sides)) or "//" not in guard else None


def _split(original: Mapping[str, int], amount: int) -> dict[str, int]:
    """Share an amount in the original proportions, by the largest remainder, each at least one."""
    if len(original) == 1:  # nearly always, and thousands of times
        return dict.fromkeys(original, amount)
    total = sum(original.values())
    exact = [Fraction(size * amount, total) for size in original.values()]
    return dict(zip(original, round_filters(exact, keep_total=True), strict=True))
