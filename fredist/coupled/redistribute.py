"""Your own network in one line: its filters redistributed, at an equal budget if one is asked."""

import contextlib
from collections.abc import Callable
from functools import partial
from math import ceil, floor, sqrt

import torch
from torch import nn

from ..checks import check_choice, check_flag, check_integer, check_number
from ..measure import passes_ms, tensor_peak
from ..networks.budget import largest, smallest
from . import sources
from .plan import COSTS, HOW, study
from .redistribution import Redistribution

MEMORY_BATCH = 64  # as in Table 3
_LATENCY_GRID = 20  # widths to a twentieth


class TooLarge(ValueError):
    """A network is not built, as it is larger than whoever asks for it allows."""


def redistribute(
    model: str | nn.Module,
    template: str = "base",
    width: float | None = None,
    *,
    like: str | None = None,
    params: float | None = None,
    macs: float | None = None,
    memory: float | None = None,
    latency: float | None = None,
    image_size: int | None = None,
    quiet: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    **options,
) -> nn.Module:
    """Return a convolutional network with its filters redistributed, freshly initialised.

    `model` is the name of one of the paper's, timm's or torchvision's networks ("timm/vgg19" is not
    the paper's "vgg19"), or a module of your own, which stays as it is; forward hooks run while it
    is traced, as some networks need what theirs keep: remove others first. `image_size` is one
    number, or a tuple of as many as the network's maps have dimensions. Layers are the convolutions
    that make maps, in the order in which they run; those whose channels are coupled, by residual
    sums or depthwise convolutions, are one. The result is of the model's own class, has passed a
    forward pass, and says in `model.redistribution` what was done: its `table` of layers,
    `filters`, `params` and `macs` before and after, `to_json()` for `rebuild`.

    A module of your own is built anew by its modules' own methods (`reset_parameters`, ...). If it
    looks freshly built, what its values show otherwise, such as He's weights or norms of zeros, is
    then drawn as it is there. If it looks trained, a warning says so, and names what no method
    initialises. Frozen parameters are kept. Where a constructor did otherwise, apply that to the
    result: `model.apply(init)`.

    A budget chooses the width: the largest on a grid of 1e-4 with which the network costs no more
    than the original, `like` "params", "macs", "memory" or "latency", or than a number: `params`,
    `macs` of one image, `memory` in bytes (inference of 64 images, computed), `latency` in ms (one
    image, measured here; on a grid of 0.05, with its upper confidence bound). Without one the
    ratios to the original are printed, unless `quiet`.

    Further options: `tie`, groups of modules whose layers keep their proportions and whose filters
    the template counts once (`tie=["layer1", "layer2"]`); `groups`, of layers that get equal
    filters; `fixed`, modules that the template leaves alone; `filters` of one's own, one per group;
    `round_to`, `keep_total` and `vertex` as in `apply_template`; all else goes to timm or
    torchvision. The paper's four have `convention` and `head` beside these; "timm/fredist_vgg19" is
    one of them traced as any other.

    Raises
    ------
    ValueError
        Where the network cannot be traced or no network fits the budget, saying which and why.

    Examples
    --------
    >>> model = redistribute("resnet18", "uniform", 0.25, image_size=64, num_classes=10)
    params 0.05x, MACs 0.36x, memory 0.45x of the original's
    >>> model.redistribution.rows[0]
    Row(layer='conv1', convs=3, before=64, after=60, note='')
    """
    check_flag("quiet", quiet)
    budgets = {"params": params, "macs": macs, "memory": memory, "latency": latency}
    given = {what: number for what, number in budgets.items() if number is not None}
    said = [*given, *(["like"] * (like is not None))]
    if said and options.get("filters") is not None:
        raise ValueError(f"expected either filters or a budget, got filters and {said[0]}")
    said += ["width"] * (width is not None)
    if len(said) > 1:
        raise ValueError(f"expected one of width, like and a budget, got {', '.join(said)}")
    for what, most in given.items():
        check_number(what, most, above=True)
    how = {name: options.pop(name) for name in HOW if name in options}
    asked = {"num_classes": num_classes, "in_chans": in_chans, **options}
    asked = {name: value for name, value in asked.items() if value is not None}
    for name, least in (("num_classes", 0), ("in_chans", 1)):
        if name in asked:  # as Python's own: JSON holds no others
            asked[name] = check_integer(name, asked[name], least)
    original = study(model, image_size, **asked)
    own = model if isinstance(model, nn.Module) else None
    plan = partial(original.plan, template, **how)
    if like is not None:
        given = {check_choice("like", like, COSTS): original_cost(plan, like, own)}
    if given:
        ((what, most),) = given.items()
        width = fitting(plan, what, most, own)
    built = plan(1.0 if width is None else width).build(own)
    if not given and not quiet:
        print(ratios(built.redistribution, own))
    return built


def ratios(redistribution: Redistribution, model: nn.Module | None = None) -> str:
    """Return what a redistributed network costs, as ratios to its original, in words."""
    costs = {"params": redistribution.params, "MACs": redistribution.macs}
    bare, shape = redistribution.bare(model), redistribution.image_shape
    with contextlib.suppress(ValueError):  # selects by values, which has no size beforehand
        costs["memory"] = [memory_of(one, shape) for one in (bare, redistribution.build(bare))]
    said = (f"{what} {after / before:.2f}x" for what, (before, after) in costs.items())
    return f"{', '.join(said)} of the original's"


def memory_of(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the peak bytes of all tensors in inference of 64 images, as Table 3's are computed."""
    model = sources.on_meta(model)
    try:
        return tensor_peak(model, sources.images(model, image_shape, MEMORY_BATCH), "inference")
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            "expected a network whose memory follows from sizes, got one that reads "
            f"tensors' values, such as a mask: take a budget of params or macs ({str(error)[:150]})"
        ) from error


def time_of(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[float, float]:
    """Return the median of a pass over one image, in ms, and its upper 95% confidence bound."""
    image = sources.images(model, image_shape)
    work = torch.inference_mode()(partial(model.eval(), image))
    times = sorted(passes_ms(work, image.device, seconds=0.3))
    n = len(times)
    # The median's bound is an order statistic: so many passes lie below it by a coin's toss.
    upper = min(n - 1, ceil(n / 2 + 0.98 * sqrt(n)))
    return times[n // 2], times[upper]


def original_cost(
    plan: Callable[[float], Redistribution], what: str, own: nn.Module | None = None
) -> float:
    """Return what the original costs: a number for `fitting`."""
    found = plan(1.0)
    if what in ("params", "macs"):
        return getattr(found, what)[0]
    if what == "memory":
        return memory_of(found.bare(own), found.image_shape)
    return time_of(found.build(own, original=True), found.image_shape)[0]


def fitting(
    plan: Callable[[float], Redistribution], what: str, most: float, own: nn.Module | None = None
) -> float:
    """Return the largest width whose plan costs at most that."""
    if what == "latency":
        return _fitting_latency(plan, most, own)
    bare = plan(1.0).bare(own) if what == "memory" else None

    def cost(width: float) -> int:
        found = plan(width)
        if bare is None:
            return getattr(found, what)[1]
        return memory_of(found.build(bare), found.image_shape)

    width = largest(cost, most)
    if width is None:
        raise ValueError(f"expected at least {smallest(cost):,} as {what}, got {most:,.0f}")
    return width


def _fitting_latency(plan: Callable[[float], Redistribution], most, own) -> float:
    """Walk down a grid of widths: a wider network is not always a slower one."""
    found = plan(1.0)
    # From where the work is four times the original's: whatever fits has less.
    top = largest(lambda width: plan(width).macs[1], 4 * found.macs[0])
    for step in range(floor(top * _LATENCY_GRID), 0, -1):
        width = step / _LATENCY_GRID
        with contextlib.suppress(TooLarge):
            if time_of(plan(width).build(own), found.image_shape)[1] <= most:
                return width
    raise ValueError(f"expected a latency that one of the widths reaches, got {most:g} ms")
