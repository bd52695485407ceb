"""What the tests share: a folder of records of their own, a tiny run, and processes to kill."""

import multiprocessing
import os
import signal
import sys
import time

import pytest

# fredist is imported where it is used: the tests of the environment need no torch.


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    """No test sees the user's records or writes among them; return the folder used instead."""
    monkeypatch.setenv("FREDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FREDIST_PLAIN", "1")
    monkeypatch.setenv("FREDIST_LOCKS", str(tmp_path / "locks"))  # nor waits for the user's runs
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def digits():
    """Return scikit-learn's digits."""
    from fredist.data import load

    return load("digits")


@pytest.fixture(scope="session")
def tiny():
    """Return a function that makes runs on the digits that take a second or less."""
    from fredist.recipes import Profile, Recipe, Reduction
    from fredist.runs import make_run

    small = Reduction(width_factor=0.05, train_images=160, test_images=100)

    def make(model="vgg19", template="base", *, seed=0, width=1.0, reduction=small, **changed):
        recipe = {"epochs": 3, "lr_steps": (2,), "batch_size": 32, "lr": 0.05} | changed
        profile = Profile(Recipe(**recipe), (seed,), ("digits",), reduction)
        return make_run(profile, "digits", model, template, seed=seed, width=width)

    return make


@pytest.fixture
def run():
    """Return one run of Table 1."""
    from fredist.recipes import PROFILES
    from fredist.runs import make_run

    return make_run(PROFILES["narrow"], "cifar10", "vgg19", "uniform")


@pytest.fixture
def process(own_runs):
    """Return a function that calls another in a process of its own, which can be killed."""
    # Forked from a server that has only imported: as quick as a fork, and as safe as a new process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fredist.sweep", "sklearn.datasets"])
    started = []

    def start(function, *args):
        started.append(context.Process(target=_call, args=(str(own_runs), function, args)))
        started[-1].start()
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.join()


def _call(folder, function, args):
    os.environ |= {"FREDIST_RUNS": folder, "FREDIST_LOCKS": f"{folder}/../locks"}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(function(*args))


@pytest.fixture(scope="session")
def wait_for():
    """Return a function that waits until a condition holds, and fails where it does not."""

    def wait(condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s"
            time.sleep(0.005)

    return wait
