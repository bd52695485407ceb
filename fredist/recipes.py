"""Recipes (how one run is trained), settings (which runs, and how scaled down) and profiles.

What a profile may download, falls back to, trains unasked and is called in a caption is said here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from types import MappingProxyType

from .checks import check_choice, check_flag, check_integer, check_number
from .templates import TEMPLATES

VALUES = {
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
    warmup_steps: int = 0  # over which the rate rises to that, linearly from its part for one
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
                check_choice(one.name, value, VALUES[one.name])
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

    def lr_at(self, epoch: int, step: int | None = None) -> float:
        """Return the learning rate of an epoch, or at one of the run's steps, counted from 0."""
        part = 1 if step is None else min(1, (step + 1) / max(1, self.warmup_steps))
        return part * self.lr / 10 ** sum(epoch >= at for at in self.lr_steps)


def _steps(value, epochs: int) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"expected a list of epochs as lr_steps, got {value!r}")
    steps = tuple(check_integer("lr_steps", step) for step in value)
    if list(steps) != sorted(set(steps)) or any(step >= epochs for step in steps):
        raise ValueError(f"expected rising lr_steps below {epochs} epochs, got {steps}")
    return steps


@dataclass(frozen=True)
class Setting:
    """How the runs of one kind of experiment are trained, and made smaller than the paper's.

    `changes` has what a model or a template changes of the recipe. `width_factors` multiply each
    model's widths, fixed layers too; the numbers of images are upper limits, the same number of
    every class. The defaults reduce nothing.
    """

    recipe: Recipe = Recipe()
    changes: Mapping[str, Mapping] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    width_factors: Mapping[str, float] = field(default_factory=dict)
    train_images: int | None = None
    test_images: int | None = None

    def __post_init__(self):
        for name in ("train_images", "test_images"):
            if (limit := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_integer(name, limit))

    def recipe_for(self, model: str, template: str) -> Recipe:
        """Return the recipe of a model's runs under a template, whose changes come last."""
        changes = {**self.changes.get(model, {}), **self.changes.get(template, {})}
        return replace(self.recipe, **changes)

    def width_factor(self, model: str) -> float:
        """Return what a model's width multipliers are multiplied by."""
        return self.width_factors.get(model, 1.0)

    def images(self, train: int, test: int) -> tuple[int, int]:
        """Return the numbers of images used of a set with `train` and `test` images.

        Examples
        --------
        >>> Setting(train_images=1_000).images(50_000, 10_000)
        (1000, 10000)
        """
        return min(train, self.train_images or train), min(test, self.test_images or test)


@dataclass(frozen=True)
class Profile:
    """Settings and data sets, and how to speak of them.

    `cifar` is for most, `tiny` for Table 2, `macs` and `params` are for networks at equal cost.
    """

    label: str  # what captions call it
    cifar: Setting
    tiny: Setting
    macs: Setting
    params: Setting
    datasets: tuple[str, ...] = ("cifar10", "cifar100")
    curve_models: tuple[str, ...] | None = None  # the part of Figures 2 to 4 it has; None is all
    curve_widths: tuple[float, ...] | None = None
    protocol: bool = False  # whether its numbers may judge the paper's accuracies
    download: bool = True  # whether missing data are fetched
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # for sets not at hand
    trains: bool = True  # whether `make` trains what is missing unasked


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
# What CPUs that have bfloat16 compute fastest: it halves the memory that batch norms wait for, but
# the backward pass of depthwise convolutions is slower in it.
_FAST = {"precision": "bfloat16", "memory_format": "channels_last"}
_FLOAT32 = {"mobilenet": {"precision": "float32"}}
_MODELS = ("vgg19", "resnet50", "inception", "mobilenet")


def _shorter(recipe: Recipe, **changes) -> Recipe:
    """Return a recipe at another length with its schedule's shape."""
    epochs = changes["epochs"]  # its steps are at a half and at three quarters
    return replace(recipe, lr_steps=(epochs // 2, epochs * 3 // 4), **changes)


def _protocol(label: str, changes: Mapping = MappingProxyType({}), **recipe) -> Profile:
    cifar = Setting(replace(_CODE, **recipe))
    tiny = Setting(replace(_TINY, **recipe), changes)
    return Profile(label, cifar, tiny, cifar, cifar, protocol=True)


def _profile(label: str, recipe: dict, setting: dict, tiny: dict | None = None, **rest) -> Profile:
    """Return a profile of shorter runs, of which Table 2's and those at equal cost may differ."""
    cifar = Setting(_shorter(_CODE, **recipe), **setting)
    own = _shorter(_TINY, **recipe | (tiny or {}))
    # Of what models change only the precision is not CIFAR's own.
    of_tiny = replace(cifar, recipe=own, changes=cifar.changes if "precision" in recipe else {})
    equal = {"macs": cifar, "params": cifar}
    return Profile(label, cifar, of_tiny, **equal | rest)


# All of CIFAR-10 at the author's rate and batch.
_SMALL15 = _shorter(_CODE, epochs=15, **_FAST)
_SMALL = {"width_factors": dict.fromkeys(_MODELS, 0.125), "changes": _FLOAT32}

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "paper": _protocol(
            "the author's released code",
            {template: {"batch_size": size} for template, size in _TINY_BATCHES.items()},
        ),
        # "adjusted to 16 samples to fit in GPU memory at the maximum model scaling"
        "paper16": _protocol("the author's released code at the text's batch of 16", batch_size=16),
        # A tenth of the length, on what recent GPUs compute fastest.
        "quick": _profile(
            "a tenth of the paper's epochs", {"epochs": 16} | _FAST, {}, {"epochs": 9}
        ),
        # The studies on CPUs, many hours.
        "small30": _profile(
            "narrow networks on all images, longer than small",
            {"epochs": 30} | _FAST,
            _SMALL,
            datasets=("cifar10",),
            trains=False,
        ),
        "small": _profile(
            "narrow networks on all images",
            {"epochs": 10} | _FAST,
            _SMALL,
            {"epochs": 90},  # the author's: images are not learnt by heart in fewer
            macs=Setting(
                _SMALL15,
                _FLOAT32,
                (0, 1, 2, 3, 4),
                dict.fromkeys(_MODELS, 0.25) | {"mobilenet": 0.5},
            ),
            # At a base twice as wide MobileNet reverse would take four hours.
            params=Setting(
                _SMALL15, _FLOAT32, (0, 1), dict.fromkeys(_MODELS, 0.125) | {"mobilenet": 0.25}
            ),
            datasets=("cifar10",),
            curve_models=("vgg19", "mobilenet"),
            curve_widths=(1.3, 1.0, 0.5, 0.25),
            fallbacks={"tiny-imagenet": ("tiny-imagenet-subset",)},
            trains=False,
        ),
        # Minutes on two CPU cores. Widths at which no layer of Tables 1 and 2 has fewer than four
        # filters (the narrowest of the curves and of equal budgets have one or two), so few images
        # that only a small batch makes enough steps, and epochs after which each network has learnt
        # the digits: at least 80% of them were right.
        "smoke": _profile(
            "a few minutes' rehearsal",
            {
                "epochs": 5,
                "lr": 0.05,
                "warmup_steps": 60,
                "batch_size": 16,
                "memory_format": "channels_last",
            },
            {
                "changes": {
                    "vgg19": {"epochs": 8, "lr_steps": (6, 7)},
                    "resnet50": {"lr_steps": (3, 4)},
                    "inception": {"epochs": 2, "lr_steps": (1,)},
                    "mobilenet": {"epochs": 6, "lr_steps": (4, 5)},
                },
                "seeds": (0,),
                "width_factors": dict(zip(_MODELS, (0.0625, 0.0625, 0.25, 0.16), strict=True)),
                "train_images": 1_440,
                "test_images": 1_000,
            },
            {"epochs": 4, "lr": 0.03},
            datasets=("cifar10",),
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


def differences(
    profile: Profile,
    kind: str = "cifar",
    models: Sequence[str] = _MODELS,
    templates: Sequence[str] = TEMPLATES,
    seeds: Sequence[int] = (),
) -> list[str]:
    """Return how a profile's setting of a kind differs from the author's code, in words.

    `seeds` are those asked for, if they are others than the setting's.

    Examples
    --------
    >>> differences(PROFILES["paper16"])
    ['batch size 16 instead of 128']
    """
    own, code = getattr(profile, kind), getattr(PROFILES["paper"], kind)
    cells = list(product(models, templates))
    recipes = [[asdict(s.recipe_for(*cell)) for s in (own, code)] for cell in cells]
    said = []
    for name in recipes[0][0]:
        where = {}  # each value, and what it is in place of
        for cell, pair in zip(cells, recipes, strict=True):
            value, stated = (recipe[name] for recipe in pair)
            if value != stated:
                where.setdefault((value, stated), []).append(cell)
        if where:
            said.append(f"{name.replace('_', ' ')} {_instead(where, cells)}")
    if (n := len(seeds or own.seeds)) != len(code.seeds):
        said.append(f"{n} instead of {len(code.seeds)} repetitions")
    factors = sorted({own.width_factor(model) for model in models})
    if factors != [1.0]:
        each = f"{factors[0]:g}" + f" to {factors[-1]:g}" * (len(factors) > 1)
        said.append(f"every width multiplied by {each}")
    limits = {"train": own.train_images, "test": own.test_images}
    said += [f"at most {limit:,} {split} images" for split, limit in limits.items() if limit]
    return said


def _instead(where: Mapping[tuple, list], cells: list) -> str:
    """Return values in place of others, each once, and of which networks if not of all."""
    values, stated = (list(dict.fromkeys(part)) for part in zip(*where, strict=True))
    every, said = [set(part) for part in zip(*cells, strict=True)], []
    for (value, replaced), some in where.items():
        parts = (list(dict.fromkeys(part)) for part in zip(*some, strict=True))
        only = [
            one for part, all_ in zip(parts, every, strict=True) if {*part} < all_ for one in part
        ]
        of = f" ({', '.join(map(_plain, only))})" if only else ""
        said.append(_plain(replaced if len(values) == 1 else value) + of)
    if len(values) == 1:
        return f"{_plain(values[0])} instead of {', '.join(said)}"
    return f"{', '.join(said)} instead of {', '.join(map(_plain, stated))}"


def _plain(value) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
