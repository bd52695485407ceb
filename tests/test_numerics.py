"""What a run sets in PyTorch and in this process, and that it ends with the run."""

import os
import platform
import warnings
from pathlib import Path

import pytest
import torch

from fredist.recipes import Recipe
from fredist.train import Diverged, numerics, train


def test_a_runs_numerics_end_with_it():
    threads = torch.get_num_threads()

    def state():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32,
            torch.get_num_threads(),
        )

    torch.set_num_threads(2)
    before = state()
    try:
        for deterministic in (True, False):
            with numerics(Recipe(deterministic=deterministic), torch.device("cpu")):
                assert state() == (deterministic, False, not deterministic, False, 1)
            assert state() == before
    finally:
        torch.set_num_threads(threads)


def test_a_runs_silence_about_determinism_ends_with_it():
    text, before = "f does not have a deterministic implementation", list(warnings.filters)
    with numerics(Recipe(), torch.device("cpu")):
        with warnings.catch_warnings(record=True) as said:
            warnings.warn(text, stacklevel=1)
            warnings.warn("something else", stacklevel=1)
        assert [str(warning.message) for warning in said] == ["something else"]
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match=text):
        warnings.warn(text, stacklevel=1)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's memory is what is kept")
def test_a_runs_memory_ends_with_it():
    def resident_mb():
        return (
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
        )

    with numerics(Recipe(), torch.device("cpu")):
        before = resident_mb()
        tensors = [torch.zeros(250_000) for _ in range(300)]  # 1 MB each
        last = torch.zeros(250_000)
        assert resident_mb() > before + 250
        del tensors
        assert resident_mb() > before + 250  # kept for the next step
    assert resident_mb() < before + 100
    del last


def test_a_failed_runs_numerics_end_too(tiny, digits):
    with pytest.raises(Diverged):
        train(tiny(lr=1e6), digits)
    assert not torch.are_deterministic_algorithms_enabled()
