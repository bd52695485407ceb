"""Memory and time: against hand counts, real steps and a clock that the test turns."""

import time
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.functional import cross_entropy

from fredist import measure as module
from fredist.measure import measure, wanted
from fredist.networks import Network, make_network
from fredist.runs import COMPUTED

CPU = torch.device("cpu")
IMAGE = 3 * 32 * 32 * 4  # bytes
MAP = 8 * 32 * 32 * 4
WEIGHTS = (8 * 27 + 8) * 4


def conv():
    return nn.Conv2d(3, 8, 3, padding=1)


def peak(model, batch, method="inference"):
    images = torch.rand(batch, 3, 32, 32, device="meta")
    return module.tensor_peak(model.to("meta"), images, method)


def computed(model="vgg19", method="inference", **changed):
    found = wanted(make_network(model, width=0.1), device="cpu", quantities=["memory"])
    return replace(next(one for one in found if one.method == method), **changed)


def timed(model="vgg19", template="base", width=0.1, **changed):
    network = make_network(model, template, width, convention="published")
    [found] = wanted(network, device="cpu", quantities="time")
    return replace(found, **changed)


def passes(monkeypatch, *ms):
    """Return a function whose calls take known times, by a clock that they turn themselves."""
    now, coming = [0.0], iter(ms)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work():
        now[0] += next(coming, ms[-1]) / 1000

    return work


def test_inference_keeps_what_the_next_layer_reads():
    deep = nn.Sequential(conv(), nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid())
    assert peak(conv(), 4) == WEIGHTS + 4 * (IMAGE + MAP)
    assert peak(deep, 4) == WEIGHTS + 4 * (IMAGE + 2 * MAP)


def test_training_keeps_what_backward_reads_and_the_optimizers_tensors():
    model = nn.Sequential(conv(), nn.Sigmoid(), nn.AvgPool2d(32), nn.Flatten())
    # The peak is in the sigmoid's backward: weights and momentum; the images, which the conv will
    # read; the sigmoid's output, the gradients after and before it; 8-byte labels. The last step's
    # gradients are gone, this one's are still to come. 64 bytes are room for the loss.
    least = 2 * WEIGHTS + 4 * (IMAGE + 3 * MAP + 8)
    assert least < peak(model, 4, "training") <= least + 64
    # Of a layer of many weights it is in the optimiser's step: weights, momentum, gradients, and
    # those with weight decay; a fifth copy would be Nesterov's.
    wide = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 100, bias=False))
    least = 4 * 3 * 32 * 32 * 100 * 4 + IMAGE + 8
    assert least <= peak(wide, 1, "training") <= least + 600


def test_computed_memory_is_that_of_a_real_step():
    asked = computed("mobilenet", "training", batch=4)
    network, images = asked.network.build(), torch.rand(4, 3, 32, 32)
    labels, tracker = torch.zeros(4, dtype=torch.long), MemTracker()
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def step():
        sgd.zero_grad()
        cross_entropy(network(images), labels).backward()
        sgd.step()

    step()
    tracker.track_external(network, sgd, images, labels)
    with tracker:
        step()
    real = tracker.get_tracker_snapshot("peak")[CPU]["Total"]
    assert measure(asked, "cpu") == {"tensor_peak_bytes": pytest.approx(real, rel=0.002)}


def test_wanted_on_a_cpu_is_computed_memory_and_the_time_of_16_images():
    network = make_network("vgg19", "reverse", 0.1)
    found = wanted(network, device="cpu", template="reverse", width=0.1, convention="equations")
    shown = [(m.quantity, m.method, m.batch, m.device == COMPUTED, m.threads) for m in found]
    assert shown == [
        ("memory", "inference", 64, True, None),
        ("memory", "training", 64, True, None),
        ("time", "synchronised", 16, False, 1),
    ]
    assert {(m.template, m.width, m.convention) for m in found} == {("reverse", 0.1, "equations")}
    assert [m.id for m in found] == [m.id for m in wanted(network, device="cpu")]  # only labels
    with pytest.raises(ValueError, match="unknown quantity 'speed'; choose from memory, time"):
        wanted(network, device="cpu", quantities=["speed"])


@pytest.mark.parametrize(
    "wrong",
    [
        timed(device="another"),
        timed(threads=99),
        timed(device=COMPUTED),
        timed(quantity="memory", method="training"),  # a CPU's is computed
        computed(torch="2.0"),
        computed(threads=1),
    ],
    ids=str,
)
def test_what_does_not_belong_here_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected a measurement with .*, got .*wanted\(\.\.\.\)"):
        measure(wrong, "cpu")


@pytest.mark.parametrize(("ms", "repeats"), [(1, 1000), (200, 5), (2000, 3)])
def test_times_are_of_warm_passes_during_a_second_and_at_least_three(monkeypatch, ms, repeats):
    work = passes(monkeypatch, 900, 200, 50, ms)  # the first passes are slow
    times = module.passes_ms(work, CPU)
    assert times == pytest.approx([ms] * len(times))
    assert len(times) in (repeats, repeats + 1)


def test_the_codes_time_is_the_mean_over_the_test_set_and_the_first_batch_is_apart(monkeypatch):
    work, seen = passes(monkeypatch, 700, 1, 2, 3), []

    class Model(nn.Linear):
        def forward(self, images):
            work()
            seen.append((len(images), self.training, torch.is_grad_enabled()))
            return super().forward(images.flatten(1))

    monkeypatch.setattr(module, "_TEST_IMAGES", 48)
    times = module._times(Model(12, 10), torch.rand(16, 3, 2, 2), "code", CPU)
    assert times == {"first_ms": pytest.approx(700), "mean_ms": pytest.approx(2), "batches": 3}
    assert set(seen) == {(16, False, False)}


def test_no_time_is_below_the_bound_of_the_rate_measured():
    asked = timed("mobilenet", "uniform", 0.5)
    found = measure(asked, "cpu")
    assert min(found["repeats"], found["copy_gbs"], found["bound_ms"]) > 0
    order = ["bound_ms", "min_ms", "lower_quartile_ms", "median_ms", "upper_quartile_ms", "max_ms"]
    assert [found[name] for name in order] == sorted(found[name] for name in order)
    assert found["macs"] == asked.network.macs(32)
    assert found["bound_ms"] == pytest.approx(2 * 16 * found["macs"] / found["tflops"] / 1e9)
    # It is the products that are fast enough, not the network that had to be taken for one.
    assert found["tflops"] == pytest.approx(module._rates(CPU)[0])


def test_where_a_network_is_faster_than_the_products_its_own_rate_is_the_best(monkeypatch):
    monkeypatch.setattr(module, "_rates", lambda device: (1e-9, 1.0))
    found = measure(timed(), "cpu")
    assert found["bound_ms"] == found["min_ms"]
    assert found["tflops"] == pytest.approx(2 * 16 * found["macs"] / found["min_ms"] / 1e9)


def test_settings_and_random_state_of_others_neither_count_nor_change():
    plain, cudnn = measure(computed(method="training"), "cpu"), torch.backends.cudnn
    state = torch.get_rng_state()
    try:
        cudnn.benchmark = cudnn.deterministic = True
        torch.use_deterministic_algorithms(True)
        with torch.inference_mode():
            assert measure(computed(method="training"), "cpu") == plain
            measure(timed(width=0.05), "cpu")
        assert all((cudnn.benchmark, cudnn.deterministic))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_rng_state().equal(state)
    finally:
        cudnn.benchmark = cudnn.deterministic = False
        torch.use_deterministic_algorithms(False)


class TooLarge(Network):
    """A network too large for the device: what it holds when it fails is watched."""

    held = error = None

    def build(self):
        tensor = torch.ones(8)
        type(self).held = weakref.ref(tensor)
        raise type(self).error


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nMore."), "20 GiB."),
        (
            RuntimeError("GET was unable to find an engine to execute this computation"),
            "computation",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_lets_go_of_its_memory(error, named, monkeypatch):
    monkeypatch.setattr(TooLarge, "error", error)
    asked = replace(timed(), network=TooLarge("resnet50", (4, 4, 4, 4)))
    said = rf"expected resnet50 base: .* to fit on .*{named}': end"
    with pytest.raises(MemoryError, match=said) as caught:
        measure(asked, "cpu")
    assert TooLarge.held() is None, caught  # while the error is still at hand


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_on_cuda_is_the_networks_alone_in_any_order():
    network, step = make_network("vgg19"), 2**25  # the allocator's steps, and cuBLAS's workspace
    asked = wanted(network, device="cuda", quantities=["memory"])
    first = [measure(one, "cuda") for one in asked]
    kept = torch.cuda.memory_allocated()  # by an older PyTorch for cuBLAS
    held = torch.ones(2**24, device="cuda")  # of others: not counted
    again = [measure(one, "cuda") for one in reversed(asked)][::-1]
    for one, other in zip(first, again, strict=True):
        assert one == {name: pytest.approx(value, abs=step) for name, value in other.items()}
    assert first[0]["reserved_bytes"] > 4 * network.params
    computed = [measure(one, "cpu") for one in wanted(network, device="cpu", quantities=["memory"])]
    for one, other in zip(first[1:], computed, strict=True):
        tensors = other["tensor_peak_bytes"]
        assert 0.95 * tensors < one["allocated_peak_bytes"] < 3 * tensors
        assert one["allocated_peak_bytes"] <= one["reserved_peak_bytes"] + step
    assert torch.cuda.memory_allocated() - kept < 2 * held.nbytes
