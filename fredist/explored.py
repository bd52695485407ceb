"""What the explorer shows of a network: from a choice to its numbers, figure and Python, at once.

The slow part (tracing, measuring, training) is work for a process of its own: `workers.Worker`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import floor

import pandas as pd

from .checks import check_choice, check_integer, check_number
from .coupled import Redistribution, study
from .coupled.plan import Papers, Traced
from .coupled.redistribute import COSTS, fitting, original_cost
from .networks import FAMILIES
from .style import TEMPLATE_LOOKS, Picture, applied
from .tables import TEMPLATE_LABELS

PAGE_WIDTH = 5.6  # inches of a figure
BY = ("width", *COSTS)
SLOW = ("memory", "latency")  # budgets whose width takes seconds to find
OPEN = "…"
MOST = 100.0  # of widths and of budgets: beyond, networks are only large
# What is measured later: its row, and what it is divided by.
MEASURED = {"memory": ("Memory, 64 images (MB)", 1e6), "time": ("Time, one image (ms)", 1)}


@dataclass(frozen=True)
class State:
    """What is chosen: a network, and its width, or a budget as a multiple of the original's."""

    model: str = "vgg19"
    template: str = "uniform"
    by: str = "macs"
    amount: float = 1.0
    num_classes: int = 10
    image_size: int = 32

    def __post_init__(self):
        check_choice("by", self.by, BY)
        what = "width" if self.by == "width" else "budget"
        if check_number(what, self.amount, above=True) > MOST:
            raise ValueError(f"expected at most {MOST:g} as {what}, got {self.amount}")
        check_integer("num_classes", self.num_classes)
        check_integer("image_size", self.image_size)

    @property
    def key(self) -> tuple:
        """What a study is of."""
        return self.model, self.num_classes, self.image_size

    def known(self) -> Papers | None:
        """Return what redistributions start from, if nothing has to be traced for it."""
        return self.study() if self.model in FAMILIES else None

    def study(self) -> Papers | Traced:
        """Return what redistributions start from; seconds where a network is traced."""
        return study(self.model, self.image_size, num_classes=self.num_classes)


@dataclass(frozen=True)
class Answer:
    """One network beside its original; `measured` are both one's memory in bytes and time in ms."""

    state: State
    found: Redistribution
    budget: float | None = None  # parameters, MACs, bytes or ms
    measured: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Which network it is, for titles."""
        name, width = self.state.model, self.found.width
        name = FAMILIES[name].label if name in FAMILIES else name
        return f"{name}, {TEMPLATE_LABELS[self.state.template]}" + f" × {width:g}" * (width != 1)

    @property
    def filters(self) -> pd.DataFrame:
        """The filters of every layer, before and after; of an Inception module the mean of six."""
        table = self.found.table[["layer", "before", "after"]].set_index("layer")
        return table.map(lambda size: sum(size) / len(size) if isinstance(size, tuple) else size)

    @property
    def layers(self) -> pd.DataFrame:
        """The redistribution's table, with the paper's numbers of layers in front."""
        names = {"before": "Original", "after": "Redistributed"}
        table = self.found.table.rename(columns=names).rename(columns=str.capitalize)
        return table.set_index(pd.RangeIndex(1, len(table) + 1))

    @property
    def numbers(self) -> pd.DataFrame:
        """What both networks have and cost, as text; what is not measured yet is left open.

        Examples
        --------
        >>> answer(State("mobilenet", "uniform")).numbers.loc["Parameters"].tolist()
        ['3,217,226', '360,187', '0.11']
        """
        pairs = {"Filters, all layers": tuple(self.filters.sum())}
        pairs |= {"Parameters": self.found.params, "MACs, one image": self.found.macs}
        rows = {what: (f"{a:,.0f}", f"{b:,.0f}", f"{b / a:.2f}") for what, (a, b) in pairs.items()}
        for quantity, (what, unit) in MEASURED.items():
            rows[what] = (OPEN,) * 3
            if quantity in self.measured:
                a, b = (one / unit for one in self.measured[quantity])
                rows[what] = (f"{a:,.1f}", f"{b:,.1f}", f"{b / a:.2f}")
        columns = ["Original", "Redistributed", "Ratio"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    @property
    def figure(self) -> Picture:
        """The filters of every layer against the original's."""
        frame, color = self.filters, TEMPLATE_LOOKS[self.state.template]["color"]
        edges = [i + 0.5 for i in range(len(frame) + 1)]
        with applied():
            # Without constrained layout, which takes as long again: a page waits for this.
            figure = Picture((PAGE_WIDTH, 2.3), layout="none")
            axis = figure.subplots(
                gridspec_kw={"left": 0.09, "right": 0.995, "bottom": 0.17, "top": 0.86}
            )
            axis.stairs(frame["before"], edges, fill=True, color="0.87", label="Original")
            look = {"color": color, "linewidth": 1.5, "label": "Redistributed"}
            axis.stairs(frame["after"], edges, baseline=None, **look)
            axis.set_title(self.label, loc="left")
            axis.set(ylabel="Filters", xlim=(edges[0], edges[-1]), ylim=(0, None))
            family = FAMILIES.get(self.state.model)
            axis.set_xlabel(family.layer if family else "Layer, in the order in which they run")
            axis.set_xticks(range(1, len(frame) + 1, -(-len(frame) // 20)))
            axis.grid(visible=False, axis="x")
            axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
        return figure

    @property
    def python(self) -> str:
        """Three lines that give the same network.

        Examples
        --------
        >>> print(answer(State("resnet50", "quadratic", "width", 0.5)).python)
        import fredist
        model = fredist.redistribute("resnet50", "quadratic", 0.5, num_classes=10, image_size=32)
        print(model.redistribution.table)
        """
        state, given = self.state, ""
        if state.by in ("width", "latency"):  # a budget of time is of this machine, and of now
            given = f"{self.found.width:.15g}"
        elif state.amount == 1:
            given = f'like="{state.by}"'
        else:
            given = f"{state.by}={self.budget}"
        given += f", num_classes={state.num_classes}, image_size={state.image_size}"
        call = f'fredist.redistribute("{state.model}", "{state.template}", {given})'
        return f"import fredist\nmodel = {call}\nprint(model.redistribution.table)"

    @property
    def json(self) -> str:
        """What `fredist.rebuild` makes the network from."""
        return self.found.to_json()


def fit(state: State, known: Papers | Traced) -> tuple[float, float | None]:
    """Return a choice's width and its budget; a `ValueError` says that there is none.

    Examples
    --------
    >>> fit(state := State("vgg19", "uniform", "macs", 1.0), state.study())
    (0.4433, 398136320)
    """
    if state.by == "width":
        return state.amount, None
    plan = partial(known.plan, state.template)
    budget = state.amount * original_cost(plan, state.by)
    budget = budget if state.by == "latency" else floor(budget)
    return fitting(plan, state.by, budget), budget


def answer(
    state: State, known: Papers | Traced | None = None, fitted: tuple | None = None
) -> Answer:
    """Return the `Answer` to a choice.

    `known` is `state.study()` and `fitted` what `fit` returned, if that was done before. A
    `ValueError` says in a sentence why there is no such network.

    Examples
    --------
    >>> answer(State("vgg19", "uniform", "macs", 1.0)).found.width
    0.4433
    """
    known = known or state.study()
    width, budget = fitted or fit(state, known)
    return Answer(state, known.plan(state.template, width), budget)


def curve(label: str, losses: list[tuple], top1s: list[tuple]) -> Picture:
    """Return a training so far: (epochs, loss) and (epochs, accuracy on the test images)."""
    with applied():
        figure = Picture((PAGE_WIDTH, 2), layout="none")
        place = {"left": 0.09, "right": 0.92, "bottom": 0.2, "top": 0.86}
        axis = figure.subplots(gridspec_kw=place)
        right = axis.twinx()
        axis.plot(*zip(*losses, strict=True), color="0.55", label="Loss (left)")
        if top1s:
            look = {"color": TEMPLATE_LOOKS["reverse"]["color"], "marker": "o"}
            right.plot(*zip(*top1s, strict=True), **look, label="Accuracy (right)")
        axis.set(xlabel="Epochs", ylabel="Training loss", xlim=(0, None), ylim=(0, None))
        right.set(ylabel="Test accuracy (%)", ylim=(0, 100))
        right.grid(visible=False)
        axis.set_title(label, loc="left")
        figure.legend(loc="lower right", ncols=2, borderaxespad=0.2)  # clear of a long title
    return figure
