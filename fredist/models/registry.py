"""Building the four networks through timm, and as timm's own `fredist_<name>`."""

from functools import partial

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ..templates import (
    check_choice,
    check_filters,
    check_flag,
    check_integer,
    closest,
    round_filters,
)

# As modules, and looked into when a network is built: the first import of one of them may be what
# imports timm, and so this.
from . import inception, mobilenet, resnet, vgg
from .families import FAMILIES, SHAPING, default_options, expand, redistribute

_ENDS = {  # the first convolution and the classifier
    "vgg19": ("features.0", "head.fc"),
    "resnet50": ("conv1", "fc"),
    "inception": ("pre.conv", "fc"),
    "mobilenet": ("conv_stem", "classifier"),
}
_FEATURES = {  # how timm takes out a network's maps
    "vgg19": {"feature_cls": "getter", "out_indices": (0, 1, 2, 3, 4, 5)},
    "inception": {"out_indices": (0, 1, 2)},
    "mobilenet": {"feature_cls": "getter"},
}
# What decides the filters where none are given, beside a family's options.
_NEUTRAL = {"template": "base", "width": 1, "convention": "equations"}
_LARGEST = 10**8  # of one layer; far beyond it PyTorch's own integers overflow


def create(name: str, pretrained: bool = False, **kwargs) -> nn.Module:
    """Build through timm, which adds its own bookkeeping and `features_only`."""
    if pretrained:
        raise ValueError(f"fredist_{name} has no pretrained weights: call with pretrained=False")
    features = _FEATURES.get(name, {}) if kwargs.get("features_only") else {}
    return build_model_with_cfg(
        partial(_build, name), f"fredist_{name}", False, feature_cfg=dict(features), **kwargs
    )


def _build(
    name: str,
    template: str = "base",
    width: float = 1.0,
    num_classes: int = 10,
    in_chans: int = 3,
    filters: list | None = None,
    convention: str = "equations",
    **given,
) -> nn.Module:
    family = FAMILIES[name]
    num_classes = _check_size("num_classes", num_classes, 0)
    in_chans = _check_size("in_chans", in_chans, 1)
    options = default_options(name)
    for option, value in given.items():
        if option not in options:
            hint = closest(option, (*options, *_NEUTRAL, "filters", "num_classes", "in_chans"))
            raise TypeError(f"{name} has no option {option!r}{hint}; it has {', '.join(options)}")
        if option in family.options:
            check_choice(option, value, family.options[option])
    options |= given
    for_builder = {"head": options["head"]} if "head" in options else {}
    if family.fixed:
        argument, size = family.fixed
        check_flag("scale_fixed", options["scale_fixed"])
        scaled = round_filters([size], width)[0]
        for_builder[argument] = scaled if options["scale_fixed"] else size
    shaping = {k: v for k, v in options.items() if k in SHAPING}
    shaping |= {"template": template, "width": width, "convention": convention}
    if filters is None:
        filters = redistribute(name, **shaping)
    else:
        neutral = _NEUTRAL | default_options(name)
        if unused := [what for what, value in shaping.items() if value != neutral[what]]:
            raise ValueError(
                "expected either filters or a template and width (and what goes with them), got "
                f"filters and {', '.join(unused)}; redistribute a list of your own first: "
                "filters=apply_template(filters, template, width)"
            )
        filters = _check_own(name, filters)
    _check_size("filters", max(max(expand(size)) for size in filters), 1)
    builders = {
        "vgg19": vgg.FilterVGG,
        "resnet50": resnet.FilterResNet,
        "inception": inception.FilterInception,
        "mobilenet": mobilenet.FilterMobileNet,
    }
    model = builders[name](filters, num_classes, in_chans, **for_builder)
    model.filters, model.options = filters, options
    model.template, model.width, model.convention = template, width, convention
    return model


def _check_own(name: str, filters) -> tuple:
    """Return a user's own filters checked, with lists (as JSON has them) made tuples."""
    depth = len(FAMILIES[name].base)
    if name != "inception" or not isinstance(filters, list | tuple):
        return check_filters(filters, depth)
    firsts = check_filters(
        [f[0] if isinstance(f, list | tuple) and f else f for f in filters], depth
    )
    return tuple(
        check_filters(given, 6) if isinstance(given, list | tuple) else first
        for given, first in zip(filters, firsts, strict=True)
    )


def _check_size(what: str, value: int, least: int) -> int:
    """Return a layer's size, checked: PyTorch does not say what is wrong with too large a one."""
    size = check_integer(what, value, least)
    if size > _LARGEST:
        raise ValueError(f"expected at most {_LARGEST:,} as {what}, got more than that")
    return size


# timm reads the default configurations when a model registers, so they come first.
default_cfgs = generate_default_cfgs(
    {
        f"fredist_{name}": {
            "url": "",
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "first_conv": first,
            "classifier": classifier,
        }
        for name, (first, classifier) in _ENDS.items()
    }
)


def _register(name: str) -> None:
    def entrypoint(pretrained: bool = False, **kwargs) -> nn.Module:
        return create(name, pretrained, **kwargs)

    entrypoint.__name__ = f"fredist_{name}"
    entrypoint.__doc__ = f"{FAMILIES[name].label}: see `fredist.create_model`."
    register_model(entrypoint)


for _name in FAMILIES:
    _register(_name)
