"""The four networks' filters: what the paper starts from, and what a template makes of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from types import MappingProxyType

from ..templates import (
    CONVENTIONS,
    TEMPLATES,
    apply_template,
    check_choice,
    round_filters,
    solve,
)

VGG19 = (64, 64, 128, 128, *(256,) * 4, *(512,) * 8)
VGG_HEADS = ("pool", "flatten7x7")

RESNET50 = (64, 128, 256, 512)

# The stem and the first twelve blocks. The last block is fixed: not in the text, but the
# published counts come out only so.
MOBILENET = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024)
MOBILENET_LAST = 1024

# Each module's six sizes: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
INCEPTION = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
# What a template sees of each module, in the two readings of "a module marked with f_l filters":
# every conv has f_l filters (the text), so the module counts as the exact mean of its six sizes;
# or it counts by its output channels and its sizes keep their proportions.
INCEPTION_MEANS = tuple(Fraction(sum(sizes), 6) for sizes in INCEPTION)
INCEPTION_OUTPUTS = tuple(sizes[0] + sizes[2] + sizes[4] + sizes[5] for sizes in INCEPTION)
INCEPTION_READINGS = ("every_conv", "proportional")
INCEPTION_PRE = 192


def redistribute_inception(
    template: str,
    width: float = 1.0,
    *,
    convention: str = "equations",
    reading: str = "every_conv",
    **rounding,
) -> tuple:
    """Return Inception's filters: per module one integer, or six where its sizes differ.

    Examples
    --------
    >>> redistribute_inception("uniform")
    (129, 129, 129, 129, 129, 129, 129, 129, 129)
    >>> redistribute_inception("reverse", reading="proportional")[0]
    (256, 384, 512, 64, 128, 128)
    """
    check_choice("reading", reading, INCEPTION_READINGS)
    if template == "base":  # every conv scales from its own size
        flat = round_filters([size for sizes in INCEPTION for size in sizes], width, **rounding)
        return tuple(flat[i : i + 6] for i in range(0, len(flat), 6))
    if reading == "every_conv":  # published and equations agree: as published leaves it uncapped
        return round_filters(solve(INCEPTION_MEANS, template), width, **rounding)
    outputs = apply_template(INCEPTION_OUTPUTS, template, width, convention=convention, **rounding)
    return tuple(
        round_filters(
            [Fraction(size * new, old) for size in sizes], round_to=rounding.get("round_to")
        )
        for sizes, new, old in zip(INCEPTION, outputs, INCEPTION_OUTPUTS, strict=True)
    )


def expand(module) -> tuple[int, ...]:
    """Return a module's six sizes from one integer (every conv has it) or from the six."""
    return (module,) * 6 if isinstance(module, int) else tuple(module)


@dataclass(frozen=True)
class Family:
    """One of the paper's networks, and how its filters are redistributed.

    `options` are the choices that only this network has, each with its accepted values, the
    default first. `fixed` is the layer that no template touches: its builder's argument, its size.
    """

    label: str
    base: tuple
    redistribute: Callable[..., tuple]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fixed: tuple[str, int] | None = None


# The options that decide the filters; all others decide the layers built from them.
SHAPING = ("keep_total", "round_to", "reading")


def _family(label: str, base: tuple, **rest) -> Family:
    return Family(label, base, partial(apply_template, base), **rest)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "vgg19": _family("VGG-19", VGG19, options={"head": VGG_HEADS}),
        "resnet50": _family("ResNet-50", RESNET50),
        "inception": Family(
            "Inception",
            INCEPTION,
            redistribute_inception,
            options={"reading": INCEPTION_READINGS},
            fixed=("pre", INCEPTION_PRE),
        ),
        "mobilenet": _family("MobileNet", MOBILENET, fixed=("last", MOBILENET_LAST)),
    }
)


def redistribute(
    name: str,
    template: str = "base",
    width: float = 1.0,
    *,
    convention: str = "equations",
    **options,
) -> tuple:
    """Return a network's filters under a template, without building it.

    Examples
    --------
    >>> redistribute("resnet50", "uniform", convention="published")
    (200, 200, 200, 200)
    """
    check_choice("model", name, tuple(FAMILIES))
    check_choice("template", template, TEMPLATES)
    check_choice("convention", convention, CONVENTIONS)
    return FAMILIES[name].redistribute(template, width, convention=convention, **options)


def default_options(name: str) -> dict[str, object]:
    """Return all of a network's options with their defaults.

    Examples
    --------
    >>> default_options("vgg19")
    {'keep_total': False, 'round_to': None, 'head': 'pool'}
    """
    check_choice("model", name, tuple(FAMILIES))
    family = FAMILIES[name]
    options = {"keep_total": False, "round_to": None}
    options |= {option: values[0] for option, values in family.options.items()}
    return options | ({"scale_fixed": False} if family.fixed else {})
