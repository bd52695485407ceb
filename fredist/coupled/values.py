"""Values of a tensor in another shape: drawn as it was, stretched, or repeated."""

from math import sqrt

import torch
from torch import nn


def is_set(tensor: torch.Tensor) -> bool:
    """Return whether most entries share one value, which no random tensor's do, or none is known.

    Integers are set, too: what is not is random, and can be drawn.
    """
    values = _real(tensor.detach()).flatten()
    if values.is_meta or not len(values) or not values.is_floating_point():
        return True
    values = values.float()
    return bool(2 * (values == values.median()).sum() > len(values))


def stretched(old: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return set values in another shape: blocks keep their shares, a diagonal stays one.

    Examples
    --------
    >>> stretched(torch.tensor([0, 0, 1, 1, 0, 0]), (3,)), stretched(torch.eye(2), (3, 3)).trace()
    (tensor([0, 1, 0]), tensor(3.))
    """
    if old.dim() > 1 and not old.is_complex() and not old.is_meta:
        inside, usual = _diagonal(old.shape), float(old.float().median())
        rest = old.detach().clone()
        rest[inside] = usual
        if (rest == usual).all():  # also one for each gate or group, as nn.init.dirac_ makes them
            new = old.new_full(shape, usual)
            new[_diagonal(shape)] = stretched(old[inside], (shape[0], *shape[2:]))
            return new
    for dim, (before, after) in enumerate(zip(old.shape, shape, strict=True)):
        old = old.index_select(dim, torch.arange(after, device=old.device) * before // after)
    return old


def _diagonal(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the places of a matrix's diagonal, or of those of squares one below the other."""
    rows = torch.arange(shape[0])
    return rows, rows % shape[1]


def repeated(what: str, old: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    same = old
    for dim, (before, after) in enumerate(zip(old.shape, shape, strict=True)):
        if before != after:
            same = same.narrow(dim, 0, 1)
            if not old.is_meta and not torch.equal(same.expand_as(old), old):
                hint = "; requires_grad_(True) has it drawn anew" * isinstance(old, nn.Parameter)
                if what.endswith(("_u", "_v")):  # torch.nn.utils.spectral_norm's, by hooks
                    hint = "; torch.nn.utils.parametrizations.spectral_norm's is known"
                raise ValueError(
                    f"expected {what} with equal values along dimension {dim}, whose size changes "
                    f"from {before} to {after}: what belongs there is unknown{hint}"
                )
    return same.expand(shape).clone()


def drawn(old: torch.Tensor, shape: tuple[int, ...], factor: float = 1.0) -> torch.Tensor:
    """Return random values, uniform or normal as a tensor's are, with a factor times its spread.

    Rows that are repeated stay so, one for all as well as one for some (sub-pixel convolutions); an
    orthogonal matrix is drawn as one, of its own gain; and complex numbers are by their parts.
    """
    if old.is_complex():
        parts = drawn(torch.view_as_real(old), (*shape, 2), factor)
        return torch.view_as_complex(parts.contiguous())
    if old.dim() > 1:
        times = len(old) // int(1 + (old[1:] != old[:-1]).flatten(1).any(1).sum())
        again = times > 1 and torch.equal(old[::times].repeat_interleave(times, 0)[: len(old)], old)
        if again and times == len(old):  # all rows are one, which may not be random
            return stretched(old, shape)
        if again and shape[0] % times == 0:
            one = drawn(old[::times], (shape[0] // times, *shape[1:]), factor)
            return one.repeat_interleave(times, 0)
        if gain := _orthogonal(old.detach().flatten(1).float()):
            return nn.init.orthogonal_(torch.empty(shape, device=old.device), gain).to(old.dtype)
    spread, middle = float(old.std()), float(old.mean())
    if abs(middle) < 4 * spread / sqrt(old.numel()):
        middle = 0.0
    uniform = float((old - middle).abs().max()) < 2 * spread  # a uniform's ends: 1.73 spreads
    new = old.new_empty(shape)
    spread *= factor
    if uniform:
        return new.uniform_(middle - sqrt(3) * spread, middle + sqrt(3) * spread)
    return new.normal_(middle, spread)


def _orthogonal(matrix: torch.Tensor) -> float:
    """Return the gain of a matrix whose rows or columns, the fewer, are orthogonal; else zero."""
    few = (matrix if len(matrix) <= matrix.shape[1] else matrix.T)[:8]
    gram = few @ few.T
    gain = float(gram[0, 0])
    same = torch.allclose(gram / max(gain, 1e-30), torch.eye(len(few)).to(gram), atol=1e-4)
    return sqrt(gain) if same and len(few) > 1 else 0.0


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's real numbers: of complex ones their parts."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
