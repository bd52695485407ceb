"""The multiply-accumulates of a traced network: of its convolutions and matrix products."""

import re
from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch.utils._pytree import tree_leaves

from .channels import BATCH, Size, size_of

_CONTRACTIONS = {"einsum", "tensordot", "inner"}
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
_RECURRENT |= {f"{kind}_cell" for kind in _RECURRENT}
# Operations that may make a batch of what does not depend on images, such as learnt queries.
_BATCHING = re.compile("expand|repeat|stack|cat|new_|zeros|ones|full|empty|rand")


def plain(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program whose contractions are matrix products, which `products` counts."""
    if _CONTRACTIONS.isdisjoint(_kind(node.target) for node in program.graph.nodes):
        return program
    known = torch.export.default_decompositions().items()
    return program.run_decompositions({op: how for op, how in known if _kind(op) in _CONTRACTIONS})


def products(outputs: Sequence[torch.fx.Node], images: torch.fx.Node) -> Iterator[Size]:
    """Yield those of each operation that the outputs need, for `BATCH` images.

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


def _makes_batch(node: torch.fx.Node) -> bool:
    """Return whether an operation may repeat what it is given, or make a tensor, for each image."""
    given = tree_leaves(node.args) if _BATCHING.match(_kind(node.target)) else []
    return BATCH in given or given.count(next(iter(given), None)) == BATCH


def _product(node: torch.fx.Node) -> int | torch.SymInt | None:
    """Return an operation's, as it was traced."""
    kind = _kind(node.target)
    inputs = [a.meta["val"] for a in node.args if isinstance(a, torch.fx.Node)]
    shapes = [value.shape for value in inputs if isinstance(value, torch.Tensor)]
    if kind.startswith("conv_transpose"):
        return prod(shapes[0]) * prod(shapes[1][1:])
    if kind.startswith("conv"):
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
    """Return all nodes that outputs need: what they cost, without auxiliary ones."""
    found, waiting = set(), [*outputs]
    while waiting:
        if (node := waiting.pop()) not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _kind(op) -> str:
    return str(op).removeprefix("aten.").split(".")[0]
