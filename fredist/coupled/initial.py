"""Fresh values for tensors of new shapes, spread as the model's own initialisation spreads them.

A model's initialisation is code in its constructor, which cannot be run again for other widths. But
a newly built original shows its law: how the spread of its weights depends on their fans.
"""

import contextlib
import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from math import log, prod, sqrt
from statistics import median, pstdev
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm

from . import sources
from .values import drawn, is_set, repeated, stretched


class Fans(NamedTuple):
    """What a weight's spread may depend on."""

    fan_in: int
    fan_out: int
    groups: int


Law = Callable[[Fans], float]
# A tensor's spread is a factor times one of these; each with the factors that are in common use:
# He's, LeCun's, PyTorch's default, Glorot's, and constants.
_LAWS: dict[str, tuple[Law, tuple[float, ...]]] = {
    "fan_in": (lambda f: 1 / sqrt(f.fan_in), (sqrt(2), 1.0, sqrt(1 / 3))),
    "fan_out": (lambda f: 1 / sqrt(f.fan_out), (sqrt(2), 1.0, sqrt(1 / 3))),
    "fan_out / groups": (lambda f: sqrt(f.groups / f.fan_out), (sqrt(2),)),
    "fan_in + fan_out": (lambda f: 1 / sqrt(f.fan_in + f.fan_out), (sqrt(2),)),
    "constant": (lambda f: 1.0, (1.0, 0.02, 0.01, 0.001)),
}
# A bias is either PyTorch's own or does not depend on fans.
_BIAS_LAWS = {
    "fan_in": (_LAWS["fan_in"][0], (sqrt(1 / 3),)),
    "constant": (_LAWS["constant"][0], ()),
}
# Methods that give a module fresh values, where they can be called without arguments.
_INITIALISERS = ("reset_parameters", "_reset_parameters", "init_weights", "_init_weights")
_INITIALISERS += ("initialize_weights", "_initialize_weights")


@torch.no_grad()
def newly_built(model: nn.Module) -> nn.Module:
    """Return a copy of a user's module with fresh values, as far as its own tell how.

    Its modules' own methods initialise what they can. Of a network that looks freshly built, what
    is spread otherwise is then drawn as it is there, and constants are its own; of one that looks
    trained nothing tells how its constructor did it. Frozen parameters stay. What looks trained: a
    norm's weights, or a vector without such a method, whose values differ; biases spread beyond
    PyTorch's bounds; weights that are one number, but zero.

    Warns
    -----
    UserWarning
        If it looks trained: weights are as their modules' methods make them, and what no method
        initialises is kept.
    """
    built = sources.copied(model)
    if any(parameter.is_meta for parameter in model.parameters()):
        return built
    for module in reversed([*built.modules()]):  # a module's method overrides its children's
        _initialise(module)
    pairs = [
        (f"{name}.{key}".lstrip("."), module, old, twin._parameters[key])
        for (name, module), twin in zip(model.named_modules(), built.modules(), strict=True)
        for key, old in module._parameters.items()
        if old is not None
    ]
    trained, kept = any(_looks_trained(*found) for _, *found in pairs), []
    for name, module, old, new in pairs:
        vars(new).update(vars(old))  # timm's marks (no weight decay), which a copy lacks
        if not old.requires_grad:  # also integers, which never do
            new.copy_(old)
        elif trained:
            # A constant vector is hardly trained, a single number may be.
            unknown = not any(_initialisers(module)) if old.numel() == 1 else not is_set(old)
            kept += [name] if unknown and torch.equal(old, new) else []
        elif is_set(old):
            new.copy_(old)
        elif is_set(new) or not _is_alike(old, new):
            new.copy_(drawn(old, old.shape))
    if not trained:
        _renew_weight_norms(built, [lengths / own for lengths, own in _weight_norms(model)])
    else:
        said = (
            "expected a network that is freshly built, got one that looks trained: its parameters "
            "are initialised by their modules' own methods, such as reset_parameters(), whatever "
            "its constructor did; give it before it is trained, or by name"
        )
        if kept:
            said += (
                f". Nothing initialises {', '.join(kept)}: they are kept; initialise them in the "
                "result, or give their module a method reset_parameters()"
            )
        warnings.warn(said, stacklevel=5)  # the call of redistribute or rebuild
    return built


@torch.no_grad()
def reshape(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], integers: Mapping[tuple, int]
) -> None:
    """Give a newly built model's tensors new shapes, by name, and fresh values, in place.

    Tensors that were set, such as constants or an identity, stay so; random ones are drawn from
    PyTorch's global generator, uniform or normal as they were, with the spread that the model's law
    gives to the new fans: also a bias of which only the weight changes. Buffers and frozen
    parameters are kept, or repeated. New groups are among the `integers` that modules are about to
    hold.

    Raises
    ------
    ValueError
        If values to be kept differ along a dimension that changes: what belongs there is unknown.
    """
    laws, fresh = find_laws(model), {}
    ratios = [lengths / own for lengths, own in _weight_norms(model)]
    named = (*model.named_parameters(), *model.named_buffers())
    names = {tensor: name for name, tensor in named}
    sizes = {tensor: shapes.get(name, tuple(tensor.shape)) for name, tensor in named}
    for inside, module in model.named_modules():
        for key, old in (*module._parameters.items(), *module._buffers.items()):
            if old is None or old in fresh or isinstance(module, _SpectralNorm):
                continue
            shape, factor = sizes[old], 1.0
            law, weight = laws.get((type(module), key)), _weight(module, old)
            law = laws.get(id(old), law)
            if law and weight is not None and old.requires_grad:
                before, groups = _fans(module, weight), integers.get((inside, "groups", None))
                if shape != tuple(old.shape) or _follows(old, before):
                    factor = law(_fans(module, weight, sizes[weight], groups)) / law(before)
            if factor != 1 or shape != tuple(old.shape):
                fresh[old] = _fresh(names[old], old, shape, factor)
    for old, new in fresh.items():
        old.data = new  # in place: what modules share they still do, with timm's marks
    _renew_spectral_norms(model)
    _renew_weight_norms(model, ratios)


def find_laws(model: nn.Module) -> dict[tuple[type, str] | int, Law]:
    """Return how the spread of random weights and biases depends on fans, by module type and key.

    The law is the one whose factor differs least between layers and lies nearest to one in use.
    Weights far from it have another, by their ids, if that is theirs with a factor in use: a
    backbone may be He's beside heads of a constant.
    """
    weights, biases = defaultdict(list), defaultdict(list)
    for module in model.modules():
        for key, tensor in module._parameters.items():
            if tensor is None or (weight := _weight(module, tensor)) is None:
                continue
            own = weight is tensor
            # What was set, such as an identity, has no spread.
            if tensor.numel() > (16 if own else 1) and not is_set(tensor):
                found = _spread(tensor), _fans(module, weight), tensor
                (weights if own else biases)[type(module), key].append(found)
    laws = {where: _find_law(found, _BIAS_LAWS)[0] for where, found in biases.items()}
    for where, found in weights.items():
        law = laws[where] = _find_law(found, _LAWS)[0]
        usual = median(spread / law(fans) for spread, fans, _ in found)
        if far := [one for one in found if not _meets(*one, law, usual, 0.1)]:
            law, factors = _find_law(far, _LAWS)
            own = (one for one in far if any(_meets(*one, law, factor) for factor in factors))
            laws |= {id(tensor): law for *_, tensor in own}
    return laws


def _initialisers(module: nn.Module) -> Iterator[Callable]:
    for name in _INITIALISERS:
        with contextlib.suppress(TypeError, ValueError):  # no such method, or it needs arguments
            inspect.signature(getattr(module, name, None)).bind()
            yield getattr(module, name)


def _initialise(module: nn.Module) -> None:
    with parametrize.cached():  # so that a parametrised weight can be written to
        for method in _initialisers(module):
            method()
        for name in module.parametrizations if parametrize.is_parametrized(module) else ():
            with contextlib.suppress(NotImplementedError, ValueError):  # it has no inverse
                setattr(module, name, getattr(module, name))


def _renew_spectral_norms(model: nn.Module) -> None:
    """Begin their power iterations anew, as for new weights: what they hold was of others."""
    for weight in [m for m in model.modules() if isinstance(m, parametrize.ParametrizationList)]:
        for place, norm in enumerate(weight):
            if isinstance(norm, _SpectralNorm) and weight.original.dim() > 1:  # else it has none
                own = norm.n_power_iterations, norm.dim, norm.eps
                weight[place] = _SpectralNorm(weight.original, *own).train(norm.training)


def _weight_norms(model: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Return the lengths of each weight norm, and those that its directions have."""
    norms = [m for m in model.modules() if isinstance(m, parametrize.ParametrizationList)]
    norms = [m for m in norms if isinstance(m[0], _WeightNorm)]
    return [(m.original0, torch.norm_except_dim(m.original1, 2, m[0].dim)) for m in norms]


def _renew_weight_norms(model: nn.Module, before: list[torch.Tensor]) -> None:
    """Set lengths to those of the new directions, times the ratio that all had, if it was one."""
    for ratio, (lengths, own) in zip(before, _weight_norms(model), strict=True):
        if not ratio.is_meta and torch.allclose(ratio, ratio.flatten()[0], rtol=1e-3):
            lengths.copy_(own * ratio.flatten()[0])


def _looks_trained(module: nn.Module, old: torch.Tensor, new: torch.Tensor) -> bool:
    """Return whether no initialisation is likely to make such values; `new` is what one made."""
    if not old.requires_grad:
        return False
    if is_set(old):  # a weight of one number, but zero
        return old.dim() > 1 and not is_set(new) and bool(old.abs().float().median() != 0)
    if is_set(new) and new.abs().float().median() != 0:  # a norm's ones
        return True
    if old.dim() > 1 or torch.equal(old, new):
        return old.dim() == 1
    weight = _weight(module, old) if isinstance(module, _ConvNd | nn.Linear) else None
    return weight is not None and _spread(old) > 1 / sqrt(_fans(module, weight).fan_in)


def _spread(tensor: torch.Tensor) -> float:
    return float(tensor.detach().norm()) / sqrt(tensor.numel())


def _is_alike(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Return whether two random tensors may be two draws of one spread, up to chance."""
    near = abs(log(float(one.std() / two.std()))) < 2 / sqrt(one.numel())
    return near and not torch.equal(one, two)


def _weight(module: nn.Module, tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the weight whose fans decide a tensor's spread: for a vector its module's largest."""
    if tensor.dim() > 1:
        return tensor
    inside = getattr(module, "parametrizations", None)  # where a weight norm keeps the weight
    own = (*module._parameters.values(), *(inside.parameters() if inside is not None else ()))
    weights = (other for other in own if other is not None and other.dim() > 1)
    return max(weights, key=torch.numel, default=None)


def _follows(old: torch.Tensor, fans: Fans) -> bool:
    """Return whether values are random; one number is if it lies within PyTorch's own bounds."""
    return bool(old.abs() <= 1 / sqrt(fans.fan_in)) if old.numel() == 1 else not is_set(old)


def _fans(
    module: nn.Module,
    weight: torch.Tensor,
    shape: tuple[int, ...] | None = None,
    groups: int | None = None,
) -> Fans:
    """Return a weight's fans, in another shape and with other groups if they are given."""
    shape = weight.shape if shape is None else shape
    if isinstance(module, nn.RNNBase):  # PyTorch spreads all its values by its hidden size
        hidden = shape[0] * module.hidden_size // weight.shape[0]
        return Fans(hidden, hidden, 1)
    groups = groups or (module.groups if isinstance(module, _ConvNd) else 1)
    return Fans(prod(shape[1:]), shape[0] * prod(shape[2:]), groups)


def _find_law(found: list[tuple], laws: Mapping[str, tuple]) -> tuple[Law, tuple]:
    def misfit(entry) -> float:
        law, factors = entry
        logs = [log(spread / law(fans)) for spread, fans, _ in found]
        near = (abs(median(logs) - log(factor)) for factor in factors)
        return pstdev(logs) + min(near, default=log(2))

    return min(laws.values(), key=misfit)


def _meets(spread: float, fans: Fans, tensor, law: Law, factor: float, least=0.0) -> bool:
    """Return whether a tensor's spread is a law's times a factor, up to chance."""
    return abs(log(spread / law(fans) / factor)) < max(least, 2 / sqrt(tensor.numel()))


def _fresh(name: str, old: torch.Tensor, shape: tuple[int, ...], factor: float) -> torch.Tensor:
    if not isinstance(old, nn.Parameter):
        return repeated(f"the buffer {name}", old, shape)
    if not old.requires_grad:
        return repeated(f"the frozen parameter {name}", old, shape)
    if shape == tuple(old.shape):
        return old * factor  # as random as it was
    return stretched(old, shape) if is_set(old) else drawn(old, shape, factor)
