"""A network as a value: described once, solved once, rounded once, and built by one path."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import floor
from typing import TYPE_CHECKING

from ..checks import check_choice, check_flag, check_integer, closest
from ..templates import TEMPLATES, VERTICES, check_filters, exact_width, round_filters, solve
from . import costs
from .families import FAMILIES, NETWORKS, check_model

if TYPE_CHECKING:
    from torch import nn

CONVENTIONS = ("equations", "published")
LARGEST = 10**8  # of one layer; far beyond it PyTorch's own integers overflow
# What makes a network's filters where nothing else is asked for.
DEFAULTS = {"template": "base", "width": 1.0, "convention": "equations"}
DEFAULTS |= {"keep_total": False, "round_to": None, "vertex": "half"}


@dataclass(frozen=True)
class Network:
    """A model with filters: all that decides its layers, checked, in one form.

    `filters` are every layer's: 16 for VGG-19, 4 for ResNet-50 (the stem takes the first), 14 for
    MobileNet (stem, 13 blocks) and 10 for Inception (pre-layer, nine modules: an integer or six).
    Only VGG-19 has the `head` "flatten7x7".

    Examples
    --------
    >>> network = Network("resnet50", [240, 240, 240, 240])
    >>> network.params, network.macs(32)
    (18559930, 5041345920)
    """

    model: str
    filters: tuple
    num_classes: int = 10
    in_chans: int = 3
    head: str = "pool"

    def __post_init__(self):
        check_model(self.model)
        check_choice(f"head of {self.model}", self.head, FAMILIES[self.model].heads)
        # In one form: equal networks are one, whatever kind of list or number described them.
        change = partial(object.__setattr__, self)
        change("filters", _check_own(self.model, self.filters))
        change("num_classes", check_integer("num_classes", self.num_classes, 0, LARGEST))
        change("in_chans", check_integer("in_chans", self.in_chans, 1, LARGEST))

    @property
    def label(self) -> str:
        """The model's name as the paper writes it."""
        return FAMILIES[self.model].label

    def layers(self) -> tuple[int | Fraction, ...]:
        """Return what a template sees: D filters, Inception's six by their exact mean."""
        seen = [Fraction(sum(f), 6) if isinstance(f, tuple) else f for f in self.filters]
        if FAMILIES[self.model].fixed is not None:
            del seen[FAMILIES[self.model].fixed]
        return tuple(seen)

    @property
    def params(self) -> int:
        """The number of parameters."""
        return sum(layer.params for layer in costs.layers(self))

    def macs(self, image_size: int = 32) -> int:
        """Return the multiply-accumulates of one image's forward pass, convs and linears."""
        image_size = check_integer("image_size", image_size)
        return sum(layer.macs for layer in costs.layers(self, image_size))

    def build(self, **timm_kwargs) -> "nn.Module":
        """Return a module, freshly initialised from PyTorch's global generator."""
        from .build import build  # timm and torchvision take seconds to import

        return build(self, **timm_kwargs)


def make_network(
    model: str,
    template: str = "base",
    width: float = 1.0,
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    head: str | None = None,
    convention: str = "equations",
    keep_total: bool = False,
    round_to: int | None = None,
    vertex: str = "half",
    filters: Sequence | None = None,
) -> Network:
    """Return a model's network under a template, or with filters of one's own; see `create_model`.

    Examples
    --------
    >>> make_network("resnet50", "uniform").filters
    (240, 240, 240, 240)
    >>> make_network("resnet50", "uniform", convention="published").filters
    (200, 200, 200, 200)
    """
    family = FAMILIES[check_model(model)]
    check_choice("template", template, TEMPLATES)
    check_choice("convention", convention, CONVENTIONS)
    check_choice("vertex", vertex, VERTICES)
    rounding = {"keep_total": check_flag("keep_total", keep_total), "round_to": round_to}
    factor, exact = exact_width(width), {**rounding, "vertex": vertex}
    if filters is not None:
        check_alone({"template": template, "width": factor, "convention": convention, **exact})
    elif convention == "published":
        if unused := [what for what, value in exact.items() if value != DEFAULTS[what]]:
            raise ValueError(
                f"expected convention='published' without {', '.join(unused)}, as the paper ran "
                "its networks: leave it out, or use convention='equations'"
            )
        stated = NETWORKS[model][template]["filters"]
        filters = _each(stated, lambda sizes: [max(1, floor(factor * size)) for size in sizes])
    else:
        values = solve(Network(model, family.base).layers(), template, vertex=vertex)
        scaled = partial(round_filters, width=factor, **rounding)  # all layers in one call
        if template == "base":  # Inception's sizes each scale from their own
            filters = _each(family.base, scaled)
        elif family.fixed == 0:  # the pre-layer is as wide as the first module
            filters = scaled(values)
            filters = (filters[0], *filters)
        else:
            fixed = () if family.fixed is None else (family.base[family.fixed],)
            filters = scaled((*values, *fixed))
    head = family.heads[0] if head is None else head
    return Network(model, filters, num_classes, in_chans, head)


def check_alone(asked: Mapping) -> None:
    """Raise an error that names what is asked beside filters of one's own, if not the defaults."""
    if given := [what for what, value in asked.items() if value != DEFAULTS[what]]:
        raise ValueError(
            f"expected either filters or a template and width, got filters and {', '.join(given)}; "
            "redistribute a list of your own first: filters=apply_template(filters, template, "
            "width)"
        )


def check_options(what: str, given: Iterable[str], options: Sequence[str]) -> None:
    """Raise an error that lists `options` unless all that is given is among them."""
    for option in given:
        if option not in options:
            hint = closest(option, options)
            raise TypeError(f"{what} has no option {option!r}{hint}; it has {', '.join(options)}")


def _each(filters: Sequence, change: Callable) -> tuple:
    """Change all sizes in one call, and group them again as they were."""
    listed = [f if isinstance(f, list | tuple) else [f] for f in filters]
    changed = iter(change([size for f in listed for size in f]))
    groups = [tuple(next(changed) for _ in f) for f in listed]
    return tuple(group if len(group) > 1 else group[0] for group in groups)


def _check_own(model: str, filters: Sequence) -> tuple:
    """Return filters checked, in tuples of Python's integers; six equal sizes are one number."""
    family, sixes = FAMILIES[model], {}
    if family.layer == "Module" and isinstance(filters, list | tuple):
        listed = [i for i, f in enumerate(filters) if i and isinstance(f, list | tuple)]
        sixes = {i: check_filters(filters[i], 6, LARGEST) for i in listed}
        filters = [sixes[i][0] if i in sixes else f for i, f in enumerate(filters)]
    checked = check_filters(filters, most=LARGEST)
    if len(checked) != len(family.base):
        raise ValueError(
            f"expected {len(family.base)} filters for {family.label}, got {len(checked)}: one for "
            f"each of its base's, {', '.join(map(str, family.base))}"
        )
    return tuple(sixes[i] if len(set(sixes.get(i, ()))) > 1 else f for i, f in enumerate(checked))
