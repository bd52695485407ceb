"""The four models' filters: what the paper starts from, and what it ran."""

import json
from dataclasses import dataclass

from ..checks import check_choice
from ..paths import PUBLISHED

# Model, template: filters of every layer, the strength of the evidence, and how the paper departs
# from its equations where it does.
NETWORKS = json.loads((PUBLISHED / "networks.json").read_text(encoding="utf-8"))["networks"]


@dataclass(frozen=True)
class Family:
    """One of the paper's models."""

    label: str  # as the paper writes it
    base: tuple  # the known network's filters
    layer: str  # what one of the D redistributed layers is
    heads: tuple[str, ...] = ("pool",)
    fixed: int | None = None  # the place of the one layer that is not redistributed


def check_model(name: str) -> str:
    """Return the name of one of the four models, or raise an error that says what takes others."""
    try:
        return check_choice("model", name, FAMILIES)
    except ValueError as error:
        others = f"fredist.redistribute({name!r}, ...) takes any other network"
        raise ValueError(f"{error}; {others}") from None


def six_sizes(module: int | tuple) -> tuple[int, ...]:
    """Return the sizes of an Inception module's convs, of which one number is all six."""
    return module if isinstance(module, tuple) else (module,) * 6


def check_vggs_images(height: int, width: int) -> None:
    """Raise an error for images that VGG-19 would halve to nothing."""
    if min(height, width) < 16:
        raise ValueError(
            "expected images of at least 16x16 for VGG-19, whose four max-pools halve them, got "
            f"{height}x{width}: enlarge them, or use another model"
        )


def _base(model: str) -> tuple:
    filters = NETWORKS[model]["base"]["filters"]
    return tuple(tuple(f) if isinstance(f, list) else f for f in filters)


FAMILIES = {
    # The second head is the only one that fits the printed Tiny-ImageNet counts.
    "vgg19": Family("VGG-19", _base("vgg19"), "Convolution", ("pool", "flatten7x7")),
    "resnet50": Family("ResNet-50", _base("resnet50"), "Stage"),
    "inception": Family("Inception", _base("inception"), "Module", fixed=0),
    "mobilenet": Family("MobileNet", _base("mobilenet"), "Layer", fixed=-1),
}
