"""A newly built model with new sizes: tensors, integers that modules hold, timm's bookkeeping."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .initial import reshape
from .trace import set_integers


def resize(model: nn.Module, shapes: Mapping, integers: Mapping) -> None:
    """Give a newly built model new shapes, fresh values and new integers, in place."""
    classifier, last = _ends(model)
    reshape(model, shapes)
    set_integers(model, integers)
    for module in model.modules():
        _agree(module)
    # timm's own bookkeeping: which widths features have, and what the classifier reads.
    new_classifier, new_last = _ends(model)
    for name in ("num_features", "head_hidden_size"):
        size = getattr(model, name, None)
        if size is not None and size == classifier:
            setattr(model, name, new_classifier)
        elif size is not None and size == last:
            setattr(model, name, new_last)


@torch.no_grad()
def check(model: nn.Module, image_shape: tuple[int, int, int], params: int) -> None:
    """Raise an error unless a model has so many parameters and runs; let timm know its maps."""
    count = sum(p.numel() for p in model.parameters())
    if count != params:
        raise RuntimeError(f"expected {params:,} parameters, got {count:,}: please report this")
    infos = getattr(
        getattr(model, "feature_info", None), "info", getattr(model, "feature_info", [])
    )
    hooks, training = [], model.training
    for info in infos:
        if isinstance(info, dict) and info.get("module"):
            module = model.get_submodule(info["module"])
            hooks.append(module.register_forward_hook(partial(_note_channels, info)))
    device = next(model.parameters()).device
    try:
        model.eval()(torch.rand(2, *image_shape, device=device))
    except Exception as error:
        raise ValueError(
            f"expected the redistributed network to run, got {type(error).__name__}: "
            f"{str(error).splitlines()[0][:300]}"
        ) from error
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


def _note_channels(info: dict, _, __, maps) -> None:
    if isinstance(maps, torch.Tensor) and maps.dim() == 4:
        info["num_chs"] = maps.shape[1]


def _ends(model: nn.Module) -> tuple[int | None, int | None]:
    """Return how many features the classifier reads, and how many the last convolution makes."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    weight = getattr(classifier, "weight", None)
    convs = [m for m in model.modules() if isinstance(m, _ConvNd) and m is not classifier]
    return None if weight is None else weight.shape[1], convs[-1].weight.shape[0] if convs else None


def _agree(module: nn.Module) -> None:
    """Let PyTorch's own modules say what their weights are; they do not read it when they run."""
    weight = getattr(module, "weight", None)
    if weight is None:
        return
    if isinstance(module, _ConvNd):
        ends = [weight.shape[0], weight.shape[1] * module.groups]
        if isinstance(module, _ConvTransposeNd):
            ends = [weight.shape[1] * module.groups, weight.shape[0]]
        module.out_channels, module.in_channels = ends
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _NormBase):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = weight.shape[0]
