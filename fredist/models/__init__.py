"""The paper's four networks with free filters, on timm's and torchvision's own blocks.

`create_model` resolves a template to filters and builds the network; the same networks are
registered with timm as `fredist_<name>`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ..measure import count_macs, count_params
from ..templates import (
    CONVENTIONS,
    TEMPLATES,
    apply_template,
    check_choice,
    check_filters,
    check_flag,
    check_integer,
    closest,
    round_filters,
)
from . import inception, mobilenet, resnet, vgg

if TYPE_CHECKING:
    import pandas as pd

# What decides the filters where none are given, beside a family's options.
_NEUTRAL = {"template": "base", "width": 1, "convention": "equations"}
_LARGEST = 10**8  # of one layer; far beyond it PyTorch's own integers overflow


@dataclass(frozen=True)
class Family:
    """One network: how its filters are redistributed and how it is built from them.

    `options` are the choices that only this family has, each with its accepted values, the
    default first. `fixed` is the builder's argument for the layer that no template touches.
    """

    label: str
    build: Callable[..., nn.Module]
    redistribute: Callable[..., tuple]
    base: tuple
    classifier: str
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fixed: tuple[str, int] | None = None
    features: Mapping[str, object] = field(default_factory=dict)


def _family(label, build, base, **rest) -> Family:
    return Family(label, build, partial(apply_template, base), base, **rest)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "vgg19": _family(
            "VGG-19",
            vgg.FilterVGG,
            vgg.BASE,
            classifier="head.fc",
            options={"head": vgg.HEADS},
            features={"feature_cls": "getter", "out_indices": (0, 1, 2, 3, 4, 5)},
        ),
        "resnet50": _family("ResNet-50", resnet.FilterResNet, resnet.BASE, classifier="fc"),
        "inception": Family(
            "Inception",
            inception.FilterInception,
            inception.redistribute,
            inception.BASE,
            classifier="fc",
            options={"reading": inception.READINGS},
            fixed=("pre", inception.PRE),
            features={"out_indices": (0, 1, 2)},
        ),
        "mobilenet": _family(
            "MobileNet",
            mobilenet.FilterMobileNet,
            mobilenet.BASE,
            classifier="classifier",
            fixed=("last", mobilenet.LAST),
            features={"feature_cls": "getter"},
        ),
    }
)


def create_model(
    name: str,
    template: str = "base",
    width: float = 1.0,
    num_classes: int = 10,
    *,
    in_chans: int = 3,
    filters: list | None = None,
    convention: str = "equations",
    **options,
) -> nn.Module:
    """Return one of the paper's networks with its filters redistributed, freshly initialised.

    Section 3 with the conventions that make the published counts come out: 3x3 stride-1 stems for
    32x32 and 64x64 images, `(N, in_chans, H, W) -> (N, num_classes)` for any H, W >= 32.

    Parameters
    ----------
    name : {"vgg19", "resnet50", "inception", "mobilenet"}
    template, width, convention
        As in `apply_template`; width scales the template's list only.
    num_classes : int
        At least 0; 0 leaves the classifier out.
    filters : list, optional
        Filters of one's own in place of a template, as `model.filters` gives them (JSON turns
        its tuples into lists, which are as good).
    **options
        `keep_total`, `round_to`: as in `apply_template`. Inception's total is that of its
        modules' numbers (base: of all sizes): the sizes that "proportional" makes of them are
        rounded one by one.
        `head`: VGG-19's, "pool" or "flatten7x7" (the published Tiny-ImageNet counts).
        `reading`: Inception's, "every_conv" (the text) or "proportional".
        `scale_fixed`: Inception and MobileNet; True also scales by width the one layer that
        templates leave alone (the pre-layer of 192, the last block of 1024).

    Returns
    -------
    nn.Module that timm would recognise, with `filters`, `template`, `width`, `convention` and
    `options` as built.

    Raises
    ------
    TypeError, ValueError
        For unknown names (listing the right ones), wrong types and values out of range.

    Examples
    --------
    >>> model = create_model("vgg19", template="uniform", width=0.5, num_classes=10)
    >>> model.filters[:3], model.num_features
    ((172, 172, 172), 172)
    """
    check_choice("model", name, tuple(FAMILIES))
    return _create(
        name,
        template=template,
        width=width,
        num_classes=num_classes,
        in_chans=in_chans,
        filters=filters,
        convention=convention,
        **options,
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


def compare(
    name: str,
    width: float = 1.0,
    num_classes: int = 10,
    *,
    convention: str = "equations",
    image_size: int = 32,
    **options,
) -> "pd.DataFrame":
    """Return one row per template: filters, parameters and MACs, and both beside the base's.

    MACs are multiply-accumulates of one `image_size` x `image_size` image. Nothing is allocated:
    the networks are built without storage.

    Examples
    --------
    >>> compare("vgg19")[["params", "params_vs_base"]].round(3)  # doctest: +NORMALIZE_WHITESPACE
                          params  params_vs_base
    template
    base                20040522           1.000
    reverse             20048138           1.000
    uniform             16004610           0.799
    quadratic           19424615           0.969
    negative_quadratic  19989962           0.997
    """
    import pandas as pd  # training needs only torch and timm

    rows = []
    for template in TEMPLATES:
        with torch.device("meta"):
            model = create_model(
                name, template, width, num_classes, convention=convention, **options
            )
        rows.append(
            {
                "template": template,
                "convention": convention,
                "width": width,
                "filters": model.filters,
                "params": count_params(model),
                "macs": count_macs(model, image_size),
            }
        )
    frame = pd.DataFrame(rows).set_index("template")
    for column in ("params", "macs"):
        frame[f"{column}_vs_base"] = frame[column] / frame.loc["base", column]
    return frame


def _create(name: str, pretrained: bool = False, **kwargs) -> nn.Module:
    """Build through timm, which adds its own bookkeeping and `features_only`."""
    if pretrained:
        raise ValueError(f"fredist_{name} has no pretrained weights: call with pretrained=False")
    features = dict(FAMILIES[name].features)
    if not kwargs.get("features_only"):
        features = {}
    return build_model_with_cfg(
        partial(_build, name), f"fredist_{name}", False, feature_cfg=features, **kwargs
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
    shaping = {k: v for k, v in options.items() if k not in ("head", "scale_fixed")}
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
    _check_size("filters", max(max(inception.expand(size)) for size in filters), 1)
    model = family.build(filters, num_classes, in_chans, **for_builder)
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
            "first_conv": {"vgg19": "features.0", "resnet50": "conv1", "inception": "pre.conv"}.get(
                name, "conv_stem"
            ),
            "classifier": family.classifier,
        }
        for name, family in FAMILIES.items()
    }
)


def _register(name: str) -> None:
    def entrypoint(pretrained: bool = False, **kwargs) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    entrypoint.__name__ = f"fredist_{name}"
    entrypoint.__doc__ = f"{FAMILIES[name].label}: see `fredist.create_model`."
    register_model(entrypoint)


for _name in FAMILIES:
    _register(_name)
__all__ = ["FAMILIES", "Family", "compare", "create_model", "redistribute"]
