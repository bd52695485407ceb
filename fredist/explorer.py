"""The explorer in JupyterLab: widgets around `explored`, with slow work in processes beside.

All of it happens in the kernel's main loop, one thing after another: what comes in other threads is
posted there, and what belongs to an earlier choice is dropped.
"""

import asyncio
import html
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import ipywidgets as widgets

from . import live
from .data import DATASETS, at_hand
from .explored import SLOW, State, answer, curve
from .networks import FAMILIES
from .progress import is_plain
from .tables import TEMPLATE_LABELS
from .workers import Failure, Worker

_MEASURING, _TRAINING = Worker(), Worker()  # two, however often a cell makes an explorer
_pages: list["Explorer"] = []  # the one that is answered
_GATHERING = 0.03  # seconds from a change to its answer, in which more may come
_REST = 0.4  # seconds without a change after which measuring starts
_BY = {"Width": "width", "MACs (original = 1)": "macs", "Parameters (original = 1)": "params"}
_BY |= {"Memory (original = 1)": "memory", "Time (original = 1)": "latency"}
_NAMES = "^(ValueError|TypeError|Diverged|TooLarge): "  # of errors that users are to read
_NO_KERNEL = "The explorer needs a kernel: `make lab` opens this notebook in JupyterLab."
_TRAINS = "At most {:,} images, {:,} to test on, batches of {}; one thread of a CPU, or a GPU."
_STYLE = """<style>
.fredist table {margin: 0; font-variant-numeric: tabular-nums} .fredist td {text-align: right}
.fredist pre {white-space: pre-wrap; overflow-wrap: anywhere; max-height: 16em; overflow: auto;
line-height: 1.5} .fredist .jp-RenderedHTMLCommon {max-height: 24em; overflow: auto}
.fredist .wrong {color: var(--jp-error-color1, #d32f2f)} .fredist p {line-height: 1.5; margin: 0}
</style>"""


class Explorer:
    """A page to choose a network, its template, and its width or budget on, shown by a notebook.

    Where a notebook is only executed, as for a web page, or in a terminal, it says how to open it
    instead.
    """

    def __init__(self):
        self._state = self._answer = self._training = self._due = self._resting = None
        self._tracing, self._waiting = None, False  # what is traced; a search for a training's end
        self._known = {}
        self._loop = _kernels_loop()
        if self._loop is not None:
            while _pages:  # an earlier one, whose work this one's would end
                _pages.pop()._retire()
            self._make(State())
            _pages.append(self)
            _MEASURING.start(live.names, None, self._later(self._named), patient=True)
            self._refresh()

    def __repr__(self) -> str:
        return _NO_KERNEL

    def _repr_mimebundle_(self, **_) -> dict:
        shown = {} if self._loop is None else self.page._repr_mimebundle_()
        return shown | {"text/plain": repr(self)}

    def _make(self, state: State) -> None:
        layout, told = widgets.Layout, self._told
        wide = {"style": {"description_width": "90px"}, "layout": layout(width="330px")}
        labels = zip(TEMPLATE_LABELS.values(), TEMPLATE_LABELS, strict=True)
        names = {"options": list(FAMILIES), "placeholder": "vgg19, or one of timm's"}
        names["continuous_update"] = False  # half a name is none
        self.model = widgets.Combobox(description="Network", **names, **wide)
        self.template = widgets.Dropdown(description="Template", options=list(labels), **wide)
        self.by = widgets.Dropdown(description="Set the", options=list(_BY.items()), **wide)
        self.amount = widgets.FloatText(description="to", step=0.01, **wide)
        self.num_classes = widgets.IntText(description="Classes", **wide)
        self.image_size = widgets.IntText(description="Image size", **wide)
        self._inputs = {name: getattr(self, name) for name in State.__dataclass_fields__}
        for name, widget in self._inputs.items():
            widget.value = getattr(state, name)
            widget.observe(told(self._soon), "value")
        bounds = {"min": 0.01, "max": 2, "step": 0.01, "readout": False}
        self.slider = widgets.FloatSlider(state.amount, description=" ", **bounds, **wide)
        self.slider.observe(told(self._slid), "value")
        self.amount.observe(told(self._typed), "value")
        self.again = widgets.Button(layout=layout(width="90px", flex="0 0 auto"))
        self.again.on_click(told(self._stop_or_again))
        sets = [(info.label, name) for name, info in DATASETS.items() if at_hand(name)]
        self.dataset = widgets.Dropdown(value="digits", options=sets, description="Images")
        self.epochs = widgets.BoundedIntText(4, min=1, max=100, description="Epochs")
        self.train = widgets.Button(description="Train", button_style="primary")
        self.train.on_click(told(self._train_or_stop))
        self.status, self.numbers, self.trained = (widgets.HTML() for _ in range(3))
        self.python, self.json, self.layers = (widgets.HTML() for _ in range(3))
        self.plot, self.curve = (widgets.Image(layout=layout(max_width="100%")) for _ in range(2))
        self.curve.layout.max_width, self.curve.layout.display = "640px", "none"  # till it is drawn
        self.numbers.layout.min_height = "190px"  # nothing below it jumps
        self.trained.value = _text(_TRAINS.format(*live.IMAGES, live.RECIPE.batch_size))

        column = [*self._inputs.values(), self.again, self.status]  # as one chooses
        column.insert(4, self.slider)
        chosen = widgets.VBox(column, layout=layout(flex="0 0 350px"))
        shown = widgets.VBox([self.plot, self.numbers], layout=layout(flex="1 1 500px"))
        training = widgets.HBox([self.dataset, self.epochs, self.train])
        tabs = [self.python, self.layers, self.json]
        tabs.append(widgets.VBox([training, self.trained, self.curve]))
        below = widgets.Tab(tabs, titles=["Python", "Layers", "JSON", "Training"])
        above = widgets.HBox([chosen, shown], layout=layout(flex_flow="row wrap"))
        style = widgets.HTML(_STYLE, layout=layout(display="none"))
        self.page = widgets.VBox([style, above, below]).add_class("fredist")

    def _told(self, do: Callable) -> Callable:
        """Return what a widget calls, in whatever thread."""
        return lambda *_: self._loop.call_soon_threadsafe(do)

    def _retire(self) -> None:
        """End all work and answer no more: the workers are a newer page's."""
        self._stop()
        _TRAINING.stop()
        for timer in (self._due, self._resting):
            if timer is not None:
                timer.cancel()
        self._state = self._training = None
        for widget in (*self._inputs.values(), self.slider, self.again, self.train):
            widget.disabled = True
        self._say("A newer explorer is open: run this cell again to use this one.")

    def _later(self, do: Callable, of: object = None) -> Callable:
        """Return what a worker tells: it calls `do` unless `of` was replaced meanwhile."""

        def heed(kind: str, content) -> None:
            if any(of is one for one in (None, self._state, self._training, self._tracing)):
                do(kind, content)

        return lambda *told: self._loop.call_soon_threadsafe(heed, *told)

    def _slid(self) -> None:
        if round(self.slider.value, 2) != round(self.amount.value, 2):  # else it was typed
            self.amount.value = round(self.slider.value, 2)

    def _typed(self) -> None:
        if self.slider.min <= self.amount.value <= self.slider.max:
            self.slider.value = round(self.amount.value, 2)

    def _soon(self) -> None:
        if self._due is None:  # else it is near: a slider that moves is answered as it moves
            self._due = self._loop.call_later(_GATHERING, self._refresh)

    def _named(self, kind: str, names) -> None:
        if not isinstance(names, Failure):
            self.model.options = names

    def _refresh(self) -> None:
        """Answer what is chosen now."""
        if self._due is not None:
            self._due.cancel()
        self._due = None
        try:
            self._state = State(**{name: widget.value for name, widget in self._inputs.items()})
        except (ValueError, TypeError) as error:
            return self._fail(error)
        if self._tracing == self._state.key:  # which a template or a width does not change
            return None
        self._stop()
        known = self._known.get(self._state.key) or self._state.known()
        if known is not None:
            return self._search(known)
        self._clear()
        self._say(f"Tracing {self._state.model}, which takes seconds.", busy=True)
        self._tracing = self._state.key
        return _MEASURING.start(live.trace, self._state, self._later(self._traced, self._tracing))

    def _stop(self) -> None:
        """End what is under way for the choice, and what waits."""
        _MEASURING.stop()
        self._tracing, self._waiting = None, False

    def _traced(self, kind: str, known) -> None:
        self._tracing = None
        if isinstance(known, Failure):
            return self._fail(known)
        self._known[self._state.key] = known
        return self._search(known)

    def _search(self, known) -> None:
        if self._state.by not in SLOW:
            return self._show(known)
        self._clear()
        if self._state.by == "latency" and self._training is not None:
            self._waiting = True
            return self._say("A width for a budget of time is searched after the training.")
        self._say("Searching the largest width, which takes seconds.", busy=True)
        tell = self._later(partial(self._searched, known), self._state)
        return _MEASURING.start(live.search, (self._state, known), tell)

    def _searched(self, known, kind: str, fitted) -> None:
        if isinstance(fitted, Failure):
            return self._fail(fitted)
        return self._show(known, fitted)

    def _show(self, known, fitted: tuple | None = None) -> None:
        try:
            self._answer = found = answer(self._state, known, fitted)
        except Exception as error:  # of whatever kind: what was shown before is another network
            return self._fail(error)
        self.plot.value, self.plot.layout.visibility = found.figure._repr_png_(), "visible"
        self.python.value, self.json.value = _text(found.python), _text(found.json)
        self.numbers.value, self.layers.value = map(_table, (found.numbers, found.layers))
        return self._measure_at_rest()

    def _measure_at_rest(self) -> None:
        self._say("")
        if self._resting is not None:
            self._resting.cancel()
        self._resting = self._loop.call_later(_REST, self._measure)

    def _measure(self) -> None:
        if self._answer is None:  # what is under way is to find it
            return
        if self._training is not None:
            _MEASURING.stop()
            self._say("Memory and time are measured after the training.")
        else:
            self._say("Measuring memory and time.", busy=True)
            tell = self._later(self._measured, self._state)
            _MEASURING.start(live.measure, self._answer.found, tell)

    def _measured(self, kind: str, content) -> None:
        if kind == "news":
            measured = self._answer.measured | dict([content])
            self._answer = replace(self._answer, measured=measured)
            self.numbers.value = _table(self._answer.numbers)
        else:
            self._say(_sentence(content or "memory and time are measured"), wrong=bool(content))

    def _stop_or_again(self) -> None:
        if self.again.description == "Again":
            self._refresh()
        else:
            self._stop()
            self._say("Stopped.")

    def _train_or_stop(self) -> None:
        if self._due is not None:  # what was typed just before, which this click has ended
            self._refresh()
        if self._training is not None:
            _TRAINING.stop()
            self._trained("result", "Stopped.")
        elif self._answer is not None:
            self._training, self._losses, self._top1s = self._answer, [], []
            images, size = DATASETS[self.dataset.value].label, self._answer.found.image_shape[-1]
            self._trained_on = f"{images}, {size}x{size}"  # by its end, others may be chosen
            self.curve.layout.display = "none"  # of the training before
            self._measure()  # which has to wait
            self.train.description, self.train.button_style = "Stop", "warning"
            self.trained.value = _text("Starting.")
            task = self._answer.found, self.dataset.value, self.epochs.value
            _TRAINING.start(live.train, task, self._later(self._trained, self._training))
        else:
            self.trained.value = _text("No network is shown that could be trained.", wrong=True)

    def _trained(self, kind: str, content) -> None:
        if kind == "news":
            what, *point = content
            (self._losses if what == "loss" else self._top1s).append(point)
            label = f"{self._training.label}; {self._trained_on}"
            drawn = curve(label, self._losses, self._top1s)
            self.curve.value, self.curve.layout.display = drawn._repr_png_(), ""
            self.trained.value = _text(f"{self._losses[-1][0]:.2f} epochs")
        else:
            wrong = isinstance(content, Failure)
            self.trained.value = _text(_sentence(content or "trained"), wrong=wrong)
            self.train.description, self.train.button_style = "Train", "primary"
            self._training = None
            if self._waiting:
                self._refresh()
            elif self._answer is not None and len(self._answer.measured) < 2:
                self._measure_at_rest()

    def _fail(self, error: Exception | Failure) -> None:
        """Say why there is no such network, and show none."""
        self._stop()
        self._state = None
        self._clear()
        self._say(_sentence(error), wrong=True)

    def _clear(self) -> None:
        self._answer, self.plot.layout.visibility = None, "hidden"  # which keeps its place
        for widget in (self.numbers, self.python, self.json, self.layers):
            widget.value = ""

    def _say(self, text: str, *, busy: bool = False, wrong: bool = False) -> None:
        self.status.value = _text(text, wrong=wrong, tag="p")
        self.again.description = "Stop" if busy else "Again"


def _kernels_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop of the kernel that shows pages, if there is one: a terminal has none."""
    try:
        return None if is_plain() else asyncio.get_running_loop()
    except RuntimeError:
        return None


def _sentence(error: Exception | Failure | str) -> str:
    """Return what a user is told: the first line, without what Python calls the error."""
    said = error.error if isinstance(error, Failure) else str(error)
    first = re.sub(_NAMES, "", [*said.splitlines(), "no reason"][0])
    return first[:1].upper() + first[1:] + "." * (not first.endswith("."))


def _text(text: str, *, wrong: bool = False, tag: str = "pre") -> str:
    return f'<{tag} class="{"wrong" if wrong else ""}">{html.escape(text)}</{tag}>'


def _table(frame) -> str:
    return f'<div class="jp-RenderedHTMLCommon">{frame.to_html(border=0)}</div>'
