"""Fresh values for tensors of new shapes, spread as the model's own initialisation spreads them.

A model's initialisation is code in its constructor, which cannot be run again for other widths. But
a newly built original shows its law: how the spread of its weights depends on their fans.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from math import log, prod, sqrt
from statistics import median, pstdev
from typing import NamedTuple

import torch
from torch import nn


class Fans(NamedTuple):
    """What a weight's spread may depend on."""

    fan_in: int
    fan_out: int
    groups: int


# A weight's spread is a factor times one of these; each with the factors that are in common use:
# He's, LeCun's, PyTorch's default, Glorot's, and small constants.
_LAWS: dict[str, tuple[Callable[[Fans], float], tuple[float, ...]]] = {
    "fan_in": (lambda f: 1 / sqrt(f.fan_in), (sqrt(2), 1.0, sqrt(1 / 3))),
    "fan_out": (lambda f: 1 / sqrt(f.fan_out), (sqrt(2), 1.0, sqrt(1 / 3))),
    "fan_out / groups": (lambda f: sqrt(f.groups / f.fan_out), (sqrt(2),)),
    "fan_in + fan_out": (lambda f: 1 / sqrt(f.fan_in + f.fan_out), (sqrt(2),)),
    "constant": (lambda f: 1.0, (0.02, 0.01, 0.001)),
}


@torch.no_grad()
def reshape(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give a newly built model's tensors new shapes, by name, and fresh values, in place.

    Constant tensors stay constant; random ones are drawn from PyTorch's global generator, uniform
    or normal as they were, with the spread that the model's law gives to the new fans.

    Raises
    ------
    ValueError
        If a buffer's values differ along a dimension that changes: what belongs there is unknown.
    """
    laws, twins = find_laws(model), {}
    for prefix, module in model.named_modules():
        for key, old in (*module._parameters.items(), *module._buffers.items()):
            name = f"{prefix}.{key}".lstrip(".")
            shape = shapes.get(name)
            if old is not None and shape is not None and shape != tuple(old.shape):
                factor = 1.0
                if law := laws.get((type(module), key)):
                    weight = shapes.get(f"{name.removesuffix(key)}weight", ())
                    factor = law(_fans(module, weight)) / law(_fans(module, module.weight.shape))
                twins[id(old)] = _fresh(name, old, shape, factor)
            if id(old) in twins:  # shared by several modules, it stays so
                setattr(module, key, twins[id(old)])


def find_laws(model: nn.Module) -> dict[tuple[type, str], Callable[[Fans], float]]:
    """Return how the spread of random weights and biases depends on fans, by module type and key.

    The law is the one whose factor differs least between layers and lies nearest to one in use.
    """
    spreads = defaultdict(list)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            for key, tensor in module._parameters.items():
                if (
                    tensor is not None
                    and tensor.numel() > 16
                    and not tensor.is_meta
                    and tensor.min() != tensor.max()
                ):
                    fans = _fans(module, module.weight.shape)
                    spreads[type(module), key].append((float(tensor.detach().std()), fans))
    return {where: _find_law(found) for where, found in spreads.items()}


def _find_law(found: list[tuple[float, Fans]]) -> Callable[[Fans], float]:
    def misfit(entry) -> float:
        law, factors = entry
        logs = [log(spread / law(fans)) for spread, fans in found]
        return pstdev(logs) + min(abs(median(logs) - log(factor)) for factor in factors)

    return min(_LAWS.values(), key=misfit)[0]


def _fans(module: nn.Module, shape: tuple[int, ...]) -> Fans:
    """Return the fans of a weight of that shape in a module; all its groups follow it."""
    groups = getattr(module, "groups", 1)
    groups = shape[0] if 1 < groups == module.weight.shape[0] else groups
    return Fans(prod(shape[1:]), shape[0] * prod(shape[2:]), groups)


def _fresh(name: str, old: torch.Tensor, shape: tuple[int, ...], factor: float) -> torch.Tensor:
    if old.is_floating_point() and isinstance(old, nn.Parameter):
        new = _drawn(old, shape, factor)
        return nn.Parameter(new, old.requires_grad)
    same = old
    for dim, (before, after) in enumerate(zip(old.shape, shape, strict=True)):
        if before != after:
            same = same.narrow(dim, 0, 1)
            if not old.is_meta and not torch.equal(same.expand_as(old), old):
                raise ValueError(
                    f"expected the buffer {name} with equal values along dimension {dim}, whose "
                    f"size changes from {before} to {after}: what belongs there is unknown"
                )
    return same.expand(shape).clone()


def _drawn(old: torch.Tensor, shape: tuple[int, ...], factor: float) -> torch.Tensor:
    if old.is_meta:
        return old.new_empty(shape)
    if old.min() == old.max():
        return old.new_full(shape, float(old.flatten()[0]))
    spread, middle = float(old.std()), float(old.mean())
    if abs(middle) < 4 * spread / sqrt(old.numel()):
        middle = 0.0
    uniform = float((old - middle).abs().max()) < 2 * spread  # a uniform's ends: 1.73 spreads
    new = old.new_empty(shape)
    spread *= factor
    if uniform:
        return new.uniform_(middle - sqrt(3) * spread, middle + sqrt(3) * spread)
    return new.normal_(middle, spread)
