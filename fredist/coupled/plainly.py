"""Operations put as what a trace with symbols follows at the least cost; kernels that stay."""

import inspect
import re
from math import prod

import torch
from torch.nn.functional import batch_norm, group_norm, interpolate, multi_head_attention_forward
from torch.overrides import TorchFunctionMode

_RESHAPES = (torch.reshape, torch.Tensor.reshape, torch.Tensor.view)
_BY_SYMBOLS = re.compile(r"//[^)]*[su]\d")
_SEQUENCES = (torch.conv1d, torch.conv_transpose1d)
# Arguments of a norm that have a value for each channel.
_OF_CHANNELS = ("input", "running_mean", "running_var", "weight", "bias")


class Plainly(TorchFunctionMode):
    """Norms and reshapes as what export follows at the least cost.

    Batch and group norms are nothing but their checks of sizes, and `normed` what they were given:
    half of a trace's time would be theirs.
    An open dimension of a reshape (-1) that stays a quotient by symbols, as of the windows of a
    HaloNet, is the number that it was: else all that is computed from it drags the quotient along.
    So is a one-dimensional convolution's kernel, which a weight of three dimensions does not tell,
    and the scale of an interpolation. Attention is PyTorch's way without its map, of the same cost:
    the other takes the square root of a size by Python's `math`, which would make it a number.
    """

    def __init__(self):
        super().__init__()
        self.normed = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (batch_norm, group_norm):
            maps, *others = _norm(func, *args, **kwargs)
            self.normed += others
            return maps
        if func in _SEQUENCES:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            for size in weight.shape[2:]:
                int(size)
        if func is interpolate:
            args, kwargs = _scaled(*args, **kwargs)
        if func is multi_head_attention_forward:
            return _attended(*args, **kwargs)
        if func in _RESHAPES and not kwargs:
            args = _closed(*args)
        return func(*args, **kwargs)


def _norm(func, *args, **kwargs) -> list[torch.Tensor]:
    """Return a norm's tensors, its input first, once their sizes are one."""
    asked = inspect.signature(func).bind(*args, **kwargs).arguments
    found = [asked[name] for name in _OF_CHANNELS if asked.get(name) is not None]
    for tensor in dict.fromkeys(found[1:]):
        torch._check(tensor.shape[0] == found[0].shape[1])
    if "num_groups" in asked:
        torch._check(found[0].shape[1] % asked["num_groups"] == 0)
    return found


def _scaled(*args, **kwargs) -> tuple[tuple, dict]:
    """Return an interpolation's arguments with numbers for its scale, which is no channel count."""
    asked = inspect.signature(interpolate).bind(*args, **kwargs)
    scale = asked.arguments.get("scale_factor")
    if isinstance(scale, torch.SymInt):
        asked.arguments["scale_factor"] = int(scale)
    elif isinstance(scale, tuple | list):
        asked.arguments["scale_factor"] = [float(size) for size in scale]
    return asked.args, asked.kwargs


def _attended(*args, **kwargs) -> tuple:
    """Return attention's output, and an empty map of its shape if one is asked for."""
    asked = inspect.signature(multi_head_attention_forward).bind(*args, **kwargs)
    asked.apply_defaults()
    held = asked.arguments
    wanted, held["need_weights"] = held["need_weights"], False
    output, weights = multi_head_attention_forward(*asked.args, **asked.kwargs)
    if wanted:
        query, key = held["query"], held["key"]
        heads = [] if held["average_attn_weights"] else [held["num_heads"]]
        added = (held["bias_k"] is not None) + held["add_zero_attn"]
        weights = output.new_zeros(*query.shape[1:-1], *heads, len(query), len(key) + added)
    return output, weights


def _closed(tensor: torch.Tensor, *shape) -> tuple:
    """Return a reshape's arguments, without an open dimension that would stay a quotient."""
    if isinstance(shape[0], torch.dtype):  # the same bits, read as other numbers
        return tensor, *shape
    sizes = list(shape[0]) if isinstance(shape[0], tuple | list) else list(shape)
    opened = [i for i, size in enumerate(sizes) if isinstance(size, int) and size == -1]
    rest = prod(size for i, size in enumerate(sizes) if i not in opened)
    if not opened or not isinstance(rest, torch.SymInt):
        return tensor, *shape
    before, after = _first(tensor.shape), _first(sizes)
    if None not in (before, after) and before.node.hint == after.node.hint:
        torch._check(before == after)  # as a weight's first dimension is its `out_channels`
    quotient = tensor.numel() // rest
    if not _BY_SYMBOLS.search(str(quotient)):
        return tensor, *shape
    number = quotient.node.hint  # like `_guards`, not PyTorch's public API
    torch._check(tensor.numel() == rest * number)
    sizes[opened[0]] = number
    return tensor, tuple(sizes)


def _first(sizes) -> torch.SymInt | None:
    """Return the product of sizes up to the first symbol: negative if an open one comes before."""
    product = 1
    for size in sizes:
        product *= size
        if isinstance(size, torch.SymInt):
            return product
    return None
