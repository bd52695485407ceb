"""What a network costs: memory against hand counts and real steps, times against known ones."""

import time
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker

from fredist import create_model
from fredist.measure import (
    bound_ms,
    compute_memory,
    count_macs,
    find_filling_batch,
    measure_memory,
    measure_tflops,
    time_inference,
)
from fredist.recipes import Recipe
from fredist.train import make_optimizer, train_step

IMAGE = 3 * 32 * 32 * 4  # bytes
MAP = 8 * 32 * 32 * 4
WEIGHTS = (8 * 27 + 8) * 4


def conv():
    return nn.Conv2d(3, 8, 3, padding=1)


# -- computed memory


def test_inference_keeps_what_the_next_layer_reads():
    deep = nn.Sequential(conv(), nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid())
    assert compute_memory(conv(), batch=4) == WEIGHTS + 4 * (IMAGE + MAP)
    assert compute_memory(deep, batch=4) == WEIGHTS + 4 * (IMAGE + 2 * MAP)


def test_training_keeps_what_backward_reads_and_the_optimizers_tensors():
    model = nn.Sequential(conv(), nn.Sigmoid(), nn.AvgPool2d(32), nn.Flatten())
    # The peak is in the sigmoid's backward: weights and momentum; the images, which the conv will
    # read; the sigmoid's output, the gradients after and before it; 8-byte labels. The last step's
    # gradients are gone, this one's are still to come. 64 bytes are room for the loss.
    peak = 2 * WEIGHTS + 4 * (IMAGE + 3 * MAP + 8)
    assert peak < compute_memory(model, batch=4, mode="training") <= peak + 64
    # Of a layer of many weights it is in the optimiser's step: weights, momentum, gradients, those
    # with weight decay, and with Nesterov's momentum.
    wide = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 100, bias=False))
    peak = 5 * 3 * 32 * 32 * 100 * 4 + IMAGE + 8
    assert peak <= compute_memory(wide, batch=1, mode="training") <= peak + 600


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        ("vgg19", "inference"),
        ("inception", "inference"),
        ("mobilenet", "training"),
        ("resnet50", "training"),
    ],
)
def test_computed_memory_is_that_of_a_real_pass(model, mode):
    network = create_model(model, width=0.1)
    images, labels = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.long)
    tracker = MemTracker()
    if mode == "inference":
        network.eval()
        tracker.track_external(network, images)
        with tracker, torch.no_grad():
            network(images)
    else:  # the training loop's own second step
        recipe = Recipe()
        optimizer = make_optimizer(network, recipe)
        train_step(network, optimizer, images, labels, recipe)
        tracker.track_external(network, optimizer, images, labels)
        with tracker:
            train_step(network, optimizer, images, labels, recipe)
    real = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert compute_memory(network, 4, 32, mode) == pytest.approx(real, rel=0.002)


def test_memory_grows_with_batch_and_image_and_leaves_the_model_as_it_is():
    model = create_model("vgg19", width=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small, batch, image = (compute_memory(model, *size) for size in ((4, 32), (8, 32), (4, 64)))
    assert small < batch < image
    assert compute_memory(model, 4, 32, "training") > 2 * small
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.device("meta"):
        assert compute_memory(create_model("vgg19", width=0.1), 4, 32) == small


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ValueError, match="expected a mode from inference, training, got 'test'"):
        compute_memory(conv(), mode="test")


def test_memory_is_measured_on_cuda_only():
    with pytest.raises(ValueError, match=r"expected a CUDA device, got cpu.*compute_memory"):
        measure_memory(conv(), device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_measured_memory_is_the_computed_and_scratch(mode):
    model = create_model("vgg19")
    held = torch.ones(2**24, device="cuda")  # of others: not counted
    found = measure_memory(model, 64, 32, mode)
    again = measure_memory(model, 64, 32, mode)
    computed = compute_memory(model, 64, 32, mode)
    assert found["allocated_peak_bytes"] == again["allocated_peak_bytes"]
    assert 0.95 * computed < found["allocated_peak_bytes"] < 3 * computed
    assert found["allocated_peak_bytes"] <= found["reserved_peak_bytes"] <= found["driver_bytes"]
    assert held.nbytes < found["driver_bytes"]


# -- time


class Sleeper(nn.Module):
    """A network whose passes take known times, in ms, and which may run out of memory."""

    def __init__(self, *ms, holds=10**9):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.ms, self.holds, self.calls = ms, holds, []

    def forward(self, images):
        self.calls.append((len(images), self.training, torch.is_inference_mode_enabled()))
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        time.sleep(self.ms[min(len(self.calls), len(self.ms)) - 1] / 1000 if self.ms else 0)
        return images


def test_times_are_of_warm_passes_and_last_as_long_as_asked():
    model = Sleeper(300, 40, 10)  # a first pass is slow
    found = time_inference(model, batch=2, seconds=0.2)
    assert 10 <= found["min_ms"] < 20
    assert found["max_ms"] < 200
    assert found["repeats"] in range(5, 21)
    assert len(model.calls) - found["repeats"] >= 2
    assert set(model.calls) == {(2, False, True)}
    assert model.training
    names = ["min_ms", "quartile1_ms", "median_ms", "quartile3_ms", "max_ms"]
    assert all(found[low] <= found[high] for low, high in pairwise(names))


def test_a_slow_network_is_still_timed_five_times():
    model = Sleeper(30)
    assert time_inference(model, seconds=0.001)["repeats"] == 5
    assert len(model.calls) == 7


def test_the_quartiles_and_the_median_are_those_of_the_times():
    model = Sleeper(1, 1, 150, 90, 60, 30, 10)  # five timed passes of 150 to 10 ms
    found = time_inference(model, seconds=0.004)
    assert found["repeats"] == 5
    for name, ms in {"min": 10, "quartile1": 30, "median": 60, "quartile3": 90}.items():
        assert found[f"{name}_ms"] == pytest.approx(ms, abs=15)


def test_a_time_respects_the_bound_of_the_rate_measured():
    model = create_model("vgg19", width=0.25)
    found = time_inference(model, batch=8, seconds=0.05)
    bound = bound_ms(count_macs(model), 8, measure_tflops(size=512))
    assert 0 < bound < 4 * found["median_ms"]  # Winograd's convolutions need fewer than are counted
    assert bound_ms(10**9, 1, 2.0) == pytest.approx(1.0)


def test_the_rate_is_one_that_a_computer_can_have():
    assert 1e-4 < measure_tflops(size=256) < 1e4


def test_the_settings_of_others_stay():
    torch.set_float32_matmul_precision("high")
    try:
        time_inference(conv(), seconds=0.001)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("holds", "expected"), [(10, 8), (8, 8), (1, 1), (10**9, 16)])
def test_the_filling_batch_is_the_largest_power_of_two_that_fits(holds, expected):
    model = Sleeper(holds=holds)
    assert find_filling_batch(model, largest=20) == expected
    assert model.calls[0][0] == 16


def test_where_not_even_one_image_fits_the_error_is_shown():
    with pytest.raises(torch.OutOfMemoryError):
        find_filling_batch(Sleeper(holds=0), largest=8)
