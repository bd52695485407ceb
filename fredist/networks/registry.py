"""The four networks as timm's own, `fredist_<model>`: importing this registers them."""

import inspect

from timm.models import load_checkpoint, register_model, resolve_pretrained_cfg
from torch import nn

from .build import default_cfgs  # noqa: F401 - timm reads them here when a model registers
from .families import FAMILIES
from .network import DEFAULTS, check_options, make_network

_OURS = tuple(inspect.signature(make_network).parameters)[1:]
_TIMMS = ("drop_rate", "global_pool", "output_stride", "device", "dtype", "features_only")
_TIMMS += ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args")
_TIMMS += ("checkpoint_path", "cache_dir")
_RESNETS = ("drop_path_rate", "drop_block_rate")  # no other has blocks that could be dropped
_FEATURES = ("out_indices", "feature_cls")


def create(model: str, **kwargs) -> nn.Module:
    """Return a network built from `create_model`'s keyword arguments and timm's."""
    options = _TIMMS + (_RESNETS if model == "resnet50" else ())
    options += _FEATURES if kwargs.get("features_only") else ()
    timms = {option: kwargs.pop(option) for option in options if option in kwargs}
    check_options(model, kwargs, _OURS + options)
    overlay = timms.pop("pretrained_cfg_overlay", None)
    checkpoint = timms.pop("checkpoint_path", None)
    config = resolve_pretrained_cfg(f"fredist_{model}", timms.get("pretrained_cfg"), overlay)
    timms["pretrained_cfg"] = config
    if timms.get("pretrained") and not (config.has_weights or config.state_dict):
        raise ValueError(
            f"fredist_{model} has no pretrained weights: call with pretrained=False, or name a "
            "file of your own, pretrained_cfg_overlay={'file': 'weights.pth'}"
        )
    # As in timm, classes and colours are the weights' own; -1 is its scripts' word for new classes.
    kwargs.setdefault("in_chans", config.input_size[0])
    if config.num_classes >= 0:
        kwargs.setdefault("num_classes", config.num_classes)
    network = make_network(model, **kwargs)
    if "width" in kwargs:
        kwargs["width"] = float(kwargs["width"])  # of NumPy's numbers JSON knows none
    built = network.build(**timms)
    # What timm's `save_for_hf` writes beside the weights, to build the network again.
    built._model_args = kwargs | {"output_stride": timms.get("output_stride", 32)}
    if checkpoint:
        load_checkpoint(built, checkpoint)
    built.network, built.filters = network, network.filters
    for name in ("template", "width", "convention"):
        asked = kwargs.get(name, DEFAULTS[name])
        setattr(built, name, asked if kwargs.get("filters") is None else None)
    return built


def _register(model: str) -> None:
    def entrypoint(pretrained: bool = False, **kwargs) -> nn.Module:
        return create(model, pretrained=pretrained, **kwargs)

    entrypoint.__name__ = f"fredist_{model}"
    entrypoint.__doc__ = f"{FAMILIES[model].label}: see `fredist.create_model`."
    register_model(entrypoint)


for _model in FAMILIES:
    _register(_model)
