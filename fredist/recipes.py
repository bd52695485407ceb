"""Recipes (how one run is trained), reductions (how it is made smaller) and the five profiles.

What a profile may download, falls back to, trains unasked and is called in a caption is said here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType

from .checks import check_choice, check_flag, check_integer, check_number

CHOICES = {
    "augmentation": ("pad_crop", "resized_crop"),
    "precision": ("float32", "bfloat16"),
    "memory_format": ("contiguous", "channels_last"),
}


@dataclass(frozen=True)
class Recipe:
    """How one run is trained: SGD with a stepped learning rate on cropped and flipped images.

    The defaults are the author's released code for CIFAR. Training is always deterministic, which
    that code is not (it has cuDNN's autotuner on): a run that stops continues exactly.

    Examples
    --------
    >>> [Recipe().lr_at(epoch) for epoch in (0, 80, 120)]
    [0.1, 0.01, 0.001]
    """

    epochs: int = 160  # the text
    lr: float = 0.1  # the text
    lr_steps: tuple[int, ...] = (80, 120)  # the text: epochs at which the rate is divided by ten
    batch_size: int = 128  # the code; the text has 16
    momentum: float = 0.9  # the code
    nesterov: bool = False  # the code
    weight_decay: float = 1e-4  # the code: of all parameters
    augmentation: str = "pad_crop"  # the text; "resized_crop" is Table 2's in the code
    pad: int = 4  # the code: black pixels on each side before the crop
    flip: bool = True  # the text: horizontal, one image in two
    evaluate_train: bool = False  # each epoch, on the training images as test images are taken
    precision: str = "float32"  # without TF32; "bfloat16" is autocast
    memory_format: str = "contiguous"

    def __post_init__(self):
        for one in fields(self):
            value = getattr(self, one.name)
            if one.type is bool:
                check_flag(one.name, value)
            elif one.type is int:
                value = check_integer(one.name, value, least=0)
            elif one.type is float:
                value = check_number(one.name, value)
            elif one.name == "lr_steps":
                value = _steps(value, self.epochs)
            else:
                check_choice(one.name, value, CHOICES[one.name])
            object.__setattr__(self, one.name, value)  # in its one form: 1 and 1.0 are one run
        check_integer("epochs", self.epochs)
        check_integer("batch_size", self.batch_size, least=2)  # batch norm
        check_number("lr", self.lr, above=True)
        if not self.momentum < 1:
            raise ValueError(f"expected a momentum below 1, got {self.momentum}")
        if self.nesterov and not self.momentum:
            raise ValueError("expected a momentum above 0 with nesterov=True, got 0")
        if self.augmentation == "resized_crop" and self.pad:
            raise ValueError(f"expected pad=0 with augmentation='resized_crop', got {self.pad}")

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.lr / 10 ** sum(epoch >= step for step in self.lr_steps)


def _steps(value, epochs: int) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"expected a list of epochs as lr_steps, got {value!r}")
    steps = tuple(check_integer("lr_steps", step) for step in value)
    if list(steps) != sorted(set(steps)) or any(step >= epochs for step in steps):
        raise ValueError(f"expected rising lr_steps below {epochs} epochs, got {steps}")
    return steps


@dataclass(frozen=True)
class Reduction:
    """How a profile makes the paper's runs smaller; the defaults reduce nothing.

    `width_factors` multiply each model's widths, fixed layers too; the numbers of images are upper
    limits, the same number of every class.
    """

    width_factors: Mapping[str, float] = field(default_factory=dict)
    train_images: int | None = None
    test_images: int | None = None

    def width_factor(self, model: str) -> float:
        """Return what a model's width multipliers are multiplied by."""
        return self.width_factors.get(model, 1.0)

    def images(self, train: int, test: int) -> tuple[int, int]:
        """Return the numbers of images used of a set with `train` and `test` images.

        Examples
        --------
        >>> Reduction(train_images=1_000).images(50_000, 10_000)
        (1000, 10000)
        """
        return min(train, self.train_images or train), min(test, self.test_images or test)


@dataclass(frozen=True)
class Profile:
    """Recipes, seeds, data sets and a reduction, and how to speak of them.

    `recipe` trains CIFAR, `tiny_recipe` Table 2, whose batch the paper's code changes by template.
    """

    label: str  # what captions call it
    recipe: Recipe
    tiny_recipe: Recipe
    tiny_batch_sizes: Mapping[str, int] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    datasets: tuple[str, ...] = ("cifar10", "cifar100")
    reduction: Reduction = Reduction()
    curve_models: tuple[str, ...] | None = None  # the part of Figures 2 to 4 it has; None is all
    curve_widths: tuple[float, ...] | None = None
    protocol: bool = False  # whether its numbers may judge the paper's accuracies
    download: bool = True  # whether missing data are fetched
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # for sets not at hand
    trains: bool = True  # whether `make` trains what is missing unasked

    def recipe_for(self, tiny: bool, template: str) -> Recipe:
        """Return the recipe of CIFAR, or that of Table 2 for a template."""
        if not tiny:
            return self.recipe
        batch = self.tiny_batch_sizes.get(template, self.tiny_recipe.batch_size)
        return replace(self.tiny_recipe, batch_size=batch)


_CODE = Recipe()
# Table 2's own recipe in the author's code: 0.01 (0.1 was tried), steps at int(45) and int(67.5).
# What the paper prints is very likely accuracy on the training images, so that is measured too.
_TINY = replace(
    _CODE,
    epochs=90,
    lr=0.01,
    lr_steps=(45, 67),
    batch_size=256,
    augmentation="resized_crop",
    pad=0,
    evaluate_train=True,
)
_TINY_BATCHES = {
    "base": 256, "reverse": 16, "uniform": 128, "quadratic": 16, "negative_quadratic": 32,
}  # fmt: skip


def _shorter(recipe: Recipe, **changes) -> Recipe:
    """Return a recipe at another length with its schedule's shape."""
    epochs = changes["epochs"]  # its steps are at a half and at three quarters
    return replace(recipe, lr_steps=(epochs // 2, epochs * 3 // 4), **changes)


def _profile(label: str, tiny: dict, recipe: dict, **rest) -> Profile:
    return Profile(label, _shorter(_CODE, **recipe), _shorter(_TINY, **recipe | tiny), **rest)


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "paper": Profile("the author's released code", _CODE, _TINY, _TINY_BATCHES, protocol=True),
        # "adjusted to 16 samples to fit in GPU memory at the maximum model scaling"
        "paper16": Profile(
            "the author's released code at the text's batch of 16",
            replace(_CODE, batch_size=16),
            replace(_TINY, batch_size=16),
            protocol=True,
        ),
        # A tenth of the length, on what recent GPUs compute fastest.
        "quick": _profile(
            "a tenth of the paper's epochs",
            {"epochs": 9},
            {"epochs": 16, "precision": "bfloat16", "memory_format": "channels_last"},
        ),
        # All of CIFAR-10 on two CPU cores, an eighth of every width.
        "small": _profile(
            "a sixteenth of the paper's epochs at an eighth of the width",
            {},
            {"epochs": 10, "memory_format": "channels_last"},
            seeds=(0,),
            datasets=("cifar10",),
            reduction=Reduction(
                dict.fromkeys(("vgg19", "resnet50", "inception", "mobilenet"), 0.125)
            ),
            trains=False,  # many hours
        ),
        # Minutes on two CPU cores. Widths at which no layer has fewer than four filters, so few
        # images that only a small batch makes enough steps, and a rate at which all learn.
        "smoke": _profile(
            "a few minutes' rehearsal",
            {},
            {"epochs": 4, "lr": 0.03, "batch_size": 16, "memory_format": "channels_last"},
            seeds=(0,),
            datasets=("cifar10",),
            reduction=Reduction(
                {"vgg19": 0.0625, "resnet50": 0.0625, "inception": 0.25, "mobilenet": 0.16},
                train_images=1_440,
                test_images=1_000,
            ),
            curve_models=("vgg19", "mobilenet"),
            curve_widths=(1.0, 0.5, 0.25),
            download=False,
            fallbacks={
                "cifar10": ("digits",),
                "tiny-imagenet": ("tiny-imagenet-subset", "digits"),
            },
        ),
    }
)


def differences(profile: Profile, tiny: bool = False) -> list[str]:
    """Return how a profile differs from the author's code, in words.

    Examples
    --------
    >>> differences(PROFILES["paper16"])
    ['batch size 16 instead of 128']
    """
    code, reduction = PROFILES["paper"], profile.reduction
    pairs = zip(*(asdict(p.recipe_for(tiny, "base")).items() for p in (profile, code)), strict=True)
    said = [
        f"{name.replace('_', ' ')} {_plain(value)} instead of {_plain(stated)}"
        for (name, value), (_, stated) in pairs
        if value != stated
    ]
    if len(profile.seeds) != len(code.seeds):
        said.append(f"{len(profile.seeds)} instead of {len(code.seeds)} repetitions")
    if factors := sorted(set(reduction.width_factors.values())):
        each = f"{factors[0]:g}" + f" to {factors[-1]:g}" * (len(factors) > 1)
        said.append(f"every width multiplied by {each}")
    limits = {"train": reduction.train_images, "test": reduction.test_images}
    said += [f"at most {limit:,} {split} images" for split, limit in limits.items() if limit]
    return said


def _plain(value) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
