"""The multiply-accumulates of a traced network: of its convolutions and matrix products."""

import operator
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch.utils._pytree import tree_leaves

from .channels import BATCH, Size, size_of, symbols

_CONTRACTIONS = {"einsum", "tensordot", "inner"}
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
_RECURRENT |= {f"{kind}_cell" for kind in _RECURRENT}
# Operations that may make a batch of what does not depend on images, such as learnt queries.
_BATCHING = re.compile("expand|repeat|stack|cat|new_|zeros|ones|full|empty|rand")


def plain(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program in one graph whose contractions are matrix products, to count.

    Raises
    ------
    ValueError
        If it branches or loops by PyTorch's own operations (`torch.cond`).
    """
    _inlined(program.graph_module)
    if _CONTRACTIONS.isdisjoint(_kind(node.target) for node in program.graph.nodes):
        return program
    for node in program.graph.nodes:  # norms count batches, in constants that must not change then
        if _kind(node.target) == "add_" and node.args[0].op == "placeholder" and not node.users:
            program.graph.erase_node(node)
    program.graph_module.recompile()
    known = torch.export.default_decompositions().items()
    return program.run_decompositions({op: how for op, how in known if _kind(op) in _CONTRACTIONS})


def _inlined(module: torch.fx.GraphModule) -> torch.fx.Graph:
    """Return a module's graph, in which what ran in a context (`torch.no_grad`) is in its place.

    Export makes a graph of its own of that, called with what it reads: here it is copied back.
    """
    graph = module.graph
    for region in [node for node in graph.nodes if node.op == "get_attr"]:
        for call in list(region.users):
            if not _kind(call.target).startswith("wrap_with"):  # a context, which changes no size
                raise ValueError(
                    f"expected a forward pass of known operations, got {call.target}: choose by "
                    "integers or modules that the network holds, not by tensors' values"
                )
            inner = _inlined(getattr(module, region.target))
            places = [node for node in inner.nodes if node.op == "placeholder"]
            given = call.args[call.args.index(region) + 1 :]
            with graph.inserting_before(call):
                made = graph.graph_copy(inner, dict(zip(places, given, strict=True)))
            for use in list(call.users):  # each takes one of what it returns
                use.replace_all_uses_with(made[use.args[1]])
                graph.erase_node(use)
            graph.erase_node(call)
        graph.erase_node(region)
    return graph


def products(outputs: Sequence[torch.fx.Node], images: torch.fx.Node) -> Iterator[Size]:
    """Yield the products of each operation that the outputs need, for `BATCH` images.

    What does not depend on images, such as a weight that is computed, is done once for all of them,
    and so would be for one: it counts for each.
    """
    batched = {images}
    for node in images.graph.nodes:
        if not batched.isdisjoint(node.all_input_nodes) or _makes_batch(node):
            batched.add(node)
    for node in _behind(outputs):
        if (product := _product(node)) is not None:
            yield size_of(product if node in batched else BATCH * product)


def entries(
    held: Sequence[torch.fx.Node], integers: Sequence[torch.fx.Node], guards: Sequence[str]
) -> Iterator[str]:
    """Yield the symbols of sizes that count entries, not channels, of all tensors `held`.

    That is how many an embedding has; what buffers of `integers` index, as a permutation does, and
    how many these are; and the first dimension of a tensor that no other has and no layer makes,
    such as of learnt queries.
    """
    for node in held[0].graph.nodes:
        kind, indexed = _kind(node.target), []
        if kind == "index":
            indexed = [(dim, by) for dim, by in enumerate(node.args[1]) if by is not None]
        elif kind in ("index_select", "embedding"):
            indexed = [(0, node.args[1]) if kind == "embedding" else node.args[1:3]]
        for dim, by in indexed:
            of_sizes = False
            while len(by.all_input_nodes) == 1:  # such as a view
                of_sizes |= _kind(by.target) == "arange"
                (by,) = by.all_input_nodes
            if by in integers or (kind == "embedding" and not of_sizes):
                sizes = by.meta["val"].shape if by in integers else ()
                for size in (node.args[0].meta["val"].shape[dim], *sizes):
                    yield from symbols(size_of(size))
    shapes = [[size_of(size) for size in node.meta["val"].shape] for node in held]
    terms = [re.split(" [+-] |, ", guard) for guard in guards if guard.startswith("Eq(")]
    alone = [[term for term in some if len(symbols(term)) == 1] for some in terms]
    named = ({s for size in sizes for s in symbols(size)} for sizes in (*shapes, *alone))
    shared = Counter(s for one in named for s in one)
    for node, (first, *others) in zip(held, shapes, strict=True):
        layers = [use for use in node.users if _kind(use.target).startswith(("linear", "conv"))]
        if others and shared[first] == 1 and not layers:
            yield first


def _makes_batch(node: torch.fx.Node) -> bool:
    """Return whether an operation may repeat what it is given, or make a tensor, for each image."""
    given = tree_leaves(node.args) if _BATCHING.match(_kind(node.target)) else []
    return BATCH in given or given.count(next(iter(given), None)) == BATCH


def _product(node: torch.fx.Node) -> int | torch.SymInt | None:
    """Return how many products an operation computes, as it was traced; None if it does none."""
    kind = _kind(node.target)
    inputs = [a.meta["val"] for a in node.args if isinstance(a, torch.fx.Node)]
    shapes = [value.shape for value in inputs if isinstance(value, torch.Tensor)]
    if kind.startswith("conv_transpose"):
        return prod(shapes[0]) * prod(shapes[1][1:])
    if kind.startswith(("conv", "deform_conv")):
        return prod(node.meta["val"].shape) * prod(shapes[1][1:])
    if kind == "bilinear":
        return prod(node.meta["val"].shape) * prod(shapes[2][1:])
    if kind in ("linear", "mm", "bmm", "matmul", "mv", "dot"):
        return prod(node.meta["val"].shape) * shapes[0][-1]
    if kind in ("addmm", "baddbmm"):
        return prod(node.meta["val"].shape) * shapes[1][-1]
    if kind in _RECURRENT:  # at every step of a sequence, each of its matrices
        given = node.args[2:4] if kind.endswith("cell") else node.args[2]
        weights = (one.meta["val"].shape for one in given)
        matrices = sum(prod(shape) for shape in weights if len(shape) == 2)
        return prod(shapes[0][:-1]) * matrices
    if kind == "scaled_dot_product_attention":
        query, key, value = shapes[:3]
        return prod(node.meta["val"].shape[:-1]) * key[-2] * (query[-1] + value[-1])
    return None


def _behind(outputs: Sequence[torch.fx.Node]) -> set[torch.fx.Node]:
    """Return all nodes that outputs need, hence none of auxiliary classifiers.

    Also what is written into them, or into what they are a view of (`x[:, :8] = y`).
    """
    found, waiting, bases, written = set(), [*outputs], {}, {}
    for node in outputs[0].graph.nodes if outputs else ():
        schema = getattr(node.target, "_schema", None)
        shares = schema is not None and schema.arguments and schema.arguments[0].alias_info
        shared = node.args[0] if shares or node.target is operator.getitem else None
        bases[node] = bases.get(shared, node)
        # What is written into a placeholder, such as a buffer, is for the next run.
        if shares and schema.is_mutable and bases[node].op != "placeholder":
            written.setdefault(bases[node], []).append(node)
    while waiting:
        if (node := waiting.pop()) not in found:
            found.add(node)
            waiting += [*node.all_input_nodes, *written.get(bases[node], ())]
    return found


def _kind(op) -> str:
    """Return an operation's name without its library's and its overload's: `aten.conv2d.default`.

    Examples
    --------
    >>> _kind(torch.ops.aten.conv2d.default), _kind(operator.getitem)
    ('conv2d', '<built-in function getitem>')
    """
    parts = str(op).split(".")
    return parts[-2 if len(parts) == 3 else 0]
