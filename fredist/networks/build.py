"""The one path from a network to a module: through timm, which adds its own bookkeeping."""

from functools import partial

from timm.models import build_model_with_cfg, generate_default_cfgs
from torch import nn

from ..checks import check_integer
from .inception import FilterInception
from .mobilenet import FilterMobileNet
from .resnet import FilterResNet
from .vgg import FilterVGG

_GETTER = {"feature_cls": "getter", "flatten_sequential": True}
_THREE = _GETTER | {"out_indices": (0, 1, 2)}
# The class, its first convolution and classifier, how much smaller its last map is than the image,
# and how timm takes out its maps.
_BUILDERS = {
    "vgg19": (FilterVGG, "features.0", "head.fc", 16, _GETTER),
    "resnet50": (FilterResNet, "conv1", "fc", 8, {}),
    "inception": (FilterInception, "features.0.conv", "head.fc", 4, _THREE),
    "mobilenet": (FilterMobileNet, "conv_stem", "classifier", 16, _GETTER),
}
_CONFIG = {"url": "", "num_classes": 10, "input_size": (3, 32, 32)}
default_cfgs = generate_default_cfgs(
    {
        f"fredist_{model}": _CONFIG
        | {"first_conv": first, "classifier": classifier, "pool_size": (32 // stride,) * 2}
        for model, (_, first, classifier, stride, _) in _BUILDERS.items()
    }
)


def build(network, pretrained=False, **timm_kwargs) -> nn.Module:
    """Return a `Network` as a module, freshly initialised; see `Network.build`."""
    variant = f"fredist_{network.model}"
    timm_kwargs.setdefault("pretrained_cfg", default_cfgs[variant].default)
    if timm_kwargs.get("features_only"):
        timm_kwargs["feature_cfg"] = dict(_BUILDERS[network.model][4])
    timm_kwargs |= {"num_classes": network.num_classes, "in_chans": network.in_chans}
    return build_model_with_cfg(partial(_construct, network), variant, pretrained, **timm_kwargs)


def _construct(network, output_stride=32, **options) -> nn.Module:
    builder, stride = _BUILDERS[network.model][0], _BUILDERS[network.model][3]
    # As in timm, strides beyond it become dilations: of ResNet-50 in the last two stages only, and
    # nowhere in stacks that shrink by max-pools.
    least = {"resnet50": 2, "mobilenet": 1}.get(network.model, stride)
    allowed = [size for size in (1, 2, 4, 8, 16, 32) if size >= least]
    if check_integer("output_stride", output_stride) not in allowed:
        raise ValueError(
            f"expected one of {', '.join(map(str, allowed))} as output_stride of {network.label}, "
            f"how much smaller its last map may be than the image, got {output_stride}"
        )
    if issubclass(builder, FilterResNet | FilterMobileNet):
        options["output_stride"] = output_stride
    if builder is FilterVGG:  # has its own initialisation
        return builder(network.filters, head=network.head, **options)
    model = builder(network.filters, **options)
    # PyTorch's default, as in the author's code, in place of timm's, which differs by family.
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model
