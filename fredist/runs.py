"""Runs and measurements as values: everything that decides a result, and nothing else."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property

from .checks import check_choice, check_integer
from .data import DATASETS
from .networks import Network, make_network
from .recipes import Recipe, Setting
from .templates import exact_width

RECIPE_VERSION = 3  # raised when the same recipe comes to mean another computation
MEASUREMENT_VERSION = 2
COMPUTED = "computed"  # in place of a device: memory that is computed, not measured
# What is measured, how, and of how many images: "code" is the author's own way, whatever the
# captions say; 64 is theirs. Speeds are of a recipe's batch.
METHODS = {
    "memory": {"code": (2,), "inference": (64,), "training": (64,)},
    "time": {"code": (16,), "synchronised": (16, 64)},
    "speed": {"training": (), "evaluation": ()},
}


@dataclass(frozen=True, kw_only=True)
class _Identified:
    """What runs and measurements share: an identity over all fields but these labels.

    They are only how the network was asked for: equal filters are one run.
    """

    template: str = field(default="base", compare=False)
    width: float = field(default=1.0, compare=False)
    convention: str = field(default="published", compare=False)

    @cached_property
    def identity(self) -> dict:
        """All that decides the result, as its record has it."""
        labels = {one.name for one in fields(self) if not one.compare}
        return json.loads(canonical({k: v for k, v in asdict(self).items() if k not in labels}))

    @cached_property
    def id(self) -> str:
        """The hash over the identity, 12 hex digits."""
        return short_hash(canonical(self.identity))


@dataclass(frozen=True)
class Run(_Identified):
    """One training run. Device, thread count and versions are provenance of its record."""

    network: Network
    dataset: str
    fingerprint: str | None
    normalisation: tuple  # mean and deviation for each channel, pixels in 0..1
    recipe: Recipe
    train_images: int
    test_images: int
    seed: int
    version: int = RECIPE_VERSION

    def __post_init__(self):
        object.__setattr__(self, "seed", check_integer("seed", self.seed, least=0))

    @property
    def name(self) -> str:
        """Model, template and id: unique and readable."""
        return f"{self.network.model}-{self.template}-{self.id}"

    def chance(self, quantity: str) -> float:
        """Return the percentage that guessing stays below, by what records call an accuracy.

        Of a loss it is NaN; the best epoch is the best of so many tries.
        """
        if quantity.startswith("loss"):
            return math.nan
        images = self.train_images if quantity.startswith("train") else self.test_images
        tries = self.recipe.epochs if quantity.endswith("best") else 1
        return chance(DATASETS[self.dataset].classes, images, 5 if "top5" in quantity else 1, tries)

    def __str__(self) -> str:
        width = f" width {self.width:g}" if self.width != 1 else ""
        return f"{self.dataset} {self.network.model} {self.template}{width} seed {self.seed}"


@cache
def chance(classes: int, images: int, guesses: int = 1, tries: int = 1) -> float:
    """Return the accuracy in percent that guessing stays below, but for one time in a thousand.

    By the binomial distribution. Top-5 accuracy has five guesses; `tries` are how many accuracies
    it is the best of.

    Examples
    --------
    >>> chance(10, 10_000), chance(10, 10_000, tries=160)
    (10.95, 11.34)
    """
    from scipy.special import bdtrik  # takes half a second

    return 100 * (math.ceil(bdtrik(1 - 1e-3 / tries, images, guesses / classes)) + 1) / images


def make_run(
    setting: Setting,
    dataset: str,
    model: str,
    template: str = "base",
    *,
    seed: int = 0,
    width: float = 1.0,
    fingerprint: str | None = None,
    **options,
) -> Run:
    """Return the run of one network, as published, in a setting.

    Examples
    --------
    >>> from fredist.recipes import PROFILES
    >>> make_run(PROFILES["smoke"].cifar, "cifar10", "resnet50", "quadratic").network.filters
    (26, 4, 4, 26)
    """
    check_choice("data set", dataset, DATASETS)
    info = DATASETS[dataset]
    built = exact_width(width) * exact_width(setting.width_factor(model))
    network = make_network(model, template, built, info.classes, convention="published", **options)
    recipe = setting.recipe_for(model, template)
    train_images, test_images = setting.images(info.train, info.test)
    return Run(
        network=network,
        dataset=dataset,
        fingerprint=fingerprint or info.fingerprint,
        normalisation=(info.mean, info.std),
        recipe=replace(recipe, flip=recipe.flip and info.flip),
        train_images=train_images,
        test_images=test_images,
        seed=seed,
        template=template,
        width=float(width),
        convention="published",
    )


@dataclass(frozen=True)
class Measurement(_Identified):
    """One measurement of a network: everything that its result depends on.

    `device` is its maker's name for it, or "computed"; `threads` are the CPU's, None elsewhere.
    `method` is one of `METHODS`, `batch` a number of images.
    """

    network: Network
    image_size: int
    quantity: str
    method: str
    batch: int
    device: str
    threads: int | None
    torch: str
    version: int = MEASUREMENT_VERSION

    def __post_init__(self):
        for name in ("image_size", "batch"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name)))
        check_choice("quantity", self.quantity, METHODS)
        check_choice("method", self.method, METHODS[self.quantity])

    @property
    def name(self) -> str:
        """Model, quantity and id: unique and readable."""
        return f"{self.network.model}-{self.quantity}-{self.id}"

    def __str__(self) -> str:
        what = f"{self.method} {self.quantity} at batch {self.batch}"
        width = f" width {self.width:g}" if self.width != 1 else ""
        return f"{self.network.model} {self.template}{width}: {what}"


def canonical(value) -> str:
    """Return the one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(text: str | bytes) -> str:
    """Return the first 12 hex digits of a SHA-256."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:12]
