"""A network run with tensors and integers from outside: what `torch.export` is given to trace."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain

import torch
from torch import nn
from torch.export import Dim
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_leaves

from . import sources
from .channels import BATCH, Conv, Size, size_of
from .plainly import Plainly

# Names of integers of a module that are no channel counts, whatever their value.
_NOT_CHANNELS = re.compile(
    r"_.*|stride|padding|dilation|output_padding|groups|num_groups|num_classes|training"
    r"|(?!dim_)(\w+_|n)?heads|(num_|n_?)?head|(n_?)?h"
    r"|(kernel|block|win|window|patch|grid|feat|img|image|input|pool)_size(_\w+)?"
)
# PyTorch's own modules never read these when they run: they follow from the weights (build.py).
_UNREAD = re.compile("(in|out|num)_(channels|features)")
# What a norm holds, all of one shape: the first that it has stands in for the others.
_OF_A_NORM = ("weight", "bias", "running_mean", "running_var")


class Runner:
    """Runs a copy of a network, on the meta device, with its tensors and integers from outside.

    `tensors` are its parameters and buffers by name, without those that are `alike`: these have the
    shape of the one named there, which stands in for them, since every symbol costs time. `places`
    are its integers that may be channel counts, by (module, attribute, place in a list or None). It
    runs in each of the `modes`, of which True is training, and notes how every convolution ran.
    """

    def __init__(self, model: nn.Module, modes: tuple[bool, ...]):
        model = self.model = sources.on_meta(model)
        self.modes, self.ran, self.normed = modes, [], set()
        kernels = set()
        for name, module in model.named_modules():
            if isinstance(module, _ConvNd | nn.GroupNorm):
                module.register_forward_pre_hook(partial(self._group, name), with_kwargs=True)
            if type(module).__name__ == "DeformConv2d":  # torchvision's, which is no `_ConvNd`
                module.register_forward_pre_hook(_deform, with_kwargs=True)
            if isinstance(module, _ConvNd):
                module.register_forward_hook(partial(self._note, name), with_kwargs=True)
                kernels |= {id(p) for p in module.parameters() if p.dim() > 2}
        named = {n: t for n, t in (*model.named_parameters(), *model.named_buffers()) if t.dim()}
        self.alike = dict(_alike(model, named))
        named = {name: t for name, t in named.items() if name not in self.alike}
        self.tensors = {name: t.detach() for name, t in named.items()}
        self.free = {name: _free(t, id(t) in kernels) for name, t in named.items()}
        sizes = {t.shape[dim] for name, t in self.tensors.items() for dim in self.free[name]}
        self.places = dict(_places(model, {size for size in sizes if size > 3}))
        self.groups = {}  # of depthwise convolutions and norms, which follow what they read
        self.noted = []  # how convolutions ran, in all runs
        self.outputs = 0  # how many tensors the last mode has returned

    def inputs(self) -> list[torch.Tensor]:
        """Return what a run takes: the tensors, and for each integer an empty one of that size."""
        sizes = self.places.values()
        return [*self.tensors.values(), *(torch.empty(size, device="meta") for size in sizes)]

    def dynamic(self) -> list[dict | None]:
        """Return which dimensions of the inputs are symbols, as export takes it."""
        dims = [*self.free.values(), *([0] for _ in self.places)]
        return [dict.fromkeys(some, Dim.AUTO) or None for some in dims]

    def whole(self, held: Mapping) -> dict:
        """Return what belongs to the names of `tensors` by the names of all."""
        return {**held, **{name: held[first] for name, first in self.alike.items()}}

    def try_images(self, shape: tuple[int, int, int]) -> None:
        """Note which convolutions make maps of images of another shape, if it takes any."""
        with contextlib.suppress(Exception):  # a network may take images of one size alone
            self(self.inputs(), sources.images(self.model, shape, BATCH))

    def ran_convs(self) -> tuple[Conv, ...]:
        """Return the convolutions as they ran, in their order."""
        maps = {name for name, _, shape in self.noted if any(size_of(n) != 1 for n in shape[1:])}
        return tuple(
            Conv(name, size_of(inputs), size_of(shape[0]), name in maps)
            for name, inputs, shape in self.ran
        )

    def __call__(self, inputs: list[torch.Tensor], images: torch.Tensor) -> list:
        """Return what the network returns in each mode."""
        tensors = dict(zip(self.tensors, inputs, strict=False))
        stand_ins = inputs[len(tensors) :]
        integers = {place: t.shape[0] for place, t in zip(self.places, stand_ins, strict=True)}
        tensors = self.whole(tensors)
        before = [(module, dict(vars(module))) for module in self.model.modules()]
        runs, outputs = [], []
        with Plainly() as plainly:
            for training in self.modes:
                start = len(self.noted)
                try:
                    self.model.train(training)
                    set_integers(self.model, integers)
                    outputs.append(torch.func.functional_call(self.model, tensors, (images,)))
                    runs.append(self.noted[start:])
                finally:  # what a run leaves behind is not for the next
                    for module, state in before:
                        vars(module).update(state)
        given = {id(tensor) for tensor in plainly.normed}
        self.normed = {name for name, tensor in tensors.items() if id(tensor) in given}
        self.outputs = len(tree_leaves(outputs[-1]))
        # Training's order has the auxiliary ones in their places, unless it skips others.
        names = [{name for name, *_ in run} for run in runs]
        self.ran = [*chain(*(runs if names[0] >= names[-1] else runs[::-1]))]
        return outputs

    def _group(self, name: str, module: nn.Module, inputs: tuple, named: Mapping) -> None:
        """A depthwise convolution, or a norm of each channel, has as many groups as channels."""
        norm = isinstance(module, nn.GroupNorm)
        groups, channels = ("num_groups", "num_channels") if norm else ("groups", "in_channels")
        if 1 < getattr(module, groups) == getattr(module, channels):
            same = not norm and module.in_channels == module.out_channels
            size = module.weight.shape[0] if same else _channels(module, inputs, named)
            vars(module)[groups] = self.groups[name, groups, None] = size

    def _note(self, name: str, conv, inputs: tuple, named: Mapping, maps: torch.Tensor) -> None:
        self.noted.append((name, _channels(conv, inputs, named), maps.shape[_dim(conv) :]))


class Exported(nn.Module):
    """What export is given: a module without tensors of its own, and nothing for it to restore."""

    def __init__(self, runner: Runner):
        super().__init__()
        self.runner = runner

    def forward(self, inputs, images):
        return self.runner(inputs, images)


def set_integers(model: nn.Module, integers: Mapping) -> None:
    """Set integers that modules hold, by (module, attribute, place in a list or None)."""
    for (name, attribute, place), value in integers.items():
        module = model.get_submodule(name)
        if place is not None:
            held = getattr(module, attribute)
            listed = list(held)
            listed[place] = value
            value = type(held)(listed)
        vars(module)[attribute] = value


def _channels(module: nn.Module, inputs: tuple, named: Mapping) -> Size:
    """Return the channels of what a module is given, by place or by name."""
    return (*inputs, *named.values())[0].shape[_dim(module)]


def _dim(module: nn.Module) -> int:
    """Return where a convolution's channels are, also of one image without a batch; else 1."""
    return -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else 1


def _deform(module: nn.Module, inputs: tuple, named: Mapping) -> None:
    """Check the sizes of a deformable convolution, which torchvision does only with values."""
    images, *moved = (*inputs, *named.values())
    torch._check(images.shape[1] == module.weight.shape[1] * module.groups)
    if module.bias is not None:
        torch._check(module.bias.shape[0] == module.weight.shape[0])
    for one in moved:  # offsets, and a mask or None: as many as the kernel has places
        if one is not None:
            int(one.shape[1])


def _alike(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    """Yield the names of tensors of norms, each with the one that stands in for it."""
    for name, module in model.named_modules():
        if isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm):
            own = [full for n in _OF_A_NORM if (full := f"{name}.{n}".lstrip(".")) in tensors]
            for other in own[1:]:
                if tensors[other].shape == tensors[own[0]].shape:
                    yield other, own[0]


def _places(model: nn.Module, channels: set[int]) -> Iterator[tuple[tuple, int]]:
    """Find the integers that modules hold, also in lists, whose values are channel counts."""
    for name, module in model.named_modules():
        own = type(module).__module__.startswith("torch.nn.modules")
        own &= not isinstance(module, _InstanceNorm)  # compares it with what it is given
        for attribute, held in vars(module).items():
            # `input_size` is a channel count in a recurrent network only; else it is of images.
            features = isinstance(module, nn.RNNBase) and attribute == "input_size"
            unread = own and _UNREAD.fullmatch(attribute)
            if unread or (_NOT_CHANNELS.fullmatch(attribute) and not features):
                continue
            listed = type(held) in (list, tuple)
            values = held if listed else [held]
            # A list with a zero in it is of indices, such as an order of coefficients.
            if all(type(value) is int and value > 0 for value in values):
                for place, value in enumerate(values):
                    if value in channels:
                        yield (name, attribute, place if listed else None), value


def _free(tensor: torch.Tensor, kernel: bool) -> list[int]:
    """Return the dimensions that may be channels: a kernel's height and width never are.

    With three dimensions only a convolution tells a kernel from positions that are learnt.
    """
    kernel |= tensor.dim() > 3 and tensor.numel() not in tensor.shape
    return [dim for dim in range(2 if kernel else tensor.dim()) if tensor.shape[dim] > 1]
