"""The device of a run: how it computes there, leaving nothing changed, and what it was."""

import ctypes
import gc
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.metadata import version
from itertools import product

import torch
from torch import backends
from torch.nn.functional import conv2d

from . import paths
from .checks import closest
from .recipes import Recipe

# What a run sets of PyTorch, for its time.
_SWITCHES = (
    (backends.cudnn, "enabled", True),
    (backends.cudnn, "benchmark", False),
    (backends.cudnn, "benchmark_limit", 10),  # PyTorch's default: what the autotuner tries
    (backends.cudnn, "deterministic", True),
    (backends.mkldnn, "enabled", True),
    (torch.utils.deterministic, "fill_uninitialized_memory", False),  # slow, for debugging
)
# The precisions of float32, parents first: one that is not set is its parent's.
_PRECISIONS = [("generic", "all")]
_PRECISIONS += product(("cuda", "mkldnn"), ("all", "matmul", "conv", "rnn"))


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device of that name, by default CUDA where there is one.

    It does one convolution: a build of PyTorch can list a GPU that it has no code for. Raises
    `torch.OutOfMemoryError` if others fill its memory, else `RuntimeError`.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = named_device(name)
    try:
        image = torch.ones(1, 1, 3, 3, device=device)
        conv2d(image, image).sum().item()
    except (RuntimeError, AssertionError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        if "out of memory" in said:  # of PyTorch's allocator, or of CUDA at its first use
            raise torch.OutOfMemoryError(
                f"expected memory on {device}, got {said}: end what else uses it, or choose the "
                "device cpu"
            ) from error
        raise RuntimeError(
            f"expected a device that can run a convolution, but {device} with PyTorch "
            f"{torch.__version__} cannot: {said}. Install a PyTorch that supports your GPU, then "
            "`make setup TORCH=system`, or choose the device cpu"
        ) from error
    return device


def named_device(name: str | torch.device) -> torch.device:
    """Return the device of that name, be it there or not.

    Examples
    --------
    >>> named_device("cuda:1")
    device(type='cuda', index=1)
    """
    name = str(name)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")  # neither of the two
    if device.type not in ("cpu", "cuda"):
        hint = closest(name, ("cpu", "cuda"))
        raise ValueError(f"expected cpu, cuda or cuda:1 as device, got {name!r}{hint}")
    return device


def device_name(device: torch.device) -> str:
    """Return the device's name as its maker gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as info:
            names = [line.partition(":")[2].strip() for line in info if line[:10] == "model name"]
    except OSError:  # not Linux
        names = []
    name = next(filter(None, names), "") or platform.processor() or platform.machine()
    return name or "unknown CPU"  # a record needs one, and not every machine tells


def thread_count(device: torch.device) -> int | None:
    """Return the number of CPU threads a run computes with: 1 on a CPU, None where a GPU does it.

    One, so that cores change no result: they round sums in another order. Two were measured to be
    hardly faster on narrow networks, and with them the backward pass of ResNet-50 quadratic, width
    0.05, channels last, writes out of bounds in PyTorch 2.15. Other cores train other runs.
    """
    return 1 if device.type == "cpu" else None


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 itself: of x86 some CPUs with AVX-512 do."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if not (backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    # PyTorch's answer is yes for every AVX-512, of which some compute it in software.
    return _has("avx512_bf16") or not _has("avx512")


@contextmanager
def numerics(recipe: Recipe, device: torch.device, *, deterministic: bool = True) -> Iterator[None]:
    """Compute deterministically, in the recipe's precision, on the run's threads; undo all of it.

    What was set before (TF32, autocast, another default type or device) does not reach the run and
    is back after it, also when it fails. An operation without a deterministic form is an error,
    unless `deterministic` is False: what is only measured or looked at may have some.
    CUBLAS_WORKSPACE_CONFIG is left alone: since PyTorch 2.10 cuBLAS is deterministic without.

    Examples
    --------
    >>> with numerics(Recipe(), torch.device("cpu")):
    ...     torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    (True, 1)
    """
    half, cuda = recipe.precision == "bfloat16", device.type == "cuda"
    if half and cuda and not has_bfloat16(device):
        raise RuntimeError(
            "expected an Ampere GPU or a newer one for bfloat16, got "
            f"{device_name(device)}: choose a profile whose precision is float32"
        )
    mode = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with ExitStack() as undo:
        undo.callback(torch._C._set_deterministic_algorithms, mode, warn_only=warn_only)
        # The function around it imports PyTorch's compiler: seconds, and a changed environment.
        torch._C._set_deterministic_algorithms(deterministic, warn_only=False)
        # As PyTorch's default: sums of bfloat16's products may be kept in it, and split.
        reduced = "cublas_allow_bf16_reduced_precision_reduction"
        set_reduced = getattr(torch._C, f"_set_{reduced}")
        undo.callback(set_reduced, *getattr(torch._C, f"_get_{reduced}")())
        set_reduced(True, True)
        for where, switch, value in _SWITCHES:
            undo.callback(setattr, where, switch, getattr(where, switch))
            setattr(where, switch, value)
        undo.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        contexts = [full_float32(), torch.inference_mode(False), torch.enable_grad()]
        contexts += [torch.autocast(device.type, enabled=False, cache_enabled=False)]
        if torch.get_default_device().type != "cpu":  # where it is, this would only cost time
            contexts += [torch.device("cpu")]
        if cuda:
            contexts += [torch.cuda.device(device)]  # graphs, and all that names none, are there
        else:
            undo.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(thread_count(device))
            contexts += [keep_freed_memory()]
        for context in contexts:
            undo.enter_context(context)
        yield


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 in float32, whichever of PyTorch's switches asks for TF32 or bfloat16.

    A switch reads as the one above it until it is set itself. From the top, each is set to IEEE
    only if it then still reads otherwise: one that was never set stays so. `allow_tf32` and
    `set_float32_matmul_precision` set these too, and no kernel asks for them.
    """
    # Not through torch.backends, where setting mkldnn's in PyTorch 2.15 sets those of all backends.
    read, write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    with ExitStack() as undo:
        for switch in _PRECISIONS:
            if read(*switch) != "ieee":
                undo.callback(write, *switch, read(*switch))
                write(*switch, "ieee")
        yield


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let glibc keep freed tensors' memory; then set its defaults again and give all back.

    By default large activations are mapped anew each time, page by page: training narrow networks
    on a CPU was measured up to 1.6 times as fast without that. What glibc cannot set back is that
    it adapts them by itself.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)  # M_MMAP_MAX: nothing is mapped
    libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: nothing is given back
    try:
        yield
    finally:
        libc.mallopt(-4, 65536)
        libc.mallopt(-1, 128 * 1024)
        libc.malloc_trim(0)


def synchronize(device: torch.device) -> None:
    """Wait until all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def empty_cache(device: torch.device) -> None:
    """Give the memory of tensors that are no more back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def describe(device: torch.device) -> dict:
    """Return what a result was made on and with; None where there is no such thing.

    Examples
    --------
    >>> [describe(torch.device("cpu"))[name] for name in ("device_type", "threads", "driver")]
    ['cpu', 1, None]
    """
    from . import __version__

    cuda = device.type == "cuda"
    return {
        "device_type": device.type,
        "device": device_name(device),
        "instructions": None if cuda else _instructions(),
        "threads": thread_count(device),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),
        "timm": version("timm"),
        "cudnn": backends.cudnn.version() if cuda else None,
        "driver": _driver() if cuda else None,
        "fredist": __version__,
        "revision": revision(),
    }


def _instructions() -> str:
    """Those that decide a CPU's kernels, hence its rounding: virtual CPUs of one name differ."""
    own = [name for name in ("avx512_bf16", "amx_tile") if _has(name)]
    return " ".join([backends.cpu.get_cpu_capability().lower(), *own])


def _has(instructions: str) -> bool:
    return getattr(torch.cpu, f"_is_{instructions}_supported")()


@cache
def _driver() -> str | None:
    """The NVIDIA driver's version, by the library that comes with it."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None  # not Linux, or not NVIDIA's
    text = ctypes.create_string_buffer(96)
    failed = nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(text, len(text))
    return None if failed else text.value.decode()


@cache
def revision() -> str | None:
    """Return the checkout's commit, with a plus where the source differs; None outside one."""
    if not paths.in_checkout() or not (paths.ROOT / ".git").exists():
        return None  # or git would speak of a repository that merely contains this folder
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    said = []
    for words in ("rev-parse HEAD", "status --porcelain -- fredist"):
        try:
            command = ["git", "-C", str(paths.ROOT), *words.split()]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        except (OSError, subprocess.CalledProcessError):
            return None
        said.append(done.stdout.strip())
    return said[0] + ("+" if said[1] else "")
