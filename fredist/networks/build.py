"""The one path from a network to a module: through timm, which adds its own bookkeeping."""

from functools import partial

from timm.models import build_model_with_cfg, generate_default_cfgs
from torch import nn

from .inception import FilterInception
from .mobilenet import FilterMobileNet
from .resnet import FilterResNet
from .vgg import FilterVGG

_GETTER = {"feature_cls": "getter"}
_THREE = _GETTER | {"out_indices": (0, 1, 2)}
# The class, its first convolution and classifier, and how timm takes out its maps.
_BUILDERS = {
    "vgg19": (FilterVGG, "features.0", "head.fc", _GETTER),
    "resnet50": (FilterResNet, "conv1", "fc", {}),
    "inception": (FilterInception, "features.0.conv", "head.fc", _THREE),
    "mobilenet": (FilterMobileNet, "conv_stem", "classifier", _GETTER),
}
_CONFIG = {"url": "", "num_classes": 10, "input_size": (3, 32, 32)}
default_cfgs = generate_default_cfgs(
    {
        f"fredist_{model}": _CONFIG | {"first_conv": first, "classifier": classifier}
        for model, (_, first, classifier, _) in _BUILDERS.items()
    }
)


def build(network, **timm_kwargs) -> nn.Module:
    """Return a `Network` as a module, freshly initialised; see `Network.build`."""
    variant = f"fredist_{network.model}"
    config = timm_kwargs.pop("pretrained_cfg", None) or default_cfgs[variant].default
    if timm_kwargs.get("features_only"):
        timm_kwargs["feature_cfg"] = dict(_BUILDERS[network.model][3])
    timm_kwargs |= {"num_classes": network.num_classes, "in_chans": network.in_chans}
    construct = partial(_construct, network)
    return build_model_with_cfg(construct, variant, False, pretrained_cfg=config, **timm_kwargs)


def _construct(network, **sizes) -> nn.Module:
    builder = _BUILDERS[network.model][0]
    if builder is FilterVGG:  # has its own initialisation
        return builder(network.filters, head=network.head, **sizes)
    model = builder(network.filters, **sizes)
    # PyTorch's default, as in the author's code, in place of timm's, which differs by family.
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model
