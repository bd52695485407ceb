"""The training loop: one run in, its results out, resumable after every epoch."""

import ctypes
import os
import platform
import time
import uuid
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import conv2d, cross_entropy

from .augment import ResidentImages, channel_statistics, generator
from .data import ImageSet, subset
from .models import create_model
from .recipes import Recipe
from .runs import Run

_EVAL_BATCH = 500
_CPU_EVAL_BATCH = 100  # each core has a run of its own, and their memory is shared


class OutOfTime(Exception):
    """The time limit has passed; the run continues from its last epoch at the next call."""


class Diverged(ArithmeticError):
    """The loss or a weight is no longer a finite number."""


@dataclass
class Progress:
    """What has been done of a run: filled epoch by epoch, saved in the checkpoint."""

    epoch: int = 0
    seconds: float = 0.0
    sessions: int = 0
    history: dict[str, list[float]] = field(default_factory=lambda: {"loss": [], "train_top1": []})


def train(
    run: Run,
    images: ImageSet,
    device: torch.device | str = "cpu",
    *,
    checkpoint: Path | None = None,
    deadline: float = float("inf"),
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> tuple[dict[str, float], Progress]:
    """Train one run to its end and return its results and how it went.

    Section 4's experiment: SGD with a stepped learning rate, top-1 and top-5 accuracy on the whole
    test split after the last epoch.

    Parameters
    ----------
    run : Run
    images : ImageSet
        The data set as loaded; the run's reduction is applied here.
    device : torch.device or str
    checkpoint : Path, optional
        Written after every epoch, never half; where it exists the run continues from it, and ends
        as it would have ended uninterrupted.
    deadline : float
        As `time.monotonic()`; `OutOfTime` once it has passed.
    on_epoch : callable
        Called with the number of finished epochs.

    Returns
    -------
    results : dict
        `test_top1`, `test_top5`, `train_top1` in percent (the last over the last epoch's augmented
        images, as they were trained on), `test_images` and `train_images`.
    progress : Progress
        Seconds taken and the loss and training accuracy of each epoch.
    """
    recipe = run.recipe
    device = torch.device(device)
    if images.fingerprint != run.fingerprint:
        raise ValueError(
            f"expected {run.dataset} with fingerprint {run.fingerprint}, got {images.name} with "
            f"{images.fingerprint}: the data are not the ones this run is defined on"
        )
    mean, std = channel_statistics(images.train_images)  # of the whole set, whatever the reduction
    part = subset(images, *run.reduction.images(len(images.train_labels), len(images.test_labels)))
    train_set = ResidentImages(part.train_images, part.train_labels, mean, std, device)
    test_set = ResidentImages(part.test_images, part.test_labels, mean, std, device)
    if len(train_set) % recipe.batch_size == 1:
        raise ValueError(
            f"expected batches of at least 2 images (batch norm), but {len(train_set)} images in "
            f"batches of {recipe.batch_size} leave a last one of 1; choose another batch size"
        )
    with numerics(recipe, device):
        model = build(run, device)
        optimizer = make_optimizer(model, recipe)
        progress = _resume(checkpoint, run, model, optimizer, device)
        progress.sessions += 1
        while progress.epoch < recipe.epochs:
            start = time.monotonic()
            batches = train_set.augmented(
                recipe.batch_size,
                run.seed,
                progress.epoch,
                padding=recipe.pad,
                flip=recipe.flip and images.flip,
            )
            loss, top1 = train_epoch(model, optimizer, batches, recipe, progress.epoch, deadline)
            progress.epoch += 1
            progress.seconds += time.monotonic() - start
            progress.history["loss"].append(loss)
            progress.history["train_top1"].append(top1)
            if checkpoint is not None:
                _save(checkpoint, run, model, optimizer, progress)
            on_epoch(progress.epoch)
        top1, top5 = evaluate(model, test_set, recipe)
    results = {
        "test_top1": top1,
        "test_top5": top5,
        "train_top1": progress.history["train_top1"][-1],
        "test_images": len(test_set),
        "train_images": len(train_set),
    }
    return results, progress


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    recipe: Recipe,
    epoch: int,
    deadline: float = float("inf"),
) -> tuple[float, float]:
    """Train one epoch; return its mean loss and its training accuracy in percent."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr_at(epoch)
    model.train()
    loss_sum = correct = count = 0  # sums stay on the device: reading them would wait for it
    for x, y in batches:
        if time.monotonic() > deadline:
            raise OutOfTime
        logits, loss = train_step(model, optimizer, x, y, recipe)
        loss_sum += loss.detach() * len(y)
        correct += (logits.detach().argmax(1) == y).sum()
        count += len(y)
    mean_loss = float(loss_sum) / count
    if not mean_loss < float("inf"):
        raise Diverged(f"the loss of epoch {epoch + 1} is {mean_loss}: try a lower learning rate")
    # The last step's weights have had no loss yet.
    if not torch.stack([value.isfinite().all() for value in model.state_dict().values()]).all():
        raise Diverged(f"weights are not finite after epoch {epoch + 1}: try a lower learning rate")
    return mean_loss, 100 * int(correct) / count


def train_step(model, optimizer, x, y, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one step; return the logits (B, classes) and the loss ()."""
    x = x.contiguous(memory_format=memory_format(recipe))
    with autocast(recipe, x.device):
        logits = model(x)
        loss = cross_entropy(logits.float(), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return logits, loss


@torch.no_grad()
def evaluate(model: nn.Module, images: ResidentImages, recipe: Recipe) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy in percent."""
    model.eval()
    top1 = top5 = 0
    on_cpu = next(model.parameters()).device.type == "cpu"
    for x, y in images.plain(_CPU_EVAL_BATCH if on_cpu else _EVAL_BATCH):
        with autocast(recipe, x.device):
            logits = model(x.contiguous(memory_format=memory_format(recipe)))
        best = logits.float().topk(min(5, logits.shape[1]), dim=1).indices
        hits = best == y[:, None]
        top1 += hits[:, 0].sum()
        top5 += hits.sum()
    return 100 * int(top1) / len(images), 100 * int(top5) / len(images)


def build(run: Run, device: torch.device | str = "cpu") -> nn.Module:
    """Return the run's network, initialised from its seed alone: the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(run.seed, "init").initial_seed())
        model = create_model(
            run.model,
            run.template,
            run.built_width,
            run.num_classes,
            convention=run.convention,
            **dict(run.options),
        )
        if model.filters != run.filters:
            raise ValueError(
                f"expected {run.model} {run.template} with filters {run.filters}, as its run says, "
                f"but this version of fredist builds {model.filters}"
            )
        if run.recipe.initialisation == "pytorch":
            for module in model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
    return model.to(device, memory_format=memory_format(run.recipe))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's SGD over all parameters."""
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def memory_format(recipe: Recipe) -> torch.memory_format:
    """Return the recipe's memory format as PyTorch's own."""
    return {"contiguous": torch.contiguous_format}.get(recipe.memory_format, torch.channels_last)


def autocast(recipe: Recipe, device: torch.device):
    """Return the context in which the recipe's forward passes run."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")


@contextmanager
def numerics(recipe: Recipe, device: torch.device):
    """Set the recipe's determinism and precision for the time of a run."""
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    # cuBLAS is deterministic only with this workspace, read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(recipe.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid, and slow
    threads = torch.get_num_threads()
    torch.set_num_threads(thread_count(device))
    if device.type == "cpu":
        keep_freed_memory()
    try:
        with (
            warnings.catch_warnings(),
            cudnn.flags(
                enabled=True,
                benchmark=not recipe.deterministic,
                deterministic=recipe.deterministic,
                allow_tf32=False,
            ),
        ):
            # warn_only, and silently: 7x7 adaptive pooling has no deterministic backward on CUDA.
            warnings.filterwarnings("ignore", ".*does not have a deterministic implementation")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]
        torch.set_num_threads(threads)
        if device.type == "cpu":
            return_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep freed tensors' memory instead of giving it back to the system.

    By default each activation above some megabytes is mapped anew, page fault by page fault:
    without that, training narrow networks on a CPU was measured up to 1.6 times as fast.
    """
    if libc := _glibc():
        libc.mallopt(-4, 0)  # M_MMAP_MAX: nothing is mapped
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: nothing is given back


def return_freed_memory() -> None:
    """Give the system what `keep_freed_memory` has kept, for the processes beside this one."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def thread_count(device: torch.device) -> int:
    """Return the number of CPU threads a run uses: on a CPU one, so that cores change no result.

    Sums are rounded in another order by another number of threads. Two threads were measured to
    be hardly faster on narrow networks anyway, and with channels-last PyTorch 2.15's backward pass
    of ResNet-50 quadratic at width 0.05 writes out of bounds with them. `train_missing` uses the
    other cores for other runs.
    """
    return 1 if device.type == "cpu" else torch.get_num_threads()


def choose_device(name: str | None = None) -> torch.device:
    """Return the device of that name, by default CUDA where there is one, after one convolution.

    A build of PyTorch can list a GPU that it has no code for; the convolution tells.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        image = torch.ones(1, 1, 3, 3, device=device)
        conv2d(image, image).sum().item()
    except (RuntimeError, AssertionError) as error:
        raise RuntimeError(
            f"expected a device that can run a convolution, but {device} with PyTorch "
            f"{torch.__version__} cannot: {str(error).splitlines()[0]}. The default build supports "
            "recent GPUs only: install a PyTorch that supports yours, then `make setup "
            "TORCH=system`, or train on the CPU (CUDA_VISIBLE_DEVICES= make ...)"
        ) from error
    return device


def _save(path: Path, run: Run, model, optimizer, progress: Progress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sibling = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        torch.save(
            {
                "run": run.id,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "progress": vars(progress),
            },
            sibling,
        )
        os.replace(sibling, path)
    finally:
        sibling.unlink(missing_ok=True)


def _resume(path: Path | None, run: Run, model, optimizer, device) -> Progress:
    if path is None or not path.exists():
        return Progress()
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"expected a checkpoint in {path}, but it cannot be read ({error}); delete it to start "
            "the run anew"
        ) from error
    if state["run"] != run.id:
        raise ValueError(f"expected a checkpoint of run {run.id} in {path}, got {state['run']}")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])
