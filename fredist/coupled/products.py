"""The multiply-accumulates of a traced network: of its convolutions and matrix products."""

from collections.abc import Iterator, Sequence
from math import prod

import torch

from .channels import Size, size_of

_CONTRACTIONS = {"einsum", "tensordot", "inner"}
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
_RECURRENT |= {f"{kind}_cell" for kind in _RECURRENT}


def plain(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program whose contractions are matrix products, which `products` counts."""
    if _CONTRACTIONS.isdisjoint(_kind(node.target) for node in program.graph.nodes):
        return program
    known = torch.export.default_decompositions().items()
    return program.run_decompositions({op: how for op, how in known if _kind(op) in _CONTRACTIONS})


def products(outputs: Sequence[torch.fx.Node]) -> Iterator[Size]:
    """Yield those of each operation that the outputs need, for `BATCH` images."""
    for node in _behind(outputs):
        kind = _kind(node.target)
        inputs = [a.meta["val"] for a in node.args if isinstance(a, torch.fx.Node)]
        shapes = [value.shape for value in inputs if isinstance(value, torch.Tensor)]
        if kind.startswith("conv_transpose"):
            yield size_of(prod(shapes[0]) * prod(shapes[1][1:]))
        elif kind.startswith("conv"):
            yield size_of(prod(node.meta["val"].shape) * prod(shapes[1][1:]))
        elif kind == "bilinear":
            yield size_of(prod(node.meta["val"].shape) * prod(shapes[2][1:]))
        elif kind in ("linear", "mm", "bmm", "matmul", "mv", "dot"):
            yield size_of(prod(node.meta["val"].shape) * shapes[0][-1])
        elif kind in ("addmm", "baddbmm"):
            yield size_of(prod(node.meta["val"].shape) * shapes[1][-1])
        elif kind in _RECURRENT:  # at every step of a sequence, each of its matrices
            given = node.args[2:4] if kind.endswith("cell") else node.args[2]
            weights = (one.meta["val"].shape for one in given)
            matrices = sum(prod(shape) for shape in weights if len(shape) == 2)
            yield size_of(prod(shapes[0][:-1]) * matrices)
        elif kind == "scaled_dot_product_attention":
            (*batch, rows, _), (*_, columns, _), (*_, features) = shapes[:3]
            yield size_of(prod(batch) * rows * columns * (shapes[0][-1] + features))


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
