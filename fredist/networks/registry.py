"""The four networks as timm's own, `fredist_<model>`: importing this registers them."""

import inspect

from timm.models import register_model
from torch import nn

from .build import default_cfgs  # noqa: F401 - timm reads them here when a model registers
from .families import FAMILIES
from .network import DEFAULTS, check_options, make_network

_OURS = tuple(inspect.signature(make_network).parameters)[1:]
_TIMMS = ("features_only", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
_FEATURES = ("out_indices", "feature_cls", "output_fmt")


def create(model: str, **kwargs) -> nn.Module:
    """Return a network built from `create_model`'s keyword arguments and timm's."""
    options = _TIMMS + (_FEATURES if kwargs.get("features_only") else ())
    timms = {option: kwargs.pop(option) for option in options if option in kwargs}
    check_options(model, kwargs, _OURS)
    network = make_network(model, **kwargs)
    built = network.build(**timms)
    built.network, built.filters = network, network.filters
    for name in ("template", "width", "convention"):
        asked = kwargs.get(name, DEFAULTS[name])
        setattr(built, name, asked if kwargs.get("filters") is None else None)
    return built


def _register(model: str) -> None:
    def entrypoint(pretrained: bool = False, **kwargs) -> nn.Module:
        if pretrained:
            message = f"fredist_{model} has no pretrained weights: call with pretrained=False"
            raise ValueError(message)
        return create(model, **kwargs)

    entrypoint.__name__ = f"fredist_{model}"
    entrypoint.__doc__ = f"{FAMILIES[model].label}: see `fredist.create_model`."
    register_model(entrypoint)


for _model in FAMILIES:
    _register(_model)
