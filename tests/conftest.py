"""What the tests share: folders of their own, tiny runs, and records as some machine wrote them."""

import os
import signal
import sys
import tempfile
from dataclasses import replace

import pytest

# fredist is imported where it is used: the tests of the environment need no torch.


def pytest_configure(config):
    """The examples in docstrings, which have no fixtures, are not the user's either.

    A shell's background jobs are deaf to Ctrl-C, and with them all that they start: not the tests'.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scratch = tempfile.TemporaryDirectory(prefix="fredist-")
    config.add_cleanup(scratch.cleanup)
    for name in ("RUNS", "FIGURES", "LOCKS"):
        os.environ[f"FREDIST_{name}"] = os.path.join(scratch.name, name.lower())


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    """No test sees the user's records or writes among them; return the folder used instead."""
    monkeypatch.setenv("FREDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FREDIST_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("FREDIST_PLAIN", "1")
    monkeypatch.setenv("FREDIST_LOCKS", str(tmp_path / "locks"))  # nor waits for the user's runs
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def repeatable():
    """What a test draws at random is the same each time: one that passed passes again."""
    if torch := sys.modules.get("torch"):  # those that do not import it draw nothing
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits():
    """Return scikit-learn's digits."""
    from fredist.data import load

    return load("digits")


@pytest.fixture(scope="session")
def tiny():
    """Return a function that makes runs on the digits that take a second or less."""
    from fredist.recipes import Recipe, Setting
    from fredist.runs import make_run

    models = ("vgg19", "resnet50", "inception", "mobilenet")
    factors = dict.fromkeys(models, 0.05)
    small = Setting(width_factors=factors, train_images=160, test_images=100)

    def make(model="vgg19", template="base", *, seed=0, width=1.0, setting=small, **changed):
        recipe = {"epochs": 3, "lr_steps": (2,), "batch_size": 32, "lr": 0.05} | changed
        own = replace(setting, recipe=Recipe(**recipe))
        return make_run(own, "digits", model, template, seed=seed, width=width)

    return make


@pytest.fixture
def written(own_runs):
    """Return a function that writes a run's record as some machine would have."""
    from fredist.records import write_record

    def write(run, top1=50.0, *, device_type="cpu", device="a device", folder=None, **provenance):
        epochs, best = run.recipe.epochs, top1 + (run.recipe.epochs > 1)
        results = {"top1_last": top1, "top5_last": 99.0, "top1_best": best, "params": 1}
        history = {
            "loss": [1.0] * epochs,
            "train_top1": [40.0] * epochs,
            "test_top1": [*[best] * (epochs - 1), top1],
            "test_top5": [99.0] * epochs,
        }
        if run.recipe.evaluate_train:
            results |= {"train_top1_last": 60.0, "train_top1_best": 60.0}
            history["train_eval_top1"] = [60.0] * epochs
        session = {"device_type": device_type, "device": device, "epochs": [1, epochs]}
        provenance = {"sessions": [session]} | provenance
        return write_record(run, results, history, provenance, folder or own_runs).path

    return write
