"""Any network's redistribution as a value: solved once, rounded once, built by one path."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import nn

from ..checks import check_integer
from ..networks import Network, create_model
from . import sources
from .build import check, resize
from .initial import newly_built

_ASKED = ("template", "width", "convention")  # of `create_model`


@dataclass(frozen=True)
class Row:
    """One layer, before and after; `note` says what else than the template decides its filters."""

    layer: str
    convs: int
    before: int
    after: int
    note: str = ""


@dataclass(frozen=True)
class Redistribution:
    """A network with new filters: all that decides it, and what it costs; JSON holds all of it.

    `template` and `width` are None with filters of one's own. `shapes` and `integers` are the
    tensors and the attributes of modules that change. `params` and `macs` (of one image) are the
    original's and the new network's.
    """

    source: str
    options: Mapping
    image_shape: tuple[int, int, int]
    template: str | None
    width: float | None
    rows: tuple[Row, ...]
    shapes: Mapping[str, tuple[int, ...]]
    integers: tuple[tuple[str, str, int | None, int], ...]
    params: tuple[int, int]
    macs: tuple[int, int]

    @property
    def table(self) -> pd.DataFrame:
        """One row per layer: its convolutions, filters before and after, and what decides them."""
        return pd.DataFrame(self.rows)

    @property
    def filters(self) -> tuple[int, ...]:
        """The new filters, one per layer, in the order in which they run."""
        return tuple(row.after for row in self.rows if not row.note.startswith("frozen"))

    def build(self, model: nn.Module | None = None, *, original: bool = False) -> nn.Module:
        """Return the network, freshly initialised and checked by a forward pass.

        A network of one's own is built on a fresh copy of `model`, any other where `model` is, if
        there is one; on the meta device nothing is initialised. `original` has its own filters.
        """
        library, _, name = self.source.partition("/")
        if library == "fredist":
            options = dict(self.options)
            if original:
                options.pop("filters")
            if model is not None:
                options["device"] = next(model.parameters()).device
            built = create_model(name, **options)
        elif model is not None:
            built = newly_built(model)
        elif library:
            built = sources.create(*sources.find(self.source), **self.options)
        else:
            raise ValueError(
                "expected the original network beside the filters of one of your own: "
                "rebuild(text, model=...)"
            )
        if not original:
            resize(built, self.shapes, {tuple(place): value for *place, value in self.integers})
            check(built, self.image_shape, self.params[1])
            own = getattr(built, "network", None)
            if library != "fredist" and isinstance(own, Network):  # traced as any other
                for stale in ("network", "filters", "_model_args", *_ASKED):
                    delattr(built, stale)
            built.redistribution = self
        return built

    def bare(self, model: nn.Module | None = None) -> nn.Module:
        """Return the original on the meta device, to build on at little cost: shapes, no values."""
        if self.source.startswith("fredist/"):
            with torch.device("meta"):
                return self.build(original=True)
        if model is None and self.source:
            model = sources.create_bare(*sources.find(self.source), **self.options)
        return sources.on_meta(model)

    def to_json(self) -> str:
        """Return all of it as JSON, from which `rebuild` makes the network without tracing."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Redistribution":
        """Return what `to_json` wrote; a `ValueError` says that it did not write this."""
        try:
            held = json.loads(text)
            held["rows"] = tuple(Row(**as_tuples(row)) for row in held["rows"])
            held["options"] = as_tuples(held["options"])
            held["shapes"] = {name: _sizes(shape) for name, shape in held["shapes"].items()}
            held["integers"] = tuple(map(tuple, held["integers"]))
            counts = {"image_shape": None, "params": 2, "macs": 2}
            return cls(**held | {key: _sizes(held[key], n) for key, n in counts.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"expected a redistribution's to_json(), got {str(text)[:50]!r}: {error!r}"
            ) from None


def _sizes(values: Iterable, count: int | None = None) -> tuple[int, ...]:
    """Return sizes that JSON holds, so many if that is known, or raise an error."""
    sizes = tuple(check_integer("sizes", value) for value in values)
    if count not in (None, len(sizes)):
        raise ValueError(f"expected {count} sizes, got {sizes}")
    return sizes


def as_tuples(values: Mapping) -> dict:
    """Return values as they were before JSON made lists of tuples, an Inception module's six."""

    def as_tuple(value):
        return tuple(map(as_tuple, value)) if isinstance(value, list) else value

    return {name: as_tuple(value) for name, value in values.items()}


def rebuild(text: str, model: nn.Module | None = None) -> nn.Module:
    """Return the network that a redistribution's JSON describes, freshly initialised.

    One of your own needs `model`, the original; no other does, and nothing is traced again.

    Examples
    --------
    >>> from fredist import redistribute
    >>> model = redistribute("vgg19", "uniform", like="macs", num_classes=100)
    >>> rebuild(model.redistribution.to_json()).filters[:3]
    (152, 152, 152)
    """
    if not isinstance(model, nn.Module | None):
        raise TypeError(f"expected the original network as model, a module, got {model!r}")
    return Redistribution.from_json(text).build(model)
