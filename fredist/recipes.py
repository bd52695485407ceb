"""Recipes (how one run is trained), reductions (how it is made smaller) and the five profiles.

Section 4 states the epochs, the learning rates, the augmentation, the batch of 16 and the three
repetitions. Everything else is open in the text; each choice is a named field here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Real
from types import MappingProxyType

from .templates import check_choice, check_flag, check_integer, exact_width

CHOICES = {
    "initialisation": ("timm", "pytorch"),
    "normalisation": ("train_mean_std",),
    "precision": ("float32", "bfloat16"),
    "memory_format": ("contiguous", "channels_last"),
    "reported_epoch": ("last",),
}


def _unify(values) -> None:
    """Give each field its one type, or raise an error: 1 and 1.0 would be two runs otherwise."""
    for field in fields(values):
        value = getattr(values, field.name)
        if field.type is bool:
            check_flag(field.name, value)
        elif field.type is int or (field.type == int | None and value is not None):
            value = check_integer(field.name, value, least=0)
        elif field.type is float:
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"expected a number as {field.name}, got {value!r}")
            value = float(value)
        elif field.type == tuple[int, ...]:
            if not isinstance(value, list | tuple):
                raise TypeError(f"expected a list of integers as {field.name}, got {value!r}")
            value = tuple(check_integer(field.name, one, least=0) for one in value)
        object.__setattr__(values, field.name, value)


@dataclass(frozen=True)
class Recipe:
    """How one run is trained: SGD with a stepped learning rate on padded, cropped, flipped images.

    Examples
    --------
    >>> [Recipe().lr_at(epoch) for epoch in (0, 80, 120)]
    [0.1, 0.01, 0.001]
    """

    # Stated in the paper.
    epochs: int = 160
    lr: float = 0.1
    lr_steps: tuple[int, ...] = (80, 120)  # epochs at which the rate is divided by ten
    batch_size: int = 16
    pad: int = 4  # "padding, random cropping": 4 black pixels, as is usual on CIFAR
    flip: bool = True  # horizontal, one image in two; never on data where left is not right
    # Open in the paper.
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4  # of all parameters
    initialisation: str = "timm"  # "timm": as timm initialises each network; "pytorch": the layers'
    normalisation: str = "train_mean_std"  # per channel, over the whole training set
    reported_epoch: str = "last"  # never the best one: that would select on the test set
    # How it is computed.
    precision: str = "float32"  # without TF32; "bfloat16" is autocast
    memory_format: str = "contiguous"
    deterministic: bool = True

    def __post_init__(self):
        _unify(self)
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError(
                "expected at least 1 epoch and batches of at least 2 images (batch norm), got "
                f"{self.epochs} and {self.batch_size}"
            )

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.lr / 10 ** sum(epoch >= step for step in self.lr_steps)


@dataclass(frozen=True)
class Reduction:
    """How a profile makes the paper's runs smaller. The defaults reduce nothing.

    `width_factor` multiplies the run's width multiplier (what templates leave fixed stays fixed);
    the numbers of images are upper limits, the same number of every class.
    """

    width_factor: float = 1.0
    train_images: int | None = None
    test_images: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "width_factor", float(exact_width(self.width_factor)))
        _unify(self)

    def images(self, train: int, test: int) -> tuple[int, int]:
        """Return the numbers of images used of a set with `train` and `test` images.

        Examples
        --------
        >>> Reduction(train_images=1_000).images(50_000, 10_000)
        (1000, 10000)
        """
        limits = (self.train_images, self.test_images)
        return tuple(
            n if limit is None else min(n, limit)
            for n, limit in zip((train, test), limits, strict=True)
        )


@dataclass(frozen=True)
class Profile:
    """A recipe, its seeds, data sets and reduction."""

    recipe: Recipe
    seeds: tuple[int, ...]
    datasets: tuple[str, ...]
    reduction: Reduction = Reduction()


_PAPER = Recipe()
# Public results of the same networks at batch 128 lie within a point of the paper's base row, so
# its batch of 16 was likely the exception for the widest networks.
_PAPER128 = replace(_PAPER, batch_size=128)
_CIFAR = ("cifar10", "cifar100")

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "paper": Profile(_PAPER, (0, 1, 2), _CIFAR),
        "paper128": Profile(_PAPER128, (0, 1, 2), _CIFAR),
        # A tenth of the length, on what recent GPUs compute fastest.
        "quick": Profile(
            replace(
                _PAPER128,
                epochs=16,
                lr_steps=(8, 12),
                precision="bfloat16",
                memory_format="channels_last",
                deterministic=False,
            ),
            (0, 1, 2),
            _CIFAR,
        ),
        # Real images on two CPU cores. One core trains the 22 networks of Table 1 at some 0.1 s an
        # image together: 4 epochs of 12,500 are about 80 core-minutes. MobileNet's layers of three
        # filters do not learn at the paper's rate in so few steps.
        "narrow": Profile(
            replace(
                _PAPER128,
                epochs=4,
                lr=0.02,
                lr_steps=(2, 3),
                batch_size=64,
                memory_format="channels_last",
            ),
            (0,),
            ("cifar10",),
            Reduction(width_factor=0.08, train_images=12_500),
        ),
        # Minutes on two CPU cores. So few images need a small batch to make enough steps; and
        # MobileNet's narrowest layers a small rate, and three filters rather than two, to learn.
        "smoke": Profile(
            replace(
                _PAPER128,
                epochs=4,
                lr=0.005,
                lr_steps=(3,),
                batch_size=16,
                memory_format="channels_last",
            ),
            (0,),
            ("cifar10",),
            Reduction(width_factor=0.08, train_images=1_440, test_images=1_000),
        ),
    }
)
