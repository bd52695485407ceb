"""The explorer's slow work, each as `work(task, report)` for `workers.Worker`."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import isfinite
from statistics import mean
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from .batches import ResidentImages
from .coupled.plan import Papers, Traced
from .coupled.redistribute import TooLarge, memory_of, time_of
from .coupled.redistribution import Redistribution
from .data import DATASETS, load, subset
from .device import choose_device, numerics
from .explored import State, fit
from .networks import FAMILIES
from .recipes import Recipe
from .steps import Steps, make_optimizer
from .train import Diverged, evaluate

TOO_LARGE = {"params": 500_000_000, "macs": 50_000_000_000}  # to be built while somebody waits
RECIPE = Recipe(lr=0.05, warmup_steps=60, batch_size=16, memory_format="channels_last")
IMAGES = 1_440, 360  # at most, for training and testing
_NEWS = 0.3  # seconds from one report of a training to the next
# As runs compute, but for operations without a deterministic form.
_computing = partial(numerics, RECIPE, deterministic=False)
_originals: dict[str, float] = {}  # what is measured of originals, once in a process


def names(task: None, report: Callable) -> list[str]:
    """Import what takes seconds, and return the names of the networks to choose from."""
    import timm
    from torch.distributed._tools import mem_tracker  # noqa: F401 - for `tensor_peak`

    there = timm.list_models()
    return [*FAMILIES, *(f"timm/{name}" if name in FAMILIES else name for name in there)]


def trace(state: State, report: Callable) -> Traced:
    """Return what a network's redistributions start from."""
    return state.study()


def search(task: tuple[State, Papers | Traced], report: Callable) -> tuple[float, float | None]:
    """Return the width at which a network fits a budget that is slow to take, and the budget.

    A budget of time is searched as `measure` takes times: on the same device and threads, among the
    widths that are not too large. Where the original is, a `ValueError` says so.
    """
    state, known = task
    if state.by != "latency":
        return fit(state, known)
    timed = SimpleNamespace(plan=lambda *chosen: _Timed(**vars(known.plan(*chosen))))
    with _computing(choose_device()):
        return fit(state, timed)


class _Timed(Redistribution):
    """A redistribution that is only built where times are taken, and not if it is too large."""

    def build(self, model: nn.Module | None = None, *, original: bool = False) -> nn.Module:
        _check_size(self, "timed", original=original)
        return super().build(model, original=original).to(choose_device())


def measure(found: Redistribution, report: Callable) -> None:
    """Report ("memory", bytes) and ("time", ms), each of the original and of the new network.

    Memory is computed: all tensors in inference of 64 images. Time is measured here, of one image:
    the median pass.
    """
    for original in (True, False):
        _check_size(found, "measured", original=original)
    options = {name: value for name, value in found.options.items() if name != "filters"}
    for quantity, take in (("memory", memory_of), ("time", partial(_time, report))):
        key = json.dumps([quantity, found.source, options, found.image_shape])
        if key not in _originals:
            report()
            _originals[key] = take(found.build(original=True), found.image_shape)
        report()
        report((quantity, (_originals[key], take(found.build(), found.image_shape))))


def _check_size(found: Redistribution, what: str, *, original: bool = False) -> None:
    """Refuse what takes too much memory or time to be built and run while somebody waits."""
    sizes = {name: getattr(found, name)[0 if original else 1] for name in TOO_LARGE}
    if not found.source.startswith("fredist/"):  # first built with the original's filters
        sizes["params"] = max(sizes["params"], found.params[0])
    for name, most in TOO_LARGE.items():
        if sizes[name] > most:
            raise TooLarge(
                f"expected at most {most:,} {name} to be {what} here, got {sizes[name]:,}"
            )


def _time(report: Callable, model: nn.Module, image_shape: tuple) -> float:
    model.register_forward_pre_hook(lambda *_: report())  # so that each pass can be the last
    with _computing(device := choose_device()):
        return time_of(model.to(device), image_shape)[0]


class _Scores(nn.Module):
    """Takes a network's scores, beside which some of torchvision's give others in training."""

    def forward(self, given) -> Tensor:
        scores = getattr(given, "logits", given)
        if not isinstance(scores, Tensor) or scores.ndim != 2:
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"expected a network that gives one score per class, got {got}")
        return scores


def train(task: tuple[Redistribution, str, int], report: Callable) -> None:
    """Train a network for some epochs, on a part of a data set resized to what the network takes.

    Reports ("loss", epochs so far, mean loss since the last report) several times a second and
    ("top1", epochs so far, accuracy on the test images in percent) after every epoch.
    """
    found, name, epochs = task
    _check_size(found, "trained")
    info, classes = DATASETS[name], found.options["num_classes"]
    if classes < info.classes:
        raise ValueError(f"expected {info.classes} classes or more for {info.label}, got {classes}")
    parts = (min(most, n) for most, n in zip(IMAGES, (info.train, info.test), strict=True))
    images, size = subset(load(name), *parts), found.image_shape[-1]
    recipe = replace(RECIPE, flip=info.flip)
    with _computing(device := choose_device()):
        how = (info.mean, info.std, device)
        train_set = ResidentImages(images.train_images, images.train_labels, *how)
        test_set = ResidentImages(images.test_images, images.test_labels, *how)
        parts = [found.build(), _Scores()]
        if size != images.image_size:
            parts.insert(0, nn.Upsample(size=(size, size), mode="bilinear"))
        model = nn.Sequential(*parts).to(device, memory_format=torch.channels_last)
        steps = Steps(model, make_optimizer(model, recipe), recipe)
        losses, said = [], time.monotonic()
        for epoch in range(epochs):
            seen = 0
            for _, loss, y in steps.epoch(train_set, 0, epoch):
                report()
                losses.append(loss.item())
                if not isfinite(losses[-1]):
                    raise Diverged("expected a finite loss: this network needs a lower rate")
                seen += len(y)
                if time.monotonic() - said > _NEWS or seen == len(train_set):
                    report(("loss", epoch + seen / len(train_set), mean(losses)))
                    losses, said = [], time.monotonic()
            report(("top1", epoch + 1, evaluate(model, test_set, recipe)[0]))
