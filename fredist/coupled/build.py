"""A newly built model with new sizes: tensors, integers that modules hold, timm's bookkeeping."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from math import prod

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from . import sources
from .initial import reshape
from .runner import set_integers

_OTHER = "this is another network than was redistributed, or another version of its library"


def resize(model: nn.Module, shapes: Mapping, integers: Mapping) -> None:
    """Give a newly built model new shapes, fresh values and new integers, in place.

    A `ValueError` names the first that the model has not: then it is not the one they are of.
    """
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    dims = {name: tensor.dim() for name, tensor in tensors}
    there = {(name, held) for name, module in model.named_modules() for held in vars(module)}
    others = [name for name, shape in shapes.items() if dims.get(name) != len(shape)]
    others += [f"{name}.{held}" for name, held, _ in integers if (name, held) not in there]
    if others:
        raise ValueError(f"expected a network that has {others[0]}, and of that shape: {_OTHER}")
    read = _read_by_classifier(model)
    try:
        reshape(model, shapes, integers)
    except RuntimeError as error:
        if not re.search("memory|overflow", str(error)):
            raise
        most, name = max((prod(shape), name) for name, shape in shapes.items())
        raise ValueError(
            f"expected tensors that fit into memory, got {name} with {most:,} values: take a "
            f"smaller width ({str(error).splitlines()[0][:200]})"
        ) from error
    scales = dict(_scales(model, integers))
    set_integers(model, integers | scales)
    for module in model.modules():
        _agree(module)
    if read is not None and getattr(model, "head_hidden_size", None) == read:
        model.head_hidden_size = _read_by_classifier(model)


@torch.no_grad()
def check(model: nn.Module, image_shape: tuple[int, int, int], params: int) -> None:
    """Raise an error unless a model has so many parameters and runs; let timm know its maps."""
    count = sum(p.numel() for p in model.parameters())
    if count != params:
        raise ValueError(f"expected {params:,} parameters, got {count:,}: {_OTHER}")
    images = sources.images(model, image_shape)
    with ExitStack() as undo:
        for module in model.modules():
            # The forward pass is to leave nothing behind: modes, and buffers that it counts in.
            undo.callback(setattr, module, "training", module.training)
            undo.callback(module._buffers.update, dict(module._buffers))
            clones = {k: b.clone() for k, b in module._buffers.items() if b is not None}
            module._buffers.update(clones)
            if isinstance(module, _NormBase | nn.GroupNorm) and module.weight is None:
                undo.enter_context(module.register_forward_pre_hook(_note_normed))
        for hook in _note_features(model):
            undo.enter_context(hook)
        try:
            model.eval()
            model(images)
            if type(getattr(model, "num_features", None)) is int:
                with suppress(AttributeError, TypeError):  # it need not have one, or is not timm's
                    maps = model.forward_features(images)
                    model.num_features = maps.shape[_channels_at(model) if maps.dim() == 4 else -1]
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            raise ValueError(
                f"expected the redistributed network to run, got {type(error).__name__}: {said}"
            ) from error


def _channels_at(model: nn.Module) -> int:
    """Return the dimension of channels in a timm network's maps, which some have last."""
    return -1 if str(getattr(model, "output_fmt", "")).endswith("NHWC") else 1


def _note_features(model: nn.Module) -> Iterator[RemovableHandle]:
    """Let timm's `feature_info` take the channels of maps as they are made."""
    for owner in model.modules():  # also an encoder inside a network of one's own
        infos = getattr(owner, "feature_info", None)  # of timm's blocks a method
        infos = getattr(infos, "info", infos)
        if not isinstance(infos, list | tuple):
            continue
        inside = dict(owner.named_modules())
        for info in infos:
            name = info.get("module") if isinstance(info, dict) else None
            # timm's features_only flattens names; MobileNetV5's is of a module that it has not.
            if module := inside.get(name) or inside.get(str(name).replace(".", "_")):
                note = partial(_note_channels, info, _channels_at(owner))
                yield module.register_forward_hook(note)


def _note_channels(info: dict, dim: int, _, __, maps) -> None:
    if isinstance(maps, torch.Tensor) and maps.dim() == 4:
        info["num_chs"] = maps.shape[dim]


def _note_normed(module: nn.Module, inputs: tuple) -> None:
    """Let a norm without weights say of how many channels it is: only its input tells."""
    kind = "num_channels" if isinstance(module, nn.GroupNorm) else "num_features"
    setattr(module, kind, inputs[0].shape[1])


def _scales(model: nn.Module, integers: Mapping) -> Iterator[tuple]:
    """Find the scales of attention, made of an integer that changes by a constructor: n ** -0.5."""
    for (name, attribute, place), after in integers.items():
        held = vars(model.get_submodule(name))
        for other, value in held.items():
            is_scale = place is None and "scal" in other and type(value) is float
            if is_scale and value == held[attribute] ** -0.5:
                yield (name, other, None), after**-0.5


def _read_by_classifier(model: nn.Module) -> int | None:
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    weight = getattr(classifier, "weight", None)
    return None if weight is None else weight.shape[1]


def _agree(module: nn.Module) -> None:
    """Let PyTorch's own modules say what their weights are; they do not read it when they run."""
    if isinstance(module, nn.MultiheadAttention):
        weights = (module.k_proj_weight, module.v_proj_weight)
        kinds = (module.in_proj_weight if weight is None else weight for weight in weights)
        module.kdim, module.vdim = (weight.shape[1] for weight in kinds)
        module.head_dim = module.embed_dim // module.num_heads
    weight = getattr(module, "weight", None)
    if weight is None:
        return
    if isinstance(module, _ConvNd):
        ends = weight.shape[0], weight.shape[1] * module.groups
        module.out_channels, module.in_channels = ends[::-1] if module.transposed else ends
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _NormBase):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = weight.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.shape[0]
