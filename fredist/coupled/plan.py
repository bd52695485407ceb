"""From a network and a template to a redistribution: by tracing it, or by the paper's own lists."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from torch import nn

from .. import templates
from ..checks import check_integer, closest
from ..networks import FAMILIES, make_network
from ..networks.budget import OPTIONS
from ..networks.network import check_alone, check_options
from . import sources
from .channels import evaluate, symbols
from .groups import Group, make_groups
from .layers import Layer, Layers, find_layers, part
from .redistribution import Redistribution, Row, as_tuples
from .trace import trace

# The options of `redistribute`: how to plan, what the result may cost, and the rest.
HOW = ("filters", "tie", "groups", "fixed", "vertex", "keep_total", "round_to")
# The convolutions of each of the layers of the paper's networks, shortcuts among them.
_CONVS = {"vgg19": (1,) * 16, "resnet50": (11, 13, 19, 10), "mobilenet": (1,) + (2,) * 13}
_CONVS["inception"] = (1,) + (7,) * 9
COSTS = ("params", "macs", "memory", "latency")
_ALL = (*HOW, *COSTS, "template", "width", "like", "image_size", "quiet", "num_classes", "in_chans")


@dataclass(frozen=True)
class Traced:
    """A network whose layers were found by tracing it."""

    source: str
    options: Mapping
    image_shape: tuple[int, int, int]
    found: Layers

    def plan(
        self,
        template: str = "base",
        width: float = 1.0,
        *,
        filters: Sequence[int] | None = None,
        vertex: str = "half",
        tie=None,
        groups=None,
        fixed=None,
        **rounding,
    ) -> Redistribution:
        """Return the redistribution under a template, or with filters of one's own, as a value."""
        channels, layers = self.found.channels, self.found.layers
        units, made_by = make_groups(layers, tie, groups, fixed), _asked(template, width, filters)
        if filters is None:
            filters = _solved(units, template, width, vertex, rounding)
        else:
            check_alone({"template": template, "width": width, "vertex": vertex, **rounding})
        wished = {}
        for unit, size in zip(units, templates.check_filters(filters, len(units)), strict=True):
            wished |= unit.share(size, rounding.get("round_to"))
        notes = {layer.name: unit.note for unit in units for layer in unit.layers}
        values = self.found.solve([wished[layer.name] for layer in layers])
        rows = tuple(self._rows(wished, notes, values))
        counts = {
            what: (channels.count(what, channels.sizes), channels.count(what, values))
            for what in ("params", "macs")
        }
        return Redistribution(
            source=self.source,
            options=self.options,
            image_shape=self.image_shape,
            **made_by,
            rows=rows,
            **channels.changes(values),
            **counts,
        )

    def _rows(self, wished: Mapping, notes: Mapping, values: Mapping) -> Iterator[Row]:
        """Yield the layers and what was frozen; notes say where not the template alone decides."""
        channels = self.found.channels
        sizes = {conv.name: conv.filters for conv in channels.convs}
        for layer in self.found.layers:
            after = part(layer.size, layer.free, values)
            asked, said = wished[layer.name], [notes[layer.name]]
            if after != asked:
                said.append(f"{asked} would not run as traced")
            said += _out_of_proportion(layer, after, sizes, channels.sizes, values)
            note = "; ".join(filter(None, said))
            yield Row(layer.name, len(layer.convs), layer.filters, after, note)
        for name, reason in self.found.frozen.items():
            size = evaluate(sizes[name], values)
            yield Row(name, 1, size, size, f"frozen: {reason}")


@dataclass(frozen=True)
class Papers:
    """One of the paper's four networks, whose layers are the paper's own."""

    model: str
    options: Mapping
    image_size: int

    def plan(self, template: str = "base", width: float = 1.0, **options) -> Redistribution:
        """Return the redistribution under a template, or with filters of one's own, as a value."""
        traced = f"tie, groups, fixed and timm's options: timm/fredist_{self.model}"
        check_options(
            f"the paper's {self.model} ({traced})", self.options | options, ("filters", *OPTIONS)
        )
        known = make_network(self.model, **self.options)
        new = make_network(self.model, template, width, **self.options, **options)
        # Which convention made the filters no longer matters.
        shape = {name: value for name, value in self.options.items() if name != "convention"}
        rows = [
            Row(f"{FAMILIES[self.model].layer} {i}", convs, *filters)
            for i, (convs, *filters) in enumerate(
                zip(_CONVS[self.model], known.filters, new.filters, strict=True), 1
            )
        ]
        return Redistribution(
            source=f"fredist/{self.model}",
            options=shape | {"filters": new.filters},
            image_shape=(new.in_chans, self.image_size, self.image_size),
            **_asked(template, width, options.get("filters")),
            rows=tuple(rows),
            shapes={},
            integers=(),
            params=(known.params, new.params),
            macs=(known.macs(self.image_size), new.macs(self.image_size)),
        )


def _asked(template: str, width: float, filters: Sequence | None) -> dict:
    """Return what made the filters; as `create_model` has it, nothing if they are one's own."""
    if filters is not None:
        return {"template": None, "width": None}
    return {"template": template, "width": float(templates.exact_width(width))}


def study(model: str | nn.Module, image_size: int | None = None, **options) -> Traced | Papers:
    """Return what a network's redistributions start from; a name is traced once in a process.

    Examples
    --------
    >>> study("resnet18", 64).plan("uniform").filters[:3]
    (240, 240, 240)
    """
    if isinstance(image_size, list):
        image_size = tuple(image_size)
    if isinstance(model, nn.Module):
        sources.check_own(model)
        in_chans = options.pop("in_chans", None) or sources.first_channels(model)
        if options:
            raise TypeError(
                f"expected no options beside a module, which has its own, got {options}"
                f"{_meant(options)}"
            )
        return _traced("", {}, model, image_size, in_chans)
    if not isinstance(model, str):
        raise TypeError(f"expected a network's name or a module, got {model!r}")
    if model in FAMILIES:
        size = 32 if image_size is None else image_size
        return Papers(model, options, check_integer("image_size", size))
    try:
        text = json.dumps(options, sort_keys=True)
    except TypeError as error:
        raise TypeError(
            f"expected options that JSON can hold, to rebuild the network from (timm takes names "
            f"of layers, too: act_layer='silu'), got {options}"
        ) from error
    return _study("/".join(sources.find(model)), image_size, text)


@lru_cache(maxsize=32)
def _study(source: str, image_size: int | None, text: str) -> Traced:
    library, name = source.split("/")
    options = as_tuples(json.loads(text))
    size = sources.own_size(library, name) if image_size is None else image_size
    try:
        built = sources.create_bare(library, name, **options)
    except TypeError as error:
        raise TypeError(
            f"expected options that {source} takes, got {', '.join(options) or 'none'}: {error}"
            f"{_meant(options)}"
        ) from error
    return _traced(source, options, built, size, options.get("in_chans", 3))


def _traced(source: str, options: Mapping, model: nn.Module, image_size, in_chans: int) -> Traced:
    shape, own = (sources.image_shape(model, in_chans, size) for size in (image_size, None))
    larger = [own] if max(own[1:]) > max(shape[1:]) else []
    layers = find_layers(trace(model, shape, *larger))
    if not layers.layers:
        frozen = list(layers.frozen.items())[:3]
        reasons = ", ".join(f"{name} {reason}" for name, reason in frozen)
        raise ValueError(
            "expected a network with convolutions whose number of filters may change, got "
            f"{source or type(model).__name__} with none: {reasons or 'no maps are made'}"
        )
    return Traced(source, options, shape, layers)


def _meant(options: Mapping) -> str:
    """Return the hint that an option is a misspelled one of `redistribute`, or nothing."""
    return next(filter(None, (closest(name, _ALL) for name in options if name not in _ALL)), "")


def _out_of_proportion(layer: Layer, after: int, sizes, before, values) -> Iterator[str]:
    """Say which of a layer's convolutions do not change as it does: code adds, or others share."""
    first = {}
    for name in layer.convs:
        first.setdefault(sizes[name], name)
    for size, name in first.items():
        filters, free = evaluate(size, values), [s for s in symbols(size) if s in layer.free]
        if len(free) == len(symbols(size)):
            ratio = Fraction(evaluate(size, before), layer.filters)
            wish = ratio * after
            if abs(filters - wish) > max(1, ratio):  # what rounding the layer's may make of it
                added = evaluate(size, dict.fromkeys(layer.free, 0))
                why = f": its code adds {added}" if added else ""
                yield f"{name} has {filters}, not {float(wish):.0f}{why}"
        elif free:
            own = part(size, free, values)
            yield f"{name} has {filters}: {own} of this layer, the rest of others"


def _solved(units: list[Group], template, width, vertex, rounding) -> list[int]:
    """Solve for the groups that templates change; round with those that are fixed in one call."""
    seen = [unit.filters for unit in units if unit.how != "fixed"]
    values = iter(templates.solve(seen, template, vertex=vertex) if seen else ())
    new = [unit.filters if unit.how == "fixed" else next(values) for unit in units]
    return templates.round_filters(new, width, **rounding)
