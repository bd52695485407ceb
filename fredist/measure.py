"""What a network costs, counted or measured: parameters, MACs, memory and time."""

import copy
import gc
import time
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

MODES = ("inference", "training")


def count_params(model: nn.Module) -> int:
    """Return the number of parameters.

    Examples
    --------
    >>> count_params(nn.Conv2d(3, 8, 3))
    224
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_size: int = 32) -> int:
    """Return the multiply-accumulates of one image's forward pass, convs and linears.

    Counted by PyTorch's own flop counter; on a model built under `torch.device("meta")` nothing
    is computed.

    Examples
    --------
    >>> with torch.device("meta"):
    ...     count_macs(nn.Conv2d(3, 8, 3, padding=1), image_size=32)
    221184
    """
    weight = next(model.parameters())
    channels = getattr(model, "in_chans", 3)
    image = torch.zeros(
        1, channels, image_size, image_size, device=weight.device, dtype=weight.dtype
    )
    training = model.training
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    model.train(training)
    return counter.get_total_flops() // 2


def compute_memory(
    model: nn.Module, batch: int = 64, image_size: int = 32, mode: str = "inference"
) -> int:
    """Return the peak bytes of all tensors in one inference pass or training step.

    Parameters, buffers, input, activations, gradients and momentum; not what an operation needs
    while it works, nor what an allocator rounds up. Followed by PyTorch's own tracker on tensors
    without storage: nothing is computed, and the device does not matter.

    Examples
    --------
    >>> compute_memory(nn.Conv2d(3, 8, 3, padding=1), batch=1)  # 864 + 32 + 12288 + 32768
    45952
    """
    from torch.distributed._tools.mem_tracker import MemTracker  # slow to import

    meta = torch.device("meta")
    model = copy.deepcopy(model).to(meta)
    work, held = _one_pass(model, batch, image_size, mode)
    tracker = MemTracker()
    tracker.track_external(model, *held)
    with tracker:
        work()
    return tracker.get_tracker_snapshot("peak")[meta]["Total"]


def measure_memory(
    model: nn.Module,
    batch: int = 64,
    image_size: int = 32,
    mode: str = "inference",
    device: torch.device | str = "cuda",
) -> dict[str, int]:
    """Return what CUDA says of the memory of one inference pass or training step, in bytes.

    A copy of the model is measured, with its input. `allocated_peak_bytes` (tensors and cuDNN's
    scratch) and `reserved_peak_bytes` (what PyTorch's allocator took from the driver for them) are
    without what was held before, such as cuBLAS's lasting workspace. `driver_bytes` is all that is
    in use on the device afterwards: also the CUDA context, kernels and other processes.
    """
    device = torch.device(device)
    if device.type != "cuda":
        raise ValueError(
            f"expected a CUDA device, got {device}: elsewhere memory is computed, compute_memory"
        )

    def begin() -> Callable[[], None]:
        prepared = copy.deepcopy(model).to(device)
        work = _one_pass(prepared, batch, image_size, mode)[0]
        work()
        return work

    with _float32(), torch.cuda.device(device):
        begin()  # loads kernels and takes workspaces that stay: not this model's alone
        _empty(device)
        allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        work = begin()  # from the second step on there are momentum and the last step's gradients
        _empty(device)
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return {
            "allocated_peak_bytes": torch.cuda.max_memory_allocated() - allocated,
            "reserved_peak_bytes": torch.cuda.max_memory_reserved() - reserved,
            "driver_bytes": total - free,
        }


def time_inference(
    model: nn.Module, batch: int = 1, image_size: int = 32, seconds: float = 1.0
) -> dict[str, float]:
    """Return the milliseconds of a batch's forward pass on the model's device: median and spread.

    Each pass is timed by itself, the device synchronised before and after, once passes for a
    quarter of `seconds` (two at least) have warmed up; then for about `seconds`, five at least.

    Examples
    --------
    >>> times = time_inference(nn.Conv2d(3, 8, 3), seconds=0.01)
    >>> times["repeats"] >= 5 and times["min_ms"] <= times["median_ms"] <= times["max_ms"]
    True
    """
    device = next(model.parameters()).device
    images = _images(model, batch, image_size)
    training = model.training
    model.eval()
    with _float32(), torch.inference_mode():
        warming = []
        while len(warming) < 2 or sum(warming) < 1000 * seconds / 4:
            warming.append(_milliseconds(lambda: model(images), device))
        repeats = max(5, round(1000 * seconds / warming[-1]))
        times = [_milliseconds(lambda: model(images), device) for _ in range(repeats)]
    model.train(training)
    steps = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)
    marks = torch.tensor(times, dtype=torch.float64).quantile(steps).tolist()
    names = ("min_ms", "quartile1_ms", "median_ms", "quartile3_ms", "max_ms")
    return dict(zip(names, marks, strict=True)) | {"repeats": repeats}


def measure_tflops(device: torch.device | str = "cpu", size: int | None = None) -> float:
    """Return the device's rate in float32, TFLOP/s: the fastest of five large matrix products.

    Without TF32; `size` x `size` matrices, by default 8192 on CUDA and 2048 elsewhere.

    Examples
    --------
    >>> measure_tflops(size=64) > 0
    True
    """
    device = torch.device(device)
    size = size or (8192 if device.type == "cuda" else 2048)
    left, right = torch.rand(2, size, size, device=device)
    with _float32(), torch.inference_mode():
        torch.mm(left, right)  # warms up
        fastest = min(_milliseconds(lambda: torch.mm(left, right), device) for _ in range(5))
    return 2 * size**3 / fastest / 1e9


def bound_ms(macs: int, batch: int, tflops: float) -> float:
    """Return the time, in ms, that a batch's multiply-accumulates take at the device's rate.

    An algorithm with fewer multiplications than the direct one (Winograd's, for 3x3 convs) can be
    somewhat faster; a time far below was not measured to the end of the work.

    Examples
    --------
    >>> round(bound_ms(16_300_000_000, batch=64, tflops=11))  # ResNet-50 reverse, Titan X Pascal
    190
    """
    return 2 * macs * batch / (tflops * 1e9)


def find_filling_batch(model: nn.Module, image_size: int = 32, largest: int = 4096) -> int:
    """Return the largest power of two up to `largest` whose inference fits in the device's memory.

    Examples
    --------
    >>> find_filling_batch(nn.Conv2d(3, 8, 3), largest=8)
    8
    """
    device = next(model.parameters()).device
    batch = 1 << (largest.bit_length() - 1)
    while True:
        try:
            with _float32():
                _one_pass(model, batch, image_size, "inference")[0]()
                synchronize(device)
            return batch
        except RuntimeError:  # out of memory, also where cuDNN has another word for it
            if batch == 1:
                raise
        _empty(device)  # only here has the error let go of its tensors
        batch //= 2


def _one_pass(model: nn.Module, batch: int, image_size: int, mode: str) -> tuple[Callable, list]:
    """Return a function that does one pass or step, and what it holds besides the model.

    In training there are gradients and momentum already, as from the second step on.
    """
    if mode not in MODES:
        raise ValueError(f"expected a mode from {', '.join(MODES)}, got {mode!r}")
    images = _images(model, batch, image_size)
    model.train(mode == "training")
    if mode == "inference":

        def infer():
            with torch.no_grad():
                model(images)

        return infer, [images]
    labels = torch.zeros(batch, dtype=torch.long, device=images.device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.0, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def step():
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)  # not earlier: as train.train_step has it
        loss.backward()
        optimizer.step()

    return step, [images, labels, optimizer]


def _images(model: nn.Module, batch: int, image_size: int) -> torch.Tensor:
    channels, device = getattr(model, "in_chans", 3), next(model.parameters()).device
    return torch.rand(batch, channels, image_size, image_size, device=device)


@contextmanager
def _float32():
    """PyTorch's defaults, whatever has been set before, but no TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=False, allow_tf32=False
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _milliseconds(work: Callable, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return 1000 * (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    """Wait until all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _empty(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
