"""What claims are judged by: numbers with their ranges, looked up in frames of records."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd

from .data import DATASETS
from .experiments import WIDTHS

CIFAR, TINY = ("cifar10", "cifar100"), "tiny-imagenet"
DAMAGED = "damaged text"  # the source of a printed number that lost a digit
PROTOCOL = ("published", "paper", "paper128")  # the profiles that are the paper's protocol
KEYS = ["dataset", "model", "template", "network", "width"]
COLUMNS = {
    "accuracy": [*KEYS, "params", "n", "mean", "min", "max", "profile"],
    "cost": ["model", "template", "network", "params_millions", "memory_gb", "time_ms", "source"],
}


@dataclass(frozen=True)
class Span:
    """A number and the range it lies in: over its seeds, or all that is possible if unknown.

    `n` is the smallest number of seeds in it: 0 where something is missing, infinite for counts.
    `complete` is False where it rests on one point of a curve.

    Examples
    --------
    >>> gain = Span(95, 94, 96, n=3) - Span(90, 89, 91, n=3)
    >>> gain.value, gain.low, gain.high
    (5, 3, 7)
    """

    value: float
    low: float
    high: float
    n: float = math.inf
    sources: frozenset[str] = frozenset()
    complete: bool = True

    @property
    def measured(self) -> bool:
        """Whether all it is made of is there."""
        return self.complete and self.n > 0

    def __sub__(self, other: "Span") -> "Span":
        numbers = self.value - other.value, self.low - other.high, self.high - other.low
        return _joined(*numbers, (self, other))

    def __neg__(self) -> "Span":
        return _joined(-self.value, -self.high, -self.low, (self,))

    def over(self, base: "Span") -> "Span":
        """Return the change from a base in percent; both are above 0."""
        value = 100 * (self.value / base.value - 1)
        low = 100 * (self.low / base.high - 1) if base.high < math.inf else -100
        high = 100 * (self.high / base.low - 1) if 0 < base.low < math.inf else math.inf
        return _joined(value, low, high, (self, base))

    def size(self) -> "Span":
        """Return the change without its sign."""
        low, high = max(0, self.low, -self.high), max(-self.low, self.high)
        return _joined(abs(self.value), low, high, (self,))


def largest(spans: Sequence[Span], rank: int = 1) -> Span:
    """Return the largest number, or that of another rank, with the range it can lie in."""
    known = sorted((s.value for s in spans if not math.isnan(s.value)), reverse=True)
    value = known[rank - 1] if len(known) >= rank else math.nan
    low = sorted((s.low for s in spans), reverse=True)[rank - 1]
    high = sorted((s.high for s in spans), reverse=True)[rank - 1]
    return _joined(value, low, high, spans)


def smallest(spans: Sequence[Span]) -> Span:
    """Return the smallest number, with the range it can lie in."""
    return -largest([-span for span in spans])


def _joined(value: float, low: float, high: float, parts: Iterable[Span]) -> Span:
    parts = tuple(parts)
    sources = frozenset().union(*(part.sources for part in parts))
    complete = all(part.complete for part in parts)
    return Span(value, low, high, min(part.n for part in parts), sources, complete)


@dataclass(frozen=True)
class Frames:
    """A claim's data, in long form: the columns are `COLUMNS`; one row for each network.

    `accuracy` (CIFAR) and `tiny` (Tiny-ImageNet) are percentages over `n` seeds at the paper's
    width multipliers. They may also have `memory_gb`, `time_ms`, `built_width` and `devices`; all
    may have a `<quantity>_source` for what they cost. Of several sources in `cost` the first that
    has a quantity counts.
    """

    accuracy: pd.DataFrame
    cost: pd.DataFrame
    tiny: pd.DataFrame

    def __post_init__(self):
        for name in ("accuracy", "cost", "tiny"):
            frame, expected = getattr(self, name), COLUMNS["cost" if name == "cost" else "accuracy"]
            if missing := [column for column in expected if column not in frame]:
                raise ValueError(
                    f"expected the columns {', '.join(expected)} in the frame {name}, got "
                    f"{', '.join(frame)}: add {', '.join(missing)}"
                )
            keys = ["model", "template", "network", "source"] if name == "cost" else KEYS
            if (twice := frame.duplicated(keys)).any():
                cell = ", ".join(map(str, frame.loc[twice, keys].iloc[0]))
                raise ValueError(
                    f"expected one row for each of {', '.join(keys)} in the frame {name}, got two "
                    f"of {cell}: give each data set's rows of one profile"
                )


class Numbers:
    """Looks up spans in frames.

    `foreign` are the sources of accuracies that are not the paper's protocol.

    Parameters
    ----------
    frames : Frames
    networks : sequence of {"equations", "as published"}
        Which to take of a template's networks; the first there is.
    certain : bool
        Whether a range is one to judge by: accuracies of fewer than three seeds, of another profile
        than the paper's, at a reduced width or on a subset may then be anything.
    """

    def __init__(self, frames: Frames, networks: Sequence[str], certain: bool = False):
        self._networks, self._certain = networks, certain
        self.foreign: set[str] = set()
        self._rows = {}
        for frame, fixed in ((frames.accuracy, {}), (frames.tiny, {"dataset": TINY})):
            for row in frame.to_dict("records"):
                if row["profile"] == "published":  # printed without a range
                    row |= {"min": row["mean"], "max": row["mean"]}
                words = [f"profile {row['profile']}", DATASETS[row["dataset"]].label]
                row["source"] = ", ".join(words + _words(row.get("devices")))
                built = row.get("built_width", math.nan)  # NaN where only some rows have it
                row["protocol"] = (
                    row["profile"] in PROTOCOL
                    and row["dataset"] in (*CIFAR, TINY)
                    and (pd.isna(built) or built == row["width"])
                )
                if not row["protocol"]:
                    self.foreign.add(row["source"])
                self._rows[tuple((row | fixed)[key] for key in KEYS)] = row
        self._costs = {}
        for quantity in ("params_millions", "memory_gb", "time_ms"):
            known = frames.cost.dropna(subset=[quantity])
            first = known[known["source"].isin(known["source"].head(1))]
            for row in first.to_dict("records"):
                self._costs[quantity, row["model"], row["template"], row["network"]] = row

    def accuracy(self, dataset: str, model: str, template: str, width: float = 1.0) -> Span:
        """Return the accuracy in percent."""
        row = self._row(dataset, model, template, width)
        if row is None or not row["n"] or pd.isna(row["mean"]):
            return Span(math.nan, 0, 100, 0)
        sources = frozenset({row["source"]})
        if self._certain and (row["n"] < 3 or not row["protocol"]):
            return Span(row["mean"], 0, 100, row["n"], sources)
        return Span(row["mean"], row["min"], row["max"], row["n"], sources)

    def amount(self, x: str, dataset: str, model: str, template: str, width: float = 1.0) -> Span:
        """Return a network's parameters, memory or time as the accuracies' frame has it."""
        row = self._row(dataset, model, template, width)
        if row is None or pd.isna(row.get(x, math.nan)):
            return Span(math.nan, 0, math.inf, 0)
        return Span(*(3 * [row[x]]), sources=frozenset(_words(row.get(f"{x}_source"))))

    def cost(self, quantity: str, model: str, template: str) -> Span:
        """Return what Table 3 compares: `params_millions`, `memory_gb` or `time_ms`."""
        for network in self._networks:
            if row := self._costs.get((quantity, model, template, network)):
                sources = frozenset([row["source"], *_words(row.get(f"{quantity}_source"))])
                return Span(*(3 * [row[quantity]]), sources=sources)
        return Span(math.nan, 0, math.inf, 0)

    def needed(self, x: str, dataset: str, model: str, template: str) -> Span:
        """Return the least x at which a template's curve reaches the base's accuracy.

        Linear between widths; infinite where none of the eight widths reaches it. Widths that are
        missing may reach it with less.
        """
        base = self.accuracy(dataset, model, "base")
        points = self._curve(x, dataset, model, template)
        if not points or math.isnan(base.value):
            return Span(math.nan, 0, math.inf, 0)
        complete = len(points) == len(WIDTHS)
        value = _crossing([(at.value, y.value) for at, y in points], base.value)
        high = _crossing([(at.value, y.low) for at, y in points], base.high)
        low = 0
        if complete and base.low > 0:  # a base that may be anything decides nothing
            low = _crossing([(at.value, y.high) for at, y in points], base.low)
        if template == "base":  # the base reaches its own accuracy, whatever its seeds' range
            high = min(high, self.amount(x, dataset, model, "base").value)
        if value == math.inf and not complete:
            value = math.nan
        span = _joined(value, low, high, [base, *(part for pair in points for part in pair)])
        return replace(span, complete=len(points) > 1)

    def at_equal(self, x: str, dataset: str, model: str, template: str) -> Span:
        """Return the accuracy of a template's curve at the x of the base at width 1.0."""
        points = self._curve(x, dataset, model, template)
        at = self.amount(x, dataset, model, "base").value
        if len(points) < 2 or not at >= points[0][0].value:
            return Span(math.nan, 0, 100, 0)
        xs = [position.value for position, _ in points]
        value, low, high = (
            float(np.interp(at, xs, [getattr(y, name) for _, y in points]))
            for name in ("value", "low", "high")
        )
        if len(points) < len(WIDTHS):
            low, high = 0, 100
        return _joined(value, low, high, [part for pair in points for part in pair])

    def _row(self, dataset: str, model: str, template: str, width: float) -> dict | None:
        keys = ((dataset, model, template, network, width) for network in self._networks)
        return next((self._rows[key] for key in keys if key in self._rows), None)

    def _curve(self, x: str, dataset: str, model: str, template: str) -> list[tuple[Span, Span]]:
        points = [
            (
                self.amount(x, dataset, model, template, width),
                self.accuracy(dataset, model, template, width),
            )
            for width in WIDTHS
        ]
        known = [pair for pair in points if not any(math.isnan(part.value) for part in pair)]
        return sorted(known, key=lambda pair: pair[0].value)


def _words(value) -> list[str]:
    """Return a text in a list, or none where a frame has no such column or no value in it."""
    return [value] if isinstance(value, str) and value else []


def _crossing(points: Sequence[tuple[float, float]], target: float) -> float:
    """Return the least x at which points joined by lines reach a target, else infinity."""
    if points[0][1] >= target:
        return points[0][0]
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 >= target:
            return x0 + (x1 - x0) * (target - y0) / (y1 - y0)
    return math.inf
