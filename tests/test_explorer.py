"""The explorer: what it answers, its slow work, and its widgets, without a browser."""

import asyncio
import contextlib
import io
import json
from dataclasses import replace
from statistics import mean

import pytest
import torch
import torchvision
from torch.nn.modules.module import register_module_forward_hook

import fredist
from fredist import explorer, live
from fredist.coupled.redistribute import memory_of
from fredist.coupled.redistribution import Redistribution
from fredist.explored import State, answer, curve
from fredist.explorer import Explorer
from fredist.networks import FAMILIES
from fredist.networks.families import six_sizes
from fredist.workers import Failure

NARROW = answer(State("vgg19", "uniform", "width", 0.05)).found
# As any traced network, built with the original's filters before it is made smaller.
TRACED = replace(NARROW, source="timm/vgg19", params=(600_000_000, 1_000))


@pytest.mark.parametrize(
    ("model", "by", "amount", "fitted"),
    [
        ("vgg19", "width", 0.3, None),
        ("vgg19", "macs", 1.0, None),
        ("resnet50", "macs", 0.123, None),
        ("inception", "params", 1.0, None),
        ("mobilenet", "params", 0.25, None),
        ("mobilenet", "latency", 1.0, (0.35, 7.123)),  # as it was found, some time ago
    ],
)
def test_the_three_lines_and_the_json_give_the_network_that_is_shown(model, by, amount, fitted):
    state = State(model, "quadratic", by, amount, num_classes=7, image_size=24)
    shown = answer(state, fitted=fitted)
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(shown.python, names)
    built = names["model"]
    assert len(shown.python.splitlines()) == 3
    assert built.redistribution.filters == shown.found.filters
    assert built.redistribution.params == shown.found.params
    assert sum(p.numel() for p in built.parameters()) == shown.found.params[1]
    again = fredist.rebuild(shown.json)
    assert {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in built.named_parameters()
    }
    if by in ("macs", "params"):
        before, after = getattr(shown.found, by)
        assert amount * before * 0.9 < after <= amount * before
        wider = answer(replace(shown.state, by="width", amount=shown.found.width + 0.0001))
        assert getattr(wider.found, by)[1] > amount * before


def test_the_three_lines_have_every_digit_of_a_budget():
    shown = answer(State("vgg19", "uniform", "macs", 0.123, image_size=224))
    assert shown.budget > 1e9
    assert f"macs={shown.budget}, " in shown.python


def test_numbers_are_the_originals_and_the_networks_and_open_until_measured():
    shown = answer(State("mobilenet", "reverse", "width", 0.5))
    networks = fredist.make_network("mobilenet"), fredist.make_network("mobilenet", "reverse", 0.5)
    rows = {
        "Filters, all layers": [sum(network.filters) for network in networks],
        "Parameters": [network.params for network in networks],
        "MACs, one image": [network.macs() for network in networks],
    }
    for row, (a, b) in rows.items():
        assert shown.numbers.loc[row].tolist() == [f"{a:,}", f"{b:,}", f"{b / a:.2f}"]
    assert set(shown.numbers.loc["Memory, 64 images (MB)"]) == {"…"}
    measured = replace(shown, measured={"memory": (2_000_000, 1_000_000)}).numbers
    assert measured.loc["Memory, 64 images (MB)"].tolist() == ["2.0", "1.0", "0.50"]
    assert set(measured.loc["Time, one image (ms)"]) == {"…"}


@pytest.mark.parametrize("model", FAMILIES)
def test_the_figure_shows_every_layer_before_and_after(model):
    shown = answer(State(model, "negative_quadratic", "width", 0.7))
    before, after = (patch.get_data().values for patch in shown.figure.axes[0].patches)
    network = fredist.make_network(model, "negative_quadratic", 0.7)
    assert after.tolist() == [mean(six_sizes(size)) for size in network.filters]
    original = fredist.make_network(model)
    assert before.tolist() == [mean(six_sizes(size)) for size in original.filters]
    assert FAMILIES[model].label in shown.figure.axes[0].get_title(loc="left")
    png = shown.figure._repr_png_()
    assert png == answer(shown.state).figure._repr_png_()
    assert png != answer(replace(shown.state, amount=0.5)).figure._repr_png_()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "vgg-19"}, "did you mean 'vgg19'"),
        ({"model": ""}, "expected one of the paper's networks, timm's or torchvision's"),
        ({"template": "qudratic"}, "did you mean 'quadratic'"),
        ({"by": "time"}, "choose from width, params, macs"),
        ({"amount": 0.0}, "finite number above 0 as budget, got 0.0"),
        ({"amount": float("nan"), "by": "width"}, "finite number above 0 as width, got nan"),
        ({"amount": 1e-9}, "expected at least [0-9,]+ as macs, got 0"),
        ({"amount": 100.0001}, "at most 100 as budget, got 100.0001"),
        ({"num_classes": 0}, "at least 1 as num_classes"),
        ({"image_size": 8}, "at least 16x16 for VGG-19"),
        ({"image_size": -1}, "at least 1 as image_size"),
    ],
)
def test_what_cannot_be_is_said(given, words):
    with pytest.raises(ValueError, match=words):
        answer(State(**given))


# The slow work.


def test_memory_and_time_are_both_networks_and_the_originals_are_taken_once():
    from fredist.measure import measure, wanted

    live._originals.clear()
    told = []
    live.measure(NARROW, lambda *news: told.extend(news))
    assert [quantity for quantity, _ in told] == ["memory", "time"]
    networks = fredist.make_network("vgg19"), fredist.make_network("vgg19", "uniform", 0.05)
    for network, found in zip(networks, told[0][1], strict=True):
        table3, _ = wanted(network, device="cpu", quantities=["memory"])
        assert measure(table3, "cpu")["tensor_peak_bytes"] == found
    assert told[1][1][0] > told[1][1][1] > 0
    again = []
    live.measure(answer(State("vgg19", "reverse", "width", 0.05)).found, lambda *n: again.extend(n))
    assert [both[0] for _, both in again] == [both[0] for _, both in told]


def test_measuring_and_training_stop_where_they_are_told_to():
    class Enough(Exception):
        pass

    def stop_after(most):
        calls = []

        def report(news=None):
            calls.append(news)
            if len(calls) > most:
                raise Enough

        return report

    for most in (0, 4, 7):
        with pytest.raises(Enough):
            live.measure(NARROW, stop_after(most))
        with pytest.raises(Enough):
            live.train((NARROW, "digits", 1), stop_after(most))


def test_a_training_reports_losses_as_it_goes_and_accuracy_after_every_epoch(monkeypatch):
    monkeypatch.setattr(live, "IMAGES", (64, 40))
    monkeypatch.setattr(live, "_NEWS", 0.0)
    told = []
    live.train((NARROW, "digits", 2), lambda *news: told.extend(news))
    assert [what for what, *_ in told] == (["loss"] * 4 + ["top1"]) * 2
    epochs = [epochs for what, epochs, _ in told if what == "loss"]
    assert epochs == [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    losses, top1s = ([point for what, *point in told if what == one] for one in ("loss", "top1"))
    left, right = curve("A title", losses, top1s).axes
    assert left.lines[0].get_xydata().tolist() == losses
    assert right.lines[0].get_xydata().tolist() == top1s


def test_a_network_is_trained_whatever_the_size_of_its_original(monkeypatch):
    monkeypatch.setattr(live, "IMAGES", (16, 8))
    monkeypatch.setattr(live, "TOO_LARGE", {"params": 10_000_000, "macs": 100_000_000})
    told = []
    live.train((NARROW, "digits", 1), lambda *news: told.extend(news))  # of 20 million
    assert [what for what, *_ in told] == ["loss", "top1"]


def test_scores_are_taken_from_what_a_network_returns_beside_them_or_it_is_refused(monkeypatch):
    monkeypatch.setattr(live, "IMAGES", (16, 8))

    def untouched(name, **options):  # as a value, without the minute that its trace takes
        size = sum(p.numel() for p in torchvision.models.get_model(name, **options).parameters())
        how = ("base", 1.0, (), {}, (), (size, size), (0, 0))
        return Redistribution(f"torchvision/{name}", options, (3, 64, 64), *how)

    told, how = [], {"num_classes": 10, "init_weights": False}
    live.train((untouched("googlenet", **how), "digits", 1), lambda *news: told.extend(news))
    assert [what for what, *_ in told] == ["loss", "top1"]
    maps = untouched("lraspp_mobilenet_v3_large", num_classes=10, weights_backbone=None)
    with pytest.raises(ValueError, match="one score per class, got OrderedDict"):
        live.train((maps, "digits", 1), lambda *news: None)


def test_a_search_by_time_runs_as_times_are_measured_and_builds_nothing_too_large(monkeypatch):
    """Widths that are too large are left out, though the time would allow them."""
    monkeypatch.setattr(live, "TOO_LARGE", {"params": 4_000_000, "macs": 50_000_000_000})
    state, threads = State("mobilenet", "base", "latency", 50.0), set()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = register_module_forward_hook(lambda *_: threads.add(torch.get_num_threads()))
    try:
        width, _ = live.search((state, state.known()), lambda *news: None)
        monkeypatch.setitem(live.TOO_LARGE, "params", 3_000_000)
        with pytest.raises(ValueError, match="at most 3,000,000 params to be timed here, got 3,2"):
            live.search((state, state.known()), lambda *news: None)
    finally:
        seen.remove()
        torch.set_num_threads(before)
    largest, next_one = (state.study().plan("base", w).params[1] for w in (width, width + 0.05))
    assert largest <= 4_000_000 < next_one
    assert threads == ({1} if live.choose_device().type == "cpu" else {2})


@pytest.mark.parametrize(
    ("work", "task", "words"),
    [
        (live.train, (answer(State(num_classes=5)).found, "digits", 1), "10 classes or more for"),
        (live.measure, answer(State(by="width", amount=9.0)).found, "500,000,000 params to be mea"),
        (live.train, (TRACED, "digits", 1), "500,000,000 params to be trained here, got 600,000"),
        (live.trace, State("resnet5000"), "got 'resnet5000'"),
    ],
)
def test_slow_work_that_cannot_be_done_says_so(work, task, words):
    with pytest.raises(ValueError, match=words):
        work(task, lambda *news: None)


# The widgets.


class Recorder:
    """A worker that does nothing, and keeps what it was asked."""

    def __init__(self):
        self.asked, self.stops = [], 0

    def start(self, work, task, tell, patient=False):
        self.asked.append((work, task, tell))

    def stop(self):
        self.stops += 1


@pytest.fixture
def opened(monkeypatch):
    """Return a function that runs a coroutine function with an explorer and its two recorders."""
    monkeypatch.delenv("FREDIST_PLAIN")
    monkeypatch.setattr(explorer, "is_plain", lambda: False)
    monkeypatch.setattr(explorer, "_REST", 0.0)
    workers = Recorder(), Recorder()
    monkeypatch.setattr(explorer, "_MEASURING", workers[0])
    monkeypatch.setattr(explorer, "_TRAINING", workers[1])

    async def start(work):
        await work(Explorer(), *workers)

    return lambda work: asyncio.run(start(work))


async def rest(page):
    """Wait until all that was posted is done, and what follows from it."""
    for _ in range(3):
        await asyncio.sleep(0.01)
        while page._due is not None:
            await asyncio.sleep(0.01)


def test_changes_that_come_together_are_answered_once(opened, monkeypatch):
    answered = []
    monkeypatch.setattr(explorer, "answer", lambda s, *k: answered.append(s) or answer(s, *k))

    async def work(page, measuring, training):
        await rest(page)
        answered.clear()
        for step in range(50):
            page.slider.value = page.amount.value = 1 - step / 100
        await rest(page)
        assert [state.amount for state in answered] == [0.51]
        assert "macs=203049523" in page.python.value
        page.amount.value = 0.4433  # finer than the slider's steps, and stays
        await rest(page)
        assert (page.amount.value, page.slider.value) == (0.4433, 0.44)

    opened(work)


def test_what_an_earlier_choice_has_measured_is_dropped(opened):
    async def work(page, measuring, training):
        await rest(page)
        (_, _, named), (asked, found, tell) = measuring.asked
        assert (asked, found) == (live.measure, page._answer.found)
        named("result", ["vgg19", "resnet18"])
        tell("news", ("memory", (2e6, 1e6)))
        await rest(page)
        assert page.model.options == ("vgg19", "resnet18")
        assert "2.0" in page.numbers.value
        page.template.value = "quadratic"
        await rest(page)
        tell("news", ("memory", (2e6, 1e6)))
        tell("result", None)
        await rest(page)
        assert page.numbers.value.count("…") == 6
        assert page.again.description == "Stop"  # what is under way is the new one's
        measuring.asked[-1][2]("result", Failure("ValueError: expected <less>\nmore", ""))
        await rest(page)
        assert page.status.value == '<p class="wrong">Expected &lt;less&gt;.</p>'

    opened(work)


def test_a_choice_made_while_its_network_is_traced_leaves_the_trace(opened):
    async def work(page, measuring, training):
        await rest(page)
        page.model.value = "resnet18"
        await rest(page)
        asked, stops = len(measuring.asked), measuring.stops
        page.template.value, page.amount.value = "reverse", 0.5
        await rest(page)
        assert (len(measuring.asked), measuring.stops) == (asked, stops)
        measuring.asked[-1][2]("result", State().study())  # stands in for it
        await rest(page)
        assert (page._answer.state.template, page._answer.state.amount) == ("reverse", 0.5)
        # One that was stopped, by the button or by what is wrong, is begun again.
        page.model.value = "resnet34"
        await rest(page)
        page.again.click()
        page.template.value = "uniform"
        await rest(page)
        page.num_classes.value = 0
        await rest(page)
        page.num_classes.value = 10
        await rest(page)
        assert [work for work, *_ in measuring.asked[-3:]] == [live.trace] * 3
        assert "Tracing resnet34" in page.status.value

    opened(work)


def test_a_traced_network_is_shown_when_it_comes_and_kept(opened):
    async def work(page, measuring, training):
        await rest(page)
        vgg19 = State().study()
        page.model.value = "resnet18"
        await rest(page)
        traced, state, tell = measuring.asked[-1]
        assert (traced, state.model, page.numbers.value) == (live.trace, "resnet18", "")
        assert "Tracing resnet18" in page.status.value
        page.model.value = "resnet34"
        await rest(page)
        tell("result", vgg19)  # of the network before
        await rest(page)
        assert page.numbers.value == ""
        measuring.asked[-1][2]("result", vgg19)  # stands in for it
        await rest(page)
        assert "20,035,018" in page.numbers.value
        assert measuring.asked[-1][0] == live.measure
        page.model.value = "mobilenet"
        await rest(page)
        page.model.value = "resnet34"
        await rest(page)
        assert [task.model for work, task, _ in measuring.asked if work == live.trace] == [
            "resnet18",
            "resnet34",
        ]
        assert "20,035,018" in page.numbers.value

    opened(work)


@pytest.mark.slow
def test_a_budget_of_memory_is_searched_beside_the_page(opened):
    async def work(page, measuring, training):
        await rest(page)
        page.amount.value, page.by.value = 0.5, "memory"
        await rest(page)
        search, task, tell = measuring.asked[-1]
        assert (search, page.numbers.value) == (live.search, "")
        assert "Searching the largest width" in page.status.value
        width, budget = search(task, None)
        tell("result", (width, budget))
        await rest(page)
        assert f"memory={budget}, " in page.python.value
        assert f"× {width:g}" in page._answer.label
        assert measuring.asked[-1][0] == live.measure
        wider = replace(page._state, by="width", amount=width + 0.0001)
        costs = [memory_of(a.found.build(), (3, 32, 32)) for a in (page._answer, answer(wider))]
        assert costs[0] <= budget < costs[1]
        page.amount.value = 1e-5
        await rest(page)
        with pytest.raises(ValueError, match="as memory, got") as error:
            search(measuring.asked[-1][1], None)
        measuring.asked[-1][2]("result", Failure(f"ValueError: {error.value}", ""))
        await rest(page)
        assert "as memory, got" in page.status.value

    opened(work)


def test_what_is_wrong_shows_a_sentence_and_no_numbers(opened):
    async def work(page, measuring, training):
        await rest(page)
        page.amount.value = 0.0
        await rest(page)
        assert "above 0 as budget, got 0.0.</p>" in page.status.value
        assert page.numbers.value == page.python.value == page.json.value == ""
        assert page.plot.layout.visibility == "hidden"
        asked = len(measuring.asked)
        page.train.click()
        await rest(page)
        assert not training.asked
        assert "No network is shown" in page.trained.value
        assert len(measuring.asked) == asked
        page.amount.value = 1.0
        await rest(page)
        assert "20,035,018" in page.numbers.value
        assert page.plot.layout.visibility == "visible"
        measuring.asked[-1][2]("result", Failure("TooLarge: expected at most 5 params", ""))
        await rest(page)
        assert ">Expected at most 5 params.<" in page.status.value

    opened(work)


def test_a_training_is_drawn_beside_other_choices_and_stops(opened):
    async def work(page, measuring, training):
        await rest(page)
        page.train.click()
        await rest(page)
        ((asked, task, tell),) = training.asked
        assert (asked, task) == (live.train, (page._answer.found, "digits", 4))
        page.template.value = "reverse"
        tell("news", ("loss", 0.5, 2.0))
        await rest(page)
        assert bytes(page.curve.value).startswith(b"\x89PNG")
        assert "0.50 epochs" in page.trained.value
        assert "after the training" in page.status.value
        asked, stops = len(measuring.asked), training.stops
        page.train.click()
        await rest(page)
        assert (training.stops, page.train.description) == (stops + 1, "Train")
        assert len(measuring.asked) == asked + 1
        before = bytes(page.curve.value)
        tell("news", ("loss", 0.6, 1.0))
        await rest(page)
        assert bytes(page.curve.value) == before

    opened(work)


def test_what_is_chosen_in_a_training_is_traced_and_searched(opened, monkeypatch):
    monkeypatch.setattr(explorer, "_REST", 0.3)

    async def work(page, measuring, training):
        await rest(page)
        page.train.click()
        await rest(page)
        page.template.value = "reverse"
        await rest(page)  # shown, and not yet measured
        page.model.value = "resnet18"
        await rest(page)
        stops = measuring.stops
        await asyncio.sleep(0.4)
        assert measuring.stops == stops
        assert "Tracing resnet18" in page.status.value
        # But by time there is no search beside a training.
        page.model.value, page.by.value = "vgg19", "latency"
        await rest(page)
        assert "searched after the training" in page.status.value
        assert live.search not in [work for work, *_ in measuring.asked]
        training.asked[-1][2]("result", None)
        await rest(page)
        assert measuring.asked[-1][0] == live.search

    opened(work)


def test_a_trainings_picture_says_what_was_trained_on_and_goes_with_the_next(opened, monkeypatch):
    titles = []
    monkeypatch.setattr(explorer, "curve", lambda *given: titles.append(given[0]) or curve(*given))

    async def work(page, measuring, training):
        await rest(page)
        page.image_size.value = 48
        page.train.click()
        await rest(page)
        page.image_size.value = 64  # what is chosen next
        await rest(page)
        training.asked[-1][2]("news", ("loss", 0.5, 2.0))
        training.asked[-1][2]("result", None)
        await rest(page)
        assert titles == ["VGG-19, Uniform × 0.4433; Digits, 48x48"]
        assert page.curve.layout.display == ""
        page.train.click()
        await rest(page)
        training.asked[-1][2]("result", Failure("ValueError: expected", ""))
        await rest(page)
        assert page.curve.layout.display == "none"

    opened(work)


def test_an_explorer_made_again_ends_the_training_of_the_one_before(opened):
    async def work(page, measuring, training):
        await rest(page)
        page.train.click()
        await rest(page)
        stops, told = training.stops, training.asked[-1][2]
        newer = Explorer()
        assert training.stops == stops + 1
        assert "A newer explorer is open: run this cell again" in page.status.value
        assert page.model.disabled
        assert page.train.disabled
        told("news", ("loss", 0.5, 1.0))  # of the older page's training, which ends only now
        measuring.asked.clear()
        newer.template.value = "reverse"
        await rest(newer)
        assert page.curve.layout.display == "none"
        assert newer.numbers.value
        assert not newer.model.disabled
        assert measuring.asked[-1][1].template == "reverse"

    opened(work)


def test_what_is_trained_is_what_was_typed_just_before(opened):
    async def work(page, measuring, training):
        await rest(page)
        page.by.value, page.amount.value = "width", 0.05
        page.train.click()
        await rest(page)
        ((_, (found, *_), _),) = training.asked
        assert found == NARROW

    opened(work)


@pytest.mark.parametrize("plain", [True, False])  # False in a terminal, which has no loop
def test_without_a_kernel_a_sentence_says_how_to_get_one(plain, monkeypatch):
    monkeypatch.setattr(explorer, "is_plain", lambda: plain)
    shown = Explorer()._repr_mimebundle_()
    assert list(shown) == ["text/plain"]
    assert "make lab" in shown["text/plain"] == repr(Explorer())


def test_the_committed_notebook_shows_an_example_without_a_kernel():
    from fredist.paths import NOTEBOOKS

    cells = json.loads((NOTEBOOKS / "explore.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds
    assert not [kind for kind in kinds if "widget" in kind]
    assert "20,035,018" in json.dumps(outputs)
