"""Which channels of a network are one: its own forward pass, with sizes as symbols.

`torch.export` runs the network with every channel dimension of every tensor a symbol, and every
integer attribute that may hold a channel count too. Each size check on the way (of a convolution, a
sum, a concatenation, a reshape) equates or divides symbols; what is left over is free to choose.
docs/coupling.md says more.
"""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain

import torch
from torch import nn
from torch.export import Dim, export
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_leaves

from . import sources
from .channels import BATCH, Channels, Conv, Size, likely, no_channels, size_of, symbols
from .plainly import Plainly
from .products import entries, plain, products

# Names of integers of a module that are no channel counts, whatever their value.
_NOT_CHANNELS = re.compile(
    r"stride|padding|dilation|output_padding|groups|num_groups|num_classes|training"
    r"|(?!dim_)(\w+_|n)?heads|(num_|n_?)?head|(n_?)?h"
    r"|(kernel|block|win|window|patch|grid|feat|img|image|input|pool)_size(_\w+)?"
)
# PyTorch's own modules never read these when they run: they follow from the weights (build.py).
_UNREAD = {"in_channels", "out_channels", "in_features", "out_features", "num_features"}
_UNREAD |= {"num_channels"}

# What to do about an error of the trace, by its words, where images of another size do not help.
_HINTS = {
    "not a known type": "return tensors, in tuples, lists or dicts",
    "ufunc": "compute sizes with ** 0.5 or Python's math, not with NumPy",
    "unhashable": "its code looks something up by an integer equal to a channel count: choose by a "
    "string, or by a name that ends in _size",
    "device": "hold constant tensors by register_buffer, or make them with device=x.device",
    "required positional argument": "give a module whose forward() takes images alone, such as "
    "what reads one of them",
    "[Dd]ata-?[Dd]ependent|higher order operator": "its forward pass branches on tensors' values: "
    "choose by sizes, or by what its modules hold",
    r"\.numpy\(\)|FakeTensor\.__": "its forward pass, or a forward hook of yours, reads tensors' "
    "values: while it is traced there are none",
}
# Where a guard of PyTorch's own operations comes from, such as of strides.
_INTERNAL = re.compile(r"framework_loc=<FrameSummary file [^>]*torch[/\\]_")


def trace(model: nn.Module, image_shape: tuple[int, int, int], *larger: tuple) -> Channels:
    """Return the channels of a network that takes images of (channels, height, width).

    Runs on the meta device: no memory, no arithmetic. Where evaluation leaves parameters unused,
    such as those of auxiliary classifiers, a training step is traced together with it, if that can
    be; the MACs are evaluation's. The network stays as it is. A convolution makes maps if it does
    for images of any shape given: those of a network's last stage may be one pixel for small
    images, as a squeeze-excitation's are for all.

    Raises
    ------
    ValueError
        If the network cannot be traced, with torch.export's own first words.

    Warns
    -----
    UserWarning
        If training cannot be traced: parameters that evaluation leaves unused keep their shapes.
    """
    model = sources.on_meta(model)
    found, unused = _trace(model, image_shape, *larger)
    if unused:
        try:
            found, _ = _trace(model, image_shape, *larger, modes=(True, False))
        except ValueError as error:  # that evaluation can be traced is enough
            said = str(error.__cause__ or error)[:200]
            warnings.warn(
                f"expected a training step that can be traced, got {said}; "
                f"{', '.join(sorted(unused))} keep their shapes, as evaluation does not read them: "
                "training may fail",
                stacklevel=5,  # the call of redistribute with a module
            )
    return found


def _trace(
    model: nn.Module, image_shape: tuple, *larger: tuple, modes: tuple[bool, ...] = (False,)
) -> tuple[Channels, set[str]]:
    """Trace a run in each mode, evaluation's last; return also what they leave unused.

    MACs are those of evaluation's outputs.
    """
    trained = dict(model.named_parameters())
    tensors = {name: t.detach() for name, t in (*trained.items(), *model.named_buffers())}
    tensors = {name: t for name, t in tensors.items() if t.dim()}
    runner = _Runner(model, tensors, modes)
    inputs = [*tensors.values(), *(torch.empty(v, device="meta") for v in runner.places.values())]
    maps = set()
    for shape in larger:
        with contextlib.suppress(Exception):  # a network may take images of one size alone
            runner(inputs, sources.images(model, shape, BATCH))
        maps |= _maps(runner.ran)
    images = sources.images(model, image_shape, BATCH)
    try:
        # Where sizes are symbols, what PyTorch keeps of each operation, for the next that is like
        # it, costs more than it saves: an eighth of the time, of a HaloNet two fifths.
        with _silence(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
            free = [_dynamic(tensor, name in runner.kernels) for name, tensor in tensors.items()]
            shapes = (free + [_dynamic(tensor) for tensor in inputs[len(tensors) :]], None)
            program = export(
                _Exported(runner), (inputs, images), dynamic_shapes=shapes, strict=False
            )
    except Exception as error:
        words = str(error).strip().splitlines() or [""]
        said = f"{type(error).__name__}: {words[0][:300]}"
        hints = (hint for pattern, hint in _HINTS.items() if re.search(pattern, said))
        raise ValueError(
            f"expected a network that torch.export traces with images of {image_shape}, got "
            f"{said}; {next(hints, 'image_size= and in_chans= choose others')}"
        ) from error
    nodes = list(plain(program).graph.nodes)
    given = set(program.graph_signature.user_inputs)  # constants are placeholders, too
    *held, seen = (node for node in nodes if node.op == "placeholder" and node.name in given)
    unused = {
        name
        for name, node in zip(tensors, held, strict=False)
        if name in trained and not node.users and name not in runner.normed
    }
    shapes = [tuple(map(size_of, node.meta["val"].shape)) for node in held]
    # A symbol that is still free is the plain size of the tensor that it came from.
    pairs = (
        pair for t, s in zip(inputs, shapes, strict=True) for pair in zip(s, t.shape, strict=True)
    )
    sizes = {name: size for name, size in pairs if symbols(name) == (name,)}
    attributes = dict(zip(runner.places, (s for (s,) in shapes[len(tensors) :]), strict=True))
    named = dict.fromkeys(trained, ()) | dict(zip(tensors, shapes, strict=False))
    guards = _guards(held[0])
    read = {
        place for place, node in zip(attributes, held[len(tensors) :], strict=True) if node.users
    }
    integers, unread = no_channels(attributes, read, named, guards)
    kept = dict.fromkeys(integers, "is an integer of the network's")
    pairs = zip(tensors.items(), held, strict=False)
    buffers = [node for (_, t), node in pairs if not t.is_floating_point()]
    kept |= dict.fromkeys(
        entries(held[: len(tensors)], buffers, guards), "has an order that a buffer holds"
    )
    attributes |= likely(unread, named, sizes)
    attributes |= {place: size_of(size) for place, size in runner.groups.items()}
    returned, evaluated = (
        [
            a
            for a in some
            if isinstance(a, torch.fx.Node) and isinstance(a.meta["val"], torch.Tensor)
        ]
        for some in (nodes[-1].args[0], nodes[-1].args[0][-runner.outputs :])
    )
    dims = (size_of(size) for a in returned for size in a.meta["val"].shape)
    kept |= {s: "makes what the network returns" for size in dims for s in symbols(size)}
    maps |= _maps(runner.ran)
    convs = [
        Conv(name, size_of(inputs), size_of(shape[1]), name in maps)
        for name, inputs, shape in runner.ran
    ]
    channels = Channels(
        sizes,
        named,
        frozenset(trained),
        attributes,
        tuple(convs),
        tuple(products(evaluated, seen)),
        guards,
        # Others count values, such as nonzero's: they are no tensor's given.
        {symbol: reason for symbol, reason in kept.items() if symbol in sizes},
    )
    return channels, unused


class _Runner:
    """Runs a model with given tensors, and with sizes of theirs in place of its own integers."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, torch.Tensor], modes: tuple):
        self.model, self.names, self.ran, self.modes = model, list(tensors), [], modes
        modules = dict(model.named_modules())
        self.convs = {n: m for n, m in modules.items() if isinstance(m, nn.modules.conv._ConvNd)}
        inside = {id(p) for m in self.convs.values() for p in m.parameters() if p.dim() > 2}
        self.kernels = {name for name, p in model.named_parameters() if id(p) in inside}
        free = ((t, _dynamic(t, name in self.kernels) or ()) for name, t in tensors.items())
        channels = {size for t, dims in free for dim in dims if (size := t.shape[dim]) > 3}
        self.places = dict(_places(model, channels))
        self.norms = {n: m for n, m in modules.items() if isinstance(m, nn.GroupNorm)}
        self.groups = {}  # of depthwise convolutions and norms, which follow what they read

    def __call__(self, inputs: list[torch.Tensor], images: torch.Tensor):
        tensors = dict(zip(self.names, inputs, strict=False))
        stand_ins = inputs[len(tensors) :]
        integers = {place: t.shape[0] for place, t in zip(self.places, stand_ins, strict=True)}
        before = [(module, dict(vars(module))) for module in self.model.modules()]
        hooks = [
            m.register_forward_pre_hook(partial(self._group, name), with_kwargs=True)
            for name, m in (self.convs | self.norms).items()
        ]
        hooks += [
            conv.register_forward_hook(partial(self._note, name), with_kwargs=True)
            for name, conv in self.convs.items()
        ]
        runs, outputs = [], []
        try:
            with Plainly() as plainly:
                for training in self.modes:
                    self.model.train(training)
                    set_integers(self.model, integers)
                    self.ran = []
                    outputs.append(torch.func.functional_call(self.model, tensors, (images,)))
                    runs.append(self.ran)
                    for module, state in before:  # what a run leaves behind is not for the next
                        vars(module).update(state)
            self.outputs = len(tree_leaves(outputs[-1]))
            # Training's order has the auxiliary ones in their places, unless it skips others.
            names = [{name for name, *_ in run} for run in runs]
            self.ran = [*chain(*(runs if names[0] >= names[-1] else runs[::-1]))]
            return outputs
        finally:
            given = {id(tensor) for tensor in plainly.normed}
            self.normed = {name for name, tensor in tensors.items() if id(tensor) in given}
            for hook in hooks:
                hook.remove()
            for module, state in before:
                vars(module).update(state)

    def _group(self, name: str, module: nn.Module, inputs: tuple, named: Mapping) -> None:
        """A depthwise convolution, or a norm of each channel, has as many groups as channels."""
        norm = name in self.norms
        groups, channels = ("num_groups", "num_channels") if norm else ("groups", "in_channels")
        if 1 < getattr(module, groups) == getattr(module, channels):
            same = not norm and module.in_channels == module.out_channels
            size = module.weight.shape[0] if same else _channels(inputs, named)
            vars(module)[groups] = self.groups[name, groups, None] = size

    def _note(self, name: str, _, inputs: tuple, named: Mapping, maps: torch.Tensor) -> None:
        self.ran.append((name, _channels(inputs, named), maps.shape))


def _channels(inputs: tuple, named: Mapping) -> Size:
    """Return the channels of what a module is given, by place or by name."""
    return (*inputs, *named.values())[0].shape[1]


class _Exported(nn.Module):
    """What export is given: a module without tensors of its own, and nothing for it to restore."""

    def __init__(self, runner: _Runner):
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


def _maps(ran: list[tuple]) -> set[str]:
    """Return the names of convolutions that made more than one pixel."""
    return {name for name, _, shape in ran if any(size_of(size) != 1 for size in shape[2:])}


def _places(model: nn.Module, channels: set[int]) -> Iterator[tuple[tuple, int]]:
    """Find the integers that modules hold, also in lists, whose values are channel counts."""
    for name, module in model.named_modules():
        own = type(module).__module__.startswith("torch.nn.modules")
        own &= not isinstance(module, _InstanceNorm)  # compares it with what it is given
        for attribute, held in vars(module).items():
            # Everywhere else an input's size is that of images.
            features = isinstance(module, nn.RNNBase) and attribute == "input_size"
            other = _NOT_CHANNELS.fullmatch(attribute) and not features
            if attribute.startswith("_") or other:
                continue
            if own and attribute in _UNREAD:
                continue
            listed = type(held) in (list, tuple)
            values = held if listed else [held]
            # A list with a zero in it is of indices, such as an order of coefficients.
            if all(type(value) is int and value > 0 for value in values):
                for place, value in enumerate(values):
                    if value in channels:
                        yield (name, attribute, place if listed else None), value


def _dynamic(tensor: torch.Tensor, kernel: bool = False) -> dict | None:
    """Let export find which dimensions are channels; a kernel's height and width never are.

    With three dimensions only a convolution tells a kernel from positions that are learnt.
    """
    kernel |= tensor.dim() > 3 and tensor.numel() not in tensor.shape
    dims = range(2 if kernel else tensor.dim())
    return {dim: Dim.AUTO for dim in dims if tensor.shape[dim] > 1} or None


def _guards(node: torch.fx.Node) -> tuple[str, ...]:
    """Return what must hold beyond sizes that are one: sums, remainders, slices that are there.

    The shape environment is not PyTorch's public API: tested with the versions that the lock
    allows. Without its guards a wrong width would still be found, by the final forward pass.
    """
    environment = node.meta["val"].fake_mode.shape_env
    found = [(str(environment.replace(guard.expr)), guard) for guard in environment.guards]
    # What is unequal in PyTorch's own code chose a way through that; else, one through the network.
    found = [e for e, g in found if not (e.startswith("Ne") and _INTERNAL.search(repr(g)))]
    return tuple(dict.fromkeys(filter(symbols, found)))


@contextlib.contextmanager
def _silence():
    """Keep PyTorch from logging what is a result here (a fixed dimension), or an error of ours."""
    names = ["torch.export", "torch._export", "torch._subclasses.fake_tensor"]
    names.append("torch.fx.experimental.symbolic_shapes")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with contextlib.redirect_stderr(io.StringIO()):  # where a failed trace is printed, whole
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
