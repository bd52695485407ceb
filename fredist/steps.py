"""Training steps: a batch forward, its gradients, and into the weights; an epoch of them."""

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from math import inf

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from .batches import ResidentImages
from .device import has_bfloat16
from .recipes import Recipe

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WORTH = 20  # steps of one rate and shape on CUDA, after which a graph of them is worth its making


class OutOfTime(Exception):
    """The time limit has passed; the run continues from its last epoch at the next call."""


def until(deadline: float, batches: Iterable) -> Iterator:
    """Yield the batches as long as there is time, then raise `OutOfTime`."""
    for batch in batches:
        if time.monotonic() > deadline:
            raise OutOfTime
        yield batch


class RoundedProducts(TorchFunctionMode):
    """Within autocast to bfloat16 on a CPU without it: its products, at the speed of float32.

    A convolution or linear layer rounds to bfloat16 what comes in and what goes out, forward and
    backward, and sums in float32, as hardware does. PyTorch's own took twelve times as long.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function not in (torch.conv2d, linear):
            return function(*args, **kwargs or {})
        rounded = tree_map_only(Tensor, lambda t: t.bfloat16().float(), (args, kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return function(*rounded[0], **rounded[1]).bfloat16()

    def __exit__(self, kind, error, traceback):
        try:
            super().__exit__(kind, error, traceback)
        except RuntimeError:  # PyTorch puts it aside for each call: an interrupt there loses it
            if kind is None:
                raise


def forward(model: nn.Module, x: Tensor, recipe: Recipe) -> Tensor:
    """Return the scores (B, classes) in float32."""
    half = recipe.precision == "bfloat16"
    products = RoundedProducts() if half and not has_bfloat16(x.device) else nullcontext()
    # No cast weights are kept: they would outlive the step within a caller's own autocast.
    with torch.autocast(x.device.type, torch.bfloat16, half, cache_enabled=False), products:
        return model(x.contiguous(memory_format=FORMATS[recipe.memory_format])).float()


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's SGD over all parameters."""
    names = ("lr", "momentum", "nesterov", "weight_decay")
    return torch.optim.SGD(model.parameters(), **{name: getattr(recipe, name) for name in names})


def train_step(model, optimizer, x: Tensor, y: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Take one step; return the scores (B, classes) and the loss ()."""
    scores = forward(model, x, recipe)
    loss = cross_entropy(scores, y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return scores.detach(), loss.detach()


@cache  # each has memory of its own, for good
def _stream(device: torch.device) -> "torch.cuda.Stream":
    """The stream of a device on which graphs are captured."""
    return torch.cuda.Stream(device)


@contextmanager
def _capturing(graph: "torch.cuda.CUDAGraph", device: torch.device) -> Iterator[None]:
    """Record what is launched; a capture that fails leaves stream and allocator as they were."""
    here, pool = torch.cuda.current_stream(device), torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.stream(here), torch.cuda.graph(graph, pool=pool, stream=_stream(device)):
            yield
    except RuntimeError:
        # PyTorch 2.11 goes on allocating for it, and gives nothing back to the device any more.
        with suppress(RuntimeError):  # others have ended that themselves
            torch._C._cuda_endAllocateToPool(device.index, pool)
        raise


class Steps:
    """The steps of one model's training, on CUDA as graphs.

    A step of a small network is a thousand kernels, which take the host longer to launch than the
    GPU to run; a CUDA graph launches them as one. It is made after `WORTH` steps of one rate and
    shape, and used only if it does, bit for bit, what a plain step does; else a warning says why
    not, and steps stay plain.

    Examples
    --------
    >>> model, recipe = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), Recipe()
    >>> steps = Steps(model, make_optimizer(model, recipe), recipe)
    >>> scores, loss = steps(torch.ones(8, 1, 2, 2), torch.ones(8, dtype=torch.long))
    >>> scores.shape, loss.shape
    (torch.Size([8, 2]), torch.Size([]))
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe):
        self.model, self.optimizer, self.recipe = model, optimizer, recipe
        self.seen, self.graphs = Counter(), {}  # by rate and shape

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step; return scores and loss, which the next step may overwrite."""
        if x.device.type != "cuda":
            return train_step(self.model, self.optimizer, x, y, self.recipe)
        rate = self.optimizer.param_groups[0]["lr"]
        self.seen[key := (rate, x.shape)] += 1
        if self.seen[key] == WORTH:
            self.graphs = {k: graph for k, graph in self.graphs.items() if k[0] == rate}
            self.graphs[key] = self._graph(x.clone(), y.clone())
        if not (graph := self.graphs.get(key)):
            return train_step(self.model, self.optimizer, x, y, self.recipe)
        replay, images, labels, scores, loss = graph
        images.copy_(x)
        labels.copy_(y)
        replay()
        return scores, loss

    def epoch(
        self, images: ResidentImages, seed: int, epoch: int, deadline: float = inf
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Take the steps of an epoch, counted from 0; yield each one's scores, loss and labels."""
        recipe, step = self.recipe, epoch * -(-len(images) // self.recipe.batch_size)
        how = {"augmentation": recipe.augmentation, "pad": recipe.pad, "flip": recipe.flip}
        self.model.train()
        for x, y in until(deadline, images.augmented(recipe.batch_size, seed, epoch, **how)):
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.lr_at(epoch, step)
            yield *self(x, y), y
            step += 1

    def _graph(self, x: Tensor, y: Tensor) -> tuple | None:
        """Return a graph of a step and the tensors it reads and writes; the model stays as it is.

        Captured kernels are recorded, not run; what they read and write keeps its place in memory.
        """
        momenta = [state.get("momentum_buffer") for state in self.optimizer.state.values()]
        held = [*self.model.state_dict().values(), *(m for m in momenta if m is not None)]
        before, why = [], "other numbers"

        def restore():
            for tensor, value in zip(held, before, strict=bool(before)):
                tensor.copy_(value)

        try:
            before += [tensor.clone() for tensor in held]
            plain = train_step(self.model, self.optimizer, x, y, self.recipe)
            expected = [tensor.clone() for tensor in (*plain, *held)]
            restore()
            with _capturing(graph := torch.cuda.CUDAGraph(), x.device):
                made = train_step(self.model, self.optimizer, x, y, self.recipe)
            restore()  # should the step have run while it was to be recorded
            graph.replay()
            if all(map(torch.equal, (*made, *held), expected)):
                return graph.replay, x, y, *made
        except RuntimeError as error:  # of capturing, or of memory
            while error.__context__:  # the end of a capture that failed fails, too: what came first
                error = error.__context__
            why = (str(error) or type(error).__name__).splitlines()[0]
        finally:
            restore()
        warnings.warn(
            f"expected a CUDA graph that does what a plain step does, got {why}: this run's steps "
            "are launched kernel by kernel, which is slower",
            stacklevel=3,
        )
        return None
