"""The training loop: one run in, its results out, continued after every epoch."""

import hashlib
import io
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import inf, isfinite
from pathlib import Path

import torch
from torch import nn

from .batches import ResidentImages, generator
from .checks import check_number
from .data import ImageSet, subset
from .device import choose_device, describe, numerics
from .paths import write_whole
from .recipes import Recipe
from .records import check_history, check_sessions, summary
from .runs import Run
from .steps import FORMATS, Steps, forward, make_optimizer, until


class Diverged(ArithmeticError):
    """The loss, a weight or a score is no longer a finite number."""


def train(
    run: Run,
    images: ImageSet,
    device: torch.device | str = "cpu",
    *,
    checkpoint: str | os.PathLike | None = None,
    deadline: float = inf,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> tuple[dict[str, float], dict[str, list[float]], list[dict]]:
    """Train one run to its end and return its results, its history and its sessions.

    Section 4's experiment: SGD with a stepped learning rate; after every epoch top-1 and top-5
    accuracy on the test images. Other images than the run's are a `ValueError`, and so is an epoch
    whose last batch would have one image; `Diverged` names the epoch.

    Parameters
    ----------
    run : Run
    images : ImageSet
        The data set as loaded; the run's number of images is taken from it here.
    checkpoint : path, optional
        Written after every epoch, never half. Where it exists the run continues from it and ends
        as it would have ended uninterrupted. One that is damaged is warned of and kept aside as
        `<name>.damaged`, in place of an earlier one, and the run starts anew. One that cannot be
        read for now, for want of memory for one, is left as it is, and the error raised.
    deadline : float
        As `time.monotonic()`; `OutOfTime` once it has passed.
    on_epoch : callable
        Called with the number of finished epochs.

    Returns
    -------
    results : dict
        `top1_last`, `top5_last` and `top1_best` on the test images, in percent; the best epoch is
        selected on them, as the paper's was. With `evaluate_train` also `train_top1_last` and
        `train_top1_best`, on the training images as test images are taken. `params`, `macs`,
        `train_images`, `test_images`, `seconds`.
    history : dict
        Of each epoch `loss` and `train_top1`, on the augmented images as they were trained on,
        `test_top1`, `test_top5`, and with `evaluate_train` `train_eval_top1`.
    sessions : list of dict
        Of each stretch on equal hardware and versions `device.describe`, `epochs` and `seconds`.
    """
    recipe, device, part = run.recipe, choose_device(device), _part(run, images)
    checkpoint = None if checkpoint is None else Path(checkpoint)
    with numerics(recipe, device):
        how = (*run.normalisation, device)
        train_set = ResidentImages(part.train_images, part.train_labels, *how)
        test_set = ResidentImages(part.test_images, part.test_labels, *how)
        model, optimizer, history, sessions = _resume(run, checkpoint, device)
        steps, here = Steps(model, optimizer, recipe), describe(device)
        for epoch in range(len(history["loss"]), recipe.epochs):
            start = time.monotonic()
            try:
                found = _one_epoch(steps, train_set, test_set, run, epoch, deadline)
            except Diverged as error:
                said = f"{error} in epoch {epoch + 1}: try a lower learning rate"
                raise Diverged(said) from None
            for values, value in zip(history.values(), found, strict=True):
                values.append(value)
            if not sessions or sessions[-1] != sessions[-1] | here:
                sessions.append(here | {"epochs": [epoch + 1, epoch + 1], "seconds": 0.0})
            sessions[-1]["epochs"][1] = epoch + 1
            sessions[-1]["seconds"] += time.monotonic() - start
            if checkpoint is not None:
                _save(checkpoint, run, model, optimizer, history, sessions)
            on_epoch(epoch + 1)
    results = summary(history) | {
        "params": run.network.params,
        "macs": run.network.macs(images.image_size),
        "train_images": len(train_set),
        "test_images": len(test_set),
        "seconds": sum(session["seconds"] for session in sessions),
    }
    return results, history, sessions


def _part(run: Run, images: ImageSet) -> ImageSet:
    """Return the run's part of its images, or raise what would go wrong later."""
    if images.fingerprint != run.fingerprint:
        raise ValueError(
            f"expected {run.dataset} with fingerprint {run.fingerprint}, got {images.name} with "
            f"{images.fingerprint}: train the run on the data that it is defined on"
        )
    if run.train_images % run.recipe.batch_size == 1:
        raise ValueError(
            f"expected batches of at least 2 images (batch norm), but {run.train_images} images in "
            f"batches of {run.recipe.batch_size} leave a last one of 1: choose another batch size"
        )
    return subset(images, run.train_images, run.test_images)


def _one_epoch(steps: Steps, train_set, test_set, run: Run, epoch: int, deadline) -> list[float]:
    """Train one epoch, counted from 0, and return what it adds to the history."""
    model, recipe = steps.model, run.recipe
    loss_sum = correct = 0  # sums stay on the device: reading them would wait for it
    for scores, loss, y in steps.epoch(train_set, run.seed, epoch, deadline):
        loss_sum += loss * len(y)
        correct += (scores.argmax(1) == y).sum()
    loss, train_top1 = float(loss_sum) / len(train_set), 100 * int(correct) / len(train_set)
    if not isfinite(loss):
        raise Diverged(f"the loss is {loss}")
    if not _are_finite(model.state_dict().values()):  # the last step's have had no loss yet
        raise Diverged("weights are not finite")
    found = [loss, train_top1, *evaluate(model, test_set, recipe, deadline)]
    if recipe.evaluate_train:
        found += evaluate(model, train_set, recipe, deadline)[:1]
    return found


def _names(recipe: Recipe) -> list[str]:
    """What each epoch adds to the history, in this order."""
    extra = ["train_eval_top1"] if recipe.evaluate_train else []
    return ["loss", "train_top1", "test_top1", "test_top5", *extra]


def evaluation_batch(recipe: Recipe, device: torch.device) -> int:
    """Return how many images are evaluated at once: what takes no more memory than training."""
    if device.type == "cpu":
        return 100  # each core has a run, all one memory
    return min(500, 2 * recipe.batch_size)


@torch.no_grad()
def evaluate(
    model: nn.Module, images: ResidentImages, recipe: Recipe, deadline: float = inf
) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy in percent, on images as they are.

    Of equal scores (in bfloat16 there are many) the first class goes first, on every device.
    """
    model.eval()
    device = images.labels.device
    places = torch.tensor([1, 5], device=device)
    hits, finite = torch.zeros_like(places), torch.tensor(True, device=device)
    for x, y in until(deadline, images.plain(evaluation_batch(recipe, device))):
        scores, label = forward(model, x, recipe), y[:, None]
        own = scores.gather(1, label)
        first = torch.arange(scores.shape[1], device=device) < label
        ahead = ((scores > own) | (scores == own) & first).sum(1, keepdim=True)
        hits += (ahead < places).sum(0)
        finite &= scores.isfinite().all()
    if not finite:
        raise Diverged("scores are not finite")
    top1, top5 = (100 * hit / len(images) for hit in hits.tolist())
    return top1, top5


def _are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def build(run: Run, device: torch.device | str = "cpu") -> nn.Module:
    """Return the run's network, initialised from its seed alone: the same on every device."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed, which would seed every GPU's generator too.
        torch.default_generator.manual_seed(generator(run.seed, "init").initial_seed())
        model = run.network.build()
    return model.to(device, memory_format=FORMATS[run.recipe.memory_format])


def _save(path: Path, run: Run, model, optimizer, history: dict, sessions: list[dict]) -> None:
    """Write what a run continues from, behind its SHA-256; what is random follows from the seed."""
    state = {"run": run.id, "history": history, "sessions": sessions}
    content = io.BytesIO()
    torch.save(state | {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    write_whole(path, b"%s\n%s" % (digest.encode(), content.getbuffer()))


def _resume(run: Run, path: Path | None, device: torch.device) -> tuple:
    """Return model, optimizer, history and sessions: a checkpoint's, or those of a new run."""
    model, state = build(run), None
    try:
        if path is not None and path.exists():
            with _memory_errors(path):
                state = _load(path, run, model)
    except (OSError, MemoryError):  # nothing is damaged: the next call may well read it
        raise
    except Exception as error:  # whatever is wrong with it, the answer is to start anew
        aside = path.with_name(f"{path.name}.damaged")
        os.replace(path, aside)
        warnings.warn(
            f"expected a checkpoint of {run} in {path}, got a damaged one ({error!r:.200}): it is "
            f"kept as {aside.name}, and the run starts anew",
            stacklevel=3,
        )
        model = build(run)
    optimizer = make_optimizer(model.to(device), run.recipe)
    if state is None:
        return model, optimizer, {name: [] for name in _names(run.recipe)}, []
    own = optimizer.state_dict()["param_groups"]  # the recipe's, whatever the checkpoint says
    optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": own})
    return model, optimizer, state["history"], state["sessions"]


@contextmanager
def _memory_errors(path: Path) -> Iterator[None]:
    """Raise PyTorch's want of memory as Python's own, which says nothing of the file."""
    try:
        yield
    except RuntimeError as error:
        if "allocate memory" in str(error):  # PyTorch's own word for it
            raise MemoryError(f"expected memory for {path}, got none: {error}") from error
        raise


def read_checkpoint(path: Path) -> dict:
    """Return what a checkpoint has, on the CPU, or raise what is wrong with it."""
    digest, _, content = path.read_bytes().partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("its content has another SHA-256")
    with _memory_errors(path):
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    check_sessions(state["sessions"])
    return state


def _load(path: Path, run: Run, model: nn.Module) -> dict:
    """Load a checkpoint into a model on the CPU and return it, or raise what is wrong with it."""
    state = read_checkpoint(path)
    if state["run"] != run.id:
        raise ValueError(f"it is of run {state['run']}, not {run.id}")
    history, epochs, sessions = state["history"], len(state["history"]["loss"]), state["sessions"]
    if list(history) != _names(run.recipe) or not 0 < epochs <= run.recipe.epochs:
        raise ValueError(f"{epochs} epochs of {', '.join(history)}")
    check_history(history, epochs)
    starts, ends = ([session["epochs"][i] for session in sessions] for i in (0, 1))
    for session in sessions:
        check_number("seconds", session["seconds"])
    if [end + 1 for end in [0, *ends]] != [*starts, epochs + 1]:
        raise ValueError(f"sessions of {sessions}")
    model.load_state_dict(state["model"])
    momenta = [one["momentum_buffer"] for one in state["optimizer"]["state"].values()]
    shapes = [p.shape for p in model.parameters()] if run.recipe.momentum else []
    if [m.shape for m in momenta] != shapes or not _are_finite(
        [*state["model"].values(), *momenta]
    ):
        raise ValueError("momenta or weights that no run has")
    return state
