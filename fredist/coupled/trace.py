"""Which channel counts of a network must be equal: its own forward pass, with sizes as symbols.

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
from collections.abc import Iterable, Mapping
from unittest import mock

import torch
from torch import nn
from torch.export import _trace as exporting
from torch.export import export
from torch.fx.experimental import proxy_tensor

from . import sources
from .channels import BATCH, Channels, Size, likely, no_channels, size_of, symbols
from .products import entries, plain, products
from .runner import Exported, Runner

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
    "SymInt": "its code asks isinstance(..., int) of an integer equal to a channel count: hold it "
    "by a name that ends in _size or begins with _",
    "^(KeyError|IndexError|AttributeError)": "if a forward hook or a function of yours holds the "
    "network itself, it writes into the one given, not into its copy: let it use the module that "
    "it is called with; or image_size= and in_chans= choose others",
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
    """Trace a run in each mode, evaluation's last; return also the parameters they leave unused."""
    runner = Runner(model, modes)
    for shape in larger:
        runner.try_images(shape)
    program = plain(_exported(runner, image_shape))
    *_, output = nodes = list(program.graph.nodes)
    given = set(program.graph_signature.user_inputs)  # constants are placeholders, too
    *held, images = (node for node in nodes if node.op == "placeholder" and node.name in given)
    integers = dict(zip(runner.places, held[len(runner.tensors) :], strict=True))
    tensors = runner.whole(dict(zip(runner.tensors, held, strict=False)))
    trained = [name for name, _ in model.named_parameters()]
    idle = {name for name in trained if name in tensors and not tensors[name].users}
    # A symbol that is still free is the plain size of the tensor that it came from.
    sizes = {
        size: number
        for node, tensor in zip(held, runner.inputs(), strict=True)
        for size, number in zip(_shape(node), tensor.shape, strict=True)
        if symbols(size) == (size,)
    }
    shapes = dict.fromkeys(trained, ()) | {name: _shape(node) for name, node in tensors.items()}
    guards, returned = _guards(images), _tensors(output.args[0])
    attributes, kept = _integers(integers, shapes, sizes, guards)
    attributes |= {place: size_of(size) for place, size in runner.groups.items()}
    buffers = [tensors[name] for name, t in runner.tensors.items() if not t.is_floating_point()]
    ordered = entries([*tensors.values()], buffers, guards)
    kept |= dict.fromkeys(ordered, "has an order that a buffer holds")
    dims = (size for node in returned for size in _shape(node))
    kept |= {s: "makes what the network returns" for size in dims for s in symbols(size)}
    channels = Channels(
        sizes,
        shapes,
        frozenset(trained),
        attributes,
        runner.ran_convs(),
        tuple(products(_tensors(output.args[0][-runner.outputs :]), images)),
        guards,
        # Other symbols count what `nonzero` and its kind find: no input has them.
        {symbol: reason for symbol, reason in kept.items() if symbol in sizes},
    )
    return channels, idle - runner.normed


def _exported(runner: Runner, image_shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """Return the program that a network is with sizes as symbols; an error says what hinders it."""
    images = sources.images(runner.model, image_shape, BATCH)
    given, dynamic = (runner.inputs(), images), (runner.dynamic(), None)
    try:
        # Where sizes are symbols, what PyTorch keeps of each operation, for the next that is like
        # it, costs more than it saves: an eighth of the time, of a HaloNet two fifths.
        with _silence(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False), _asked():
            return export(Exported(runner), given, dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        words = str(error).strip().splitlines() or [""]
        said = f"{type(error).__name__}: {words[0][:300]}"
        hints = (hint for pattern, hint in _HINTS.items() if re.search(pattern, said))
        raise ValueError(
            f"expected a network that torch.export traces with images of {image_shape}, got "
            f"{said}; {next(hints, 'image_size= and in_chans= choose others')}"
        ) from error


def _integers(
    held: Mapping[tuple, torch.fx.Node], shapes: Mapping, sizes: Mapping, guards: tuple[str, ...]
) -> tuple[dict[tuple, Size], dict[str, str]]:
    """Return what a network's integers are as sizes, and the symbols of those that stay."""
    found = {place: _shape(node)[0] for place, node in held.items()}
    read = {place for place, node in held.items() if node.users}
    fixed, unread = no_channels(found, read, shapes, guards)
    kept = dict.fromkeys(sorted(fixed), "is an integer of the network's")
    return found | likely(unread, shapes, sizes), kept


def _shape(node: torch.fx.Node) -> tuple[Size, ...]:
    return tuple(map(size_of, node.meta["val"].shape))


def _tensors(arguments: Iterable) -> list[torch.fx.Node]:
    """Return those that are tensors of what a network returns."""
    nodes = (one for one in arguments if isinstance(one, torch.fx.Node))
    return [node for node in nodes if isinstance(node.meta["val"], torch.Tensor)]


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
def _asked():
    """Keep `torch.export` from what it works out for compilers alone, half of its time and more.

    That is in which range each symbol may lie, and how each tensor lies in memory, which matters of
    what is cut out of another: whether it is the whole, and not empty. These are not PyTorch's
    public API: where a version has others, a trace is slower, and the same.
    """
    layout = getattr(proxy_tensor, "_extract_tensor_metadata", None)

    def of_parts(tensor):
        return layout(tensor) if _is_part(tensor) else None

    def freeze(fake_mode, **_):  # what follows the trace, and runs it anew, asks for no more
        fake_mode.shape_env.freeze()

    with (
        mock.patch.object(proxy_tensor, "_extract_tensor_metadata", of_parts, create=True),
        mock.patch.object(exporting, "produce_guards_and_solve_constraints", freeze, create=True),
    ):
        yield


def _is_part(tensor: torch.Tensor) -> bool:
    """Return whether a tensor may be cut out of another, by its sizes and strides as they stand."""
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if str(stride) != str(step) or "-" in str(size):
            return True
        step *= size
    return False


@contextlib.contextmanager
def _silence():
    """Keep PyTorch from logging what is a result here (a fixed dimension), or an error of ours."""
    names = ["torch.export", "torch._export", "torch._subclasses.fake_tensor"]
    names.append("torch.fx.experimental.symbolic_shapes")
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL)
        with contextlib.redirect_stderr(io.StringIO()):  # where a failed trace is printed, whole
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
