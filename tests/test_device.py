"""What a run sets in PyTorch and in this process ends with it; where a result comes from."""

import ctypes
import io
import os
import re
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import backends

from fredist import device as module
from fredist import paths
from fredist.device import (
    choose_device,
    describe,
    full_float32,
    has_bfloat16,
    keep_freed_memory,
    numerics,
    revision,
)
from fredist.recipes import Recipe

CPU = torch.device("cpu")
LIBC = ctypes.CDLL(None)
PRECISIONS = [("generic", "all")]
PRECISIONS += [(b, op) for b in ("cuda", "mkldnn") for op in ("all", "matmul", "conv", "rnn")]


def precisions():
    """Return all that PyTorch says of float32's precision, by its old and its new switches."""
    said = [torch._C._get_fp32_precision_getter(*switch) for switch in PRECISIONS]
    for old in (
        torch.get_float32_matmul_precision,
        lambda: backends.cuda.matmul.allow_tf32,
        lambda: backends.cudnn.allow_tf32,
    ):
        try:
            said.append(old())
        except RuntimeError:  # what the user has mixed, PyTorch refuses to say
            said.append("mixed")
    return said


WAYS = {
    "nothing": "pass",
    "cuBLAS, old": "backends.cuda.matmul.allow_tf32 = True",
    "cuDNN off, old": "backends.cudnn.allow_tf32 = False",
    "matmul, old": 'torch.set_float32_matmul_precision("medium")',
    "all": 'backends.fp32_precision = "tf32"',
    "all, bfloat16": 'backends.fp32_precision = "bf16"',
    "CUDA": 'backends.cudnn.fp32_precision = "tf32"',
    "convs": 'backends.cudnn.conv.fp32_precision = backends.cudnn.rnn.fp32_precision = "tf32"',
    "CPU": 'backends.mkldnn.matmul.fp32_precision = backends.mkldnn.conv.fp32_precision = "bf16"',
    "IEEE": 'backends.fp32_precision = "ieee"',
    "mixed": 'torch.set_float32_matmul_precision("high"); backends.fp32_precision = "tf32"; '
    'backends.cuda.matmul.fp32_precision = backends.cudnn.conv.fp32_precision = "ieee"',
}


def alone(code):
    """Return what code prints in a process of its own, where nothing has been set yet."""
    lines = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    lines += f"from test_device import *\n{code}"
    command = [sys.executable, "-c", lines]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def try_all_ways():
    fresh = precisions()
    for name, way in WAYS.items():
        exec(way)
        before = precisions()
        with numerics(Recipe(), CPU):
            inside = [torch._C._get_fp32_precision_getter(*switch) for switch in PRECISIONS]
            assert set(inside) == {"ieee"}, (name, inside)
        assert precisions() == before, (name, before, precisions())
        if name == "nothing":  # a switch never set follows the one above it, then as before
            backends.fp32_precision = "ieee"
            assert backends.cudnn.conv.fp32_precision == "ieee"
            assert backends.mkldnn.conv.fp32_precision == "ieee"
            backends.fp32_precision = "none"
            assert precisions() == fresh


def test_no_way_of_asking_for_tf32_reaches_a_run_and_all_are_back_after_it():
    alone("try_all_ways()")  # for what was never set cannot be set back to that by the switches


def test_float32_is_float32_on_a_cpu_that_was_allowed_bfloat16():
    x = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    exact = (x.double() @ x.double()).float()
    backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with full_float32():
            torch.testing.assert_close(x @ x, exact)
    finally:
        backends.mkldnn.matmul.fp32_precision = "none"


def state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        backends.cudnn.enabled,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        backends.mkldnn.enabled,
        torch._C._get_cublas_allow_bf16_reduced_precision_reduction(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


def test_what_a_run_sets_ends_with_it_also_when_it_fails():
    untouched, threads = state(), torch.get_num_threads()
    inside = (True, False, False, True, False, True, True, (True, True), torch.float32, 1, True)
    inside += (False,)
    environment = dict(os.environ)
    try:
        torch._C._set_deterministic_algorithms(True, warn_only=True)
        backends.cudnn.benchmark = True
        backends.cudnn.enabled = backends.mkldnn.enabled = False
        torch._C._set_cublas_allow_bf16_reduced_precision_reduction(False, False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            before = state()
            with numerics(Recipe(), CPU):
                assert state() == inside
            assert state() == before
            with pytest.raises(ZeroDivisionError), numerics(Recipe(), CPU):
                raise ZeroDivisionError
            assert state() == before
    finally:
        torch._C._set_deterministic_algorithms(False, warn_only=False)
        backends.cudnn.benchmark = False
        backends.cudnn.enabled = backends.mkldnn.enabled = True
        torch._C._set_cublas_allow_bf16_reduced_precision_reduction(True, True)
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    assert state() == untouched
    assert dict(os.environ) == environment


def test_an_operation_without_a_deterministic_form_is_an_error():
    with numerics(Recipe(), CPU), pytest.raises(RuntimeError, match="not have a deterministic"):
        torch.zeros(4).put_(torch.tensor([0]), torch.ones(1), accumulate=False)


class Said(ctypes.Structure):
    """glibc's mallinfo2, of which the fifth is the memory mapped beside the heap, in bytes."""

    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(1, 11)]


@pytest.mark.skipif(not hasattr(LIBC, "mallinfo2"), reason="glibc's memory is what is kept")
def test_freed_memory_is_kept_only_for_the_time_of_a_run():
    # In a process of its own: after an allocation that fails glibc leaves the heap for good.
    with get_context("spawn").Pool(1) as pool:
        pool.apply(_keep_and_give_back)


def _keep_and_give_back():
    LIBC.mallinfo2.restype = Said

    def resident_mb():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6

    def mapped_for(mb):
        """Return how many MB of a tensor are mapped beside the heap."""
        before = LIBC.mallinfo2().field5
        tensor = torch.zeros(mb * 250_000)
        mapped = LIBC.mallinfo2().field5 - before
        del tensor
        return mapped / 1e6

    before = resident_mb()
    with keep_freed_memory():
        assert mapped_for(300) == 0
        assert resident_mb() > before + 250  # kept for the next step
    assert resident_mb() < before + 50
    assert mapped_for(400) >= 400  # larger than any room that is left in the heap
    assert resident_mb() < before + 50


def test_a_device_that_is_not_there_is_named():
    before = torch.get_rng_state()
    assert choose_device("cpu") == choose_device(CPU) == CPU
    assert torch.equal(before, torch.get_rng_state())
    for name in ("gpu", "cpu0", "meta", "mps", "", 0):
        with pytest.raises(
            ValueError, match=f"expected cpu, cuda or cuda:1 as device, got '{name}'"
        ):
            choose_device(name)
    with pytest.raises(ValueError, match="did you mean 'cuda'"):
        choose_device("CUDA")
    with pytest.raises(RuntimeError, match=r"convolution, but cuda:99 with PyTorch .* cannot: .*"):
        choose_device("cuda:99")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Process 7 has 78 GiB in use."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
    ],
)
def test_a_device_that_others_fill_is_not_said_to_be_broken(monkeypatch, error):
    def conv2d(*images):
        raise error

    monkeypatch.setattr(module, "conv2d", conv2d)
    expected = r"memory on cpu, got CUDA .*(use|memory): end what else uses it, or choose the devi"
    with pytest.raises(torch.OutOfMemoryError, match=expected):
        choose_device("cpu")


def test_a_device_that_fails_without_a_word_is_named(monkeypatch):
    for error in (AssertionError(), RuntimeError("It cannot.")):
        monkeypatch.setattr(module, "conv2d", Mock(side_effect=error))
        with pytest.raises(RuntimeError, match=r"cannot: (AssertionError|It cannot)\. Install"):
            choose_device("cpu")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("model name\t: A: B @ 2 GHz\nmodel name\t: C\n", "A: B @ 2 GHz"),
        ("model name\t: \nmodel name\t: C\n", "C"),
        ("model name\n", "a machine"),
        ("", "a machine"),
    ],
)
def test_every_cpu_has_a_name(monkeypatch, text, name):
    real = open
    monkeypatch.setattr(module.platform, "processor", lambda: "")
    monkeypatch.setattr(module.platform, "machine", lambda: "a machine")
    monkeypatch.setattr(
        "builtins.open",
        lambda path, *rest, **options: (
            io.StringIO(text) if path == "/proc/cpuinfo" else real(path, *rest, **options)
        ),
    )
    assert module.device_name(CPU) == name


def test_a_cpu_has_the_instructions_that_its_maker_names():
    """CPUs of one name can differ in them, virtual ones above all, and then in the last digits."""
    info = Path("/proc/cpuinfo")
    flags = info.exists() and re.search(r"^flags\s*:(.*)", info.read_text(), re.M)
    if not flags:
        pytest.skip("no x86 on Linux, whose flags tell")
    assert has_bfloat16(CPU) == ("avx512_bf16" in flags[1].split())
    kernels, *own = describe(CPU)["instructions"].split()
    assert kernels.upper() == backends.cpu.get_cpu_capability()
    assert ("avx512_bf16" in own) == has_bfloat16(CPU)


def test_where_a_result_comes_from():
    made = describe(CPU)
    assert made["torch"] == torch.__version__
    assert type(made["torch"]) is str
    assert (made["cudnn"], made["driver"]) == (None, None)  # whatever GPU stands beside
    assert all(re.match(r"\d+\.\d+", made[name]) for name in ("python", "torchvision", "timm"))


def test_the_revision_is_the_checkouts_own(tmp_path, monkeypatch):
    def git(folder, *words):
        who = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)

    def found(root):
        monkeypatch.setattr(paths, "ROOT", root)
        monkeypatch.setattr(paths, "NOTEBOOKS", root / "notebooks")
        revision.cache_clear()
        try:
            return module.revision()
        finally:
            revision.cache_clear()

    for root in (tmp_path, tmp_path / "copy"):
        (root / "fredist").mkdir(parents=True)
        (root / "notebooks").mkdir()
        (root / "notebooks" / "table1.ipynb").touch()
        (root / "pyproject.toml").write_text("")
        (root / "fredist" / "code.py").write_text("")
    git(tmp_path, "init")
    git(tmp_path, "add", "fredist")
    git(tmp_path, "commit", "-m", "first")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as in a hook of another repository
    commit = found(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "notes.txt").write_text("beside the source")
    assert found(tmp_path) == commit
    (tmp_path / "fredist" / "code.py").write_text("changed")
    assert found(tmp_path) == f"{commit}+"
    assert found(tmp_path / "copy") is None  # inside a repository that is not its own
    (tmp_path / "pyproject.toml").unlink()
    assert found(tmp_path) is None  # as site-packages is
