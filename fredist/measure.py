"""What a network takes, in memory and time; docs/measuring.md says how each number is taken."""

import copy
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from math import inf
from statistics import mean, quantiles
from traceback import clear_frames
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import conv2d, cross_entropy

from .checks import check_choices
from .device import choose_device, device_name, empty_cache, numerics, synchronize, thread_count
from .networks import Network
from .recipes import Recipe
from .runs import COMPUTED, METHODS, Measurement

if TYPE_CHECKING:
    from .paper import Choices

_LARGEST = 16  # batch that a CPU times: of 64 images, Figure 4's networks would take an hour
_NO_ENGINE = "unable to find an engine"  # how cuDNN says that none fits into what is left
_TEST_IMAGES = 10_000  # of CIFAR and Tiny-ImageNet alike


def wanted(
    network: Network, *, device: torch.device | str | None, image_size=32, quantities=None, **labels
) -> list[Measurement]:
    """Return the measurements of a network that belong on a device (Table 3, Figures 3 and 4).

    On CUDA memory and time in the author's own way ("code") and as the captions have it; on a CPU
    computed memory and the time of 16 images. `quantities` are "memory" and "time"; the labels
    `template`, `width` and `convention` only say how the network was asked for.

    Examples
    --------
    >>> from fredist.networks import make_network
    >>> found = wanted(make_network("vgg19"), device="cpu")
    >>> [(one.quantity, one.method, one.batch, one.device == "computed") for one in found[1:]]
    [('memory', 'training', 64, True), ('time', 'synchronised', 16, False)]
    """
    device = choose_device(device)
    return [
        Measurement(network, image_size, what, method, n, *_place(device, what), **labels)
        for what in check_choices("quantity", quantities, ("memory", "time"))
        for method, batches in METHODS[what].items()
        for n in batches
        if device.type == "cuda" or (method != "code" and (what == "memory" or n <= _LARGEST))
    ]


def measurements(choices: "Choices") -> list[Measurement]:
    """Return those that a table or figure needs of the device chosen: none where it shows no cost.

    Examples
    --------
    >>> from fredist.paper import choose
    >>> chosen = choose("figure3", "smoke", models="vgg19", templates="base", datasets="digits")
    >>> [(one.quantity, one.method, one.width) for one in measurements(chosen)[::2]]
    [('memory', 'inference', 1.0), ('memory', 'inference', 0.5), ('memory', 'inference', 0.25)]
    """
    found, how = [], {"device": choices.device, "quantities": choices.experiment.measured}
    for cell in choices.cells() if choices.experiment.measured else ():
        how |= {"template": cell.template, "width": cell.width}
        found += wanted(choices.network(cell), image_size=choices.image_size(cell), **how)
    return found


def measure(measurement: Measurement, device: torch.device | str) -> dict[str, float]:
    """Return the results of a measurement that belongs on `device`: bytes, ms, TFLOP/s, GB/s.

    docs/measuring.md has each result of each method. PyTorch's settings and random state are left
    as they were.

    Raises
    ------
    ValueError
        If the measurement is of another device, number of threads or PyTorch than are here.
    MemoryError
        If it does not fit on the device. What it took is free again.

    Examples
    --------
    >>> from fredist.networks import make_network
    >>> memory, _ = wanted(make_network("vgg19"), device="cpu", quantities=["memory"])
    >>> round(measure(memory, "cpu")["tensor_peak_bytes"] / 1e6)
    115
    """
    device = torch.device("cpu") if measurement.device == COMPUTED else choose_device(device)
    here = _place(device, measurement.quantity)
    got = (measurement.device, measurement.threads, measurement.torch)
    if got != here or (COMPUTED in here and measurement.method == "code"):
        raise ValueError(
            f"expected a measurement with (device, threads, PyTorch) {here}, as it is here, got "
            f"{measurement} with {got}: measure it there, or take those of wanted(...)"
        )
    cuda, work = device.type == "cuda", partial(_measure, measurement, device)
    try:
        with torch.random.fork_rng([device] if cuda else []), ThreadPoolExecutor(1) as fresh:
            # A new thread, because cuDNN's autotuner tunes no shape twice in the same one.
            return fresh.submit(work).result() if cuda else work()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _NO_ENGINE not in str(error):
            raise
        clear_frames(error.__traceback__)  # which hold tensors
        raise MemoryError(
            f"expected {measurement} to fit on {device_name(device)}, got "
            f"{str(error).splitlines()[0]!r}: end what else uses its memory, or measure on a "
            "larger device"
        ) from None
    finally:
        empty_cache(device)


def _place(device: torch.device, quantity: str) -> tuple[str, int | None, str]:
    """Return device, threads and PyTorch of a measurement; a CPU's memory is always computed."""
    computed = quantity == "memory" and device.type == "cpu"
    where = (COMPUTED, None) if computed else (device_name(device), thread_count(device))
    return *where, str(torch.__version__)


def _measure(m: Measurement, device: torch.device) -> dict[str, float]:
    """Measure as PyTorch computes by default, but in float32 without TF32."""
    with numerics(Recipe(), device, deterministic=False):  # which undoes the next lines, too
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = m.method in ("code", "synchronised")  # the autotuner
        with torch.device("meta" if m.device == COMPUTED else "cpu"):
            model = m.network.build()
            images = torch.rand(m.batch, m.network.in_chans, m.image_size, m.image_size)
        if m.device == COMPUTED:
            return {"tensor_peak_bytes": tensor_peak(model, images, m.method)}
        if m.quantity == "memory":
            return _memory(model, images, m.method, device)
        tflops, copy_gbs = _rates(device)  # first: it has CUDA load its libraries, once a process
        times = _times(model, images, m.method, device)
    macs = m.network.macs(m.image_size)
    gflop = 2 * macs * m.batch / 1e9
    bound = min(gflop / tflops, times.get("min_ms", inf))  # the network's rate may be the best
    return times | {"macs": macs, "tflops": gflop / bound, "bound_ms": bound, "copy_gbs": copy_gbs}


def _second_pass(model: nn.Module, images: torch.Tensor, method: str) -> tuple[Callable, list]:
    """Do one pass or training step; return a function that does another, and what it holds."""
    model.train(method == "training")
    if method == "inference":
        work, held = torch.no_grad()(partial(model, images)), [images]
    else:
        labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        held = [images, labels, optimizer]

        def work():
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()

    work()
    return work, held


def tensor_peak(model: nn.Module, images: torch.Tensor, method: str) -> int:
    """Return the peak bytes of all tensors; those on the meta device are only counted."""
    from torch.distributed._tools.mem_tracker import MemTracker  # slow to import

    work, held = _second_pass(model, images, method)
    tracker = MemTracker()
    tracker.track_external(model, *held)
    with tracker:
        work()
    return tracker.get_tracker_snapshot("peak")[images.device]["Total"]


def _memory(model: nn.Module, images: torch.Tensor, method: str, device) -> dict[str, int]:
    """Return what CUDA's allocator says, less what it still holds once the network is gone."""

    def peaks() -> tuple[int, int]:  # all that it makes goes when it returns
        there = copy.deepcopy(model).to(device).train(), images.to(device)
        work = partial(*there) if method == "code" else _second_pass(*there, method)[0]
        empty_cache(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)

    empty_cache(device)
    allocated, reserved = peaks()
    empty_cache(device)
    reserved -= torch.cuda.memory_reserved(device)
    if method == "code":
        return {"reserved_bytes": reserved}
    allocated -= torch.cuda.memory_allocated(device)
    return {"allocated_peak_bytes": allocated, "reserved_peak_bytes": reserved}


@torch.no_grad()
def _times(model: nn.Module, images: torch.Tensor, method: str, device) -> dict[str, float]:
    model, labels = model.to(device).eval(), torch.zeros(len(images), dtype=torch.long)
    if method == "synchronised":
        times = passes_ms(partial(model, images.to(device)), device)
        lower, middle, upper = quantiles(times, method="inclusive")
        found = {"lower_quartile_ms": lower, "median_ms": middle, "upper_quartile_ms": upper}
        return found | {"min_ms": min(times), "max_ms": max(times), "repeats": len(times)}
    batches, times = -(-_TEST_IMAGES // len(images)), []
    synchronize(device)
    for _ in range(1 + batches):
        start = time.perf_counter()
        loss = cross_entropy(model(images.to(device)), labels.to(device))
        times.append(1000 * (time.perf_counter() - start))
        loss.item()  # waits for the device
    return {"mean_ms": mean(times[1:]), "first_ms": times[0], "batches": batches}


def passes_ms(work: Callable, device: torch.device, seconds: float = 1.0) -> list[float]:
    """Return the times of three passes or more, which last so long, after a warm-up of a third."""
    for lasting in (seconds / 3, seconds):
        times = []
        while len(times) < 3 or sum(times) < 1000 * lasting:
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            times.append(1000 * (time.perf_counter() - start))
    return times


@cache
def _rates(device: torch.device) -> tuple[float, float]:
    """Return the best float32 rate of large products, in TFLOP/s, and a copy's, in GB/s."""
    rand, conv = partial(torch.rand, device=device), partial(conv2d, padding=1)
    # A copy of 1 GB on CUDA: beside that a launch takes no time, and no cache holds it.
    n, batch, floats = (8192, 64, 2**28) if device.type == "cuda" else (1024, 4, 2**25)
    images, kernel, source = rand(batch, 256, 32, 32), rand(256, 256, 3, 3), rand(floats)

    def rate(amount: float, work: Callable, *tensors) -> float:  # per millisecond
        return amount / min(passes_ms(partial(work, *tensors), device, seconds=0.2))

    product = rate(2 * n**3, torch.mm, *rand(2, n, n))
    convolution = rate(2 * batch * 32**2 * kernel.numel(), conv, images, kernel)
    copied = rate(2 * source.nbytes, torch.empty_like(source).copy_, source)
    return max(product, convolution) / 1e9, copied / 1e6
