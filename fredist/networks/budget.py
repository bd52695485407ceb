"""Equal budgets: the largest width multiplier whose network costs no more than a number."""

from collections.abc import Callable
from contextlib import suppress
from itertools import count

from ..checks import check_number
from ..templates import TooNarrow
from .network import Network, check_options, make_network

GRID = 10_000  # width multipliers to four digits
_MOST = 2**14  # of them: wider networks have more filters than there may be
# Of `make_network`, whatever the width is.
OPTIONS = ("num_classes", "in_chans", "head", "convention", "keep_total", "round_to", "vertex")


def largest(cost: Callable[[float], int], most: float) -> float | None:
    """Return the largest width, to four digits, whose cost is at most that, or None.

    `cost` must never fall as the width grows. Parameters and MACs do so only with `keep_total`:
    there the result fits and the next width does not, but a wider one may. Widths at which `cost`
    raises `TooNarrow` are passed over.

    Examples
    --------
    >>> largest(lambda width: int(100 * width), 33)
    0.3399
    """

    def fits(step: int) -> bool | None:
        try:
            return cost(step / GRID) <= most
        except TooNarrow:  # a wider one may fit
            return None

    low, high = 0, GRID
    while fits(high) is not False:
        if high > GRID * _MOST:
            raise ValueError(
                f"expected a budget that a width of {_MOST:,} exceeds, got {most:,.0f}"
            )
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) is False else (middle, high)
    return low / GRID if low and fits(low) else None


def smallest(cost: Callable[[float], int]) -> int:
    """Return the cost at the smallest width that can be built."""
    for step in count(1):
        with suppress(TooNarrow):
            return cost(step / GRID)


def network_cost(network: Network, name: str, image_size: int) -> int:
    """Return a network's "macs" of one image, or its "params"."""
    return network.macs(image_size) if name == "macs" else network.params


def cost_of(model: str, template: str, name: str, image_size: int, **options) -> Callable:
    """Return how a network's "macs" of one image, or its "params", depend on the width."""
    return lambda width: network_cost(
        make_network(model, template, width, **options), name, image_size
    )


def largest_width(
    model: str,
    template: str = "base",
    *,
    params: float | None = None,
    macs: float | None = None,
    image_size: int = 32,
    **options,
) -> float:
    """Return the largest width multiplier whose network stays within parameters or MACs.

    Exact, by the closed forms of `Network`: nothing is built. The paper's "reduced to fit to the
    original amount of resources" (abstract); `options` are `num_classes`, `in_chans`, `head`,
    `convention`, `keep_total`, `round_to` and `vertex`, as in `create_model`. Only with
    `keep_total`, where one layer can lose a filter as another gains two, is it not the largest of
    all: the next width exceeds the budget, but one a little further on may fit again.

    Raises
    ------
    ValueError
        Unless one of both budgets is given, and where the smallest network exceeds it.

    Examples
    --------
    >>> original = make_network("vgg19")
    >>> largest_width("vgg19", "uniform", macs=original.macs())
    0.4433
    """
    if (params is None) == (macs is None):
        raise ValueError(f"expected params or macs as the budget, got {params=} and {macs=}")
    check_options("largest_width", options, OPTIONS)
    name = "params" if macs is None else "macs"
    most = check_number(name, params if macs is None else macs)
    cost = cost_of(model, template, name, image_size, **options)
    width = largest(cost, most)
    if width is None:
        raise ValueError(
            f"expected at least {smallest(cost):,} as {name} for {model} {template}, the smallest "
            f"that these options allow, got {most:,.0f}"
        )
    return width
