"""The catalogue: which networks, data and options make each table and figure.

One list of choices, checked here, means the same in make, on the command line, in papermill and in
JupyterLab, for what is trained and for what is shown.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

from . import data
from .checks import check_choice, check_choices, check_numbers
from .data import DATASETS, at_hand
from .networks import FAMILIES, Network, make_network
from .networks.budget import largest, network_cost
from .recipes import PROFILES, Profile, Setting
from .records import Store
from .runs import Run, make_run, short_hash
from .templates import TEMPLATES

MODELS = tuple(FAMILIES)
DEVICES = ("cpu", "cuda")
WIDTHS = (1.6, 1.3, 1.0, 0.8, 0.5, 0.25, 0.1, 0.05)  # section 4's width multipliers
OWN_DATASETS = ("cifar10", "cifar100", "tiny-imagenet")  # those that the paper prints numbers of
_CIFAR = ("cifar10", "cifar100", "digits")
_TINY = ("tiny-imagenet", "tiny-imagenet-subset", "digits")


@dataclass(frozen=True)
class Experiment:
    """What a table or figure is made of. `trained` and `measured` say what its numbers need.

    `datasets` are those it can be of: the first is Table 2's own, Table 1's are the profile's.
    """

    models: tuple[str, ...] = MODELS
    templates: tuple[str, ...] = TEMPLATES
    widths: tuple[float, ...] = (1.0,)
    datasets: tuple[str, ...] = ()
    heads: Mapping[str, str] = field(default_factory=dict)
    measured: tuple[str, ...] = ()  # "memory", "time"
    kinds: tuple[str, ...] = ("cifar",)  # which of a profile's settings train it
    whole: bool = False  # of all networks and seeds, whatever is chosen elsewhere

    @property
    def trained(self) -> bool:
        """Whether it shows accuracies."""
        return bool(self.datasets)

    @property
    def like(self) -> tuple[str, ...]:
        """The costs that its templates share with the base."""
        return tuple(kind for kind in self.kinds if kind in ("macs", "params"))

    @property
    def tiny(self) -> bool:
        """Whether it is Table 2, with data sets of its own."""
        return self.kinds == ("tiny",)

    @property
    def curves(self) -> bool:
        """Whether it shows several widths, of which a profile may have a part."""
        return len(self.widths) > 1

    @property
    def choices(self) -> tuple[str, ...]:
        """What there is to choose; the claims are of all networks and seeds."""
        several = not self.whole and len(self.templates) > 1
        has = {
            "datasets": self.trained,
            "models": not self.whole,
            "templates": several,
            "widths": several and (self.curves or not self.trained),
            "seeds": self.trained and not self.whole,
            "device": self.trained or bool(self.measured),
        }
        return tuple(one for one in has if has[one])


_CURVES = {"widths": WIDTHS, "datasets": _CIFAR}  # of accuracy against a cost

EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        "table1": Experiment(datasets=_CIFAR),
        "table2": Experiment(
            models=("vgg19", "mobilenet"),
            datasets=_TINY,
            heads={"vgg19": "flatten7x7"},  # what fits the printed counts
            kinds=("tiny",),
        ),
        "table3": Experiment(measured=("memory", "time")),
        "figure1": Experiment(models=("vgg19",)),
        "figure2": Experiment(**_CURVES),  # against parameters
        "figure3": Experiment(**_CURVES, measured=("memory",)),
        "figure4": Experiment(**_CURVES, measured=("time",)),
        "figure5": Experiment(templates=("base",)),
        "budget": Experiment(
            models=("vgg19", "mobilenet"), datasets=_CIFAR, kinds=("macs", "params")
        ),
        "claims": Experiment(**_CURVES, measured=("memory", "time"), whole=True),
    }
)


@dataclass(frozen=True)
class Cell:
    """One network of an experiment on one data set; `dataset` is "" where none plays a part."""

    dataset: str
    model: str
    template: str
    width: float
    like: str = ""  # the cost that the width makes equal to the base's


@dataclass(frozen=True)
class Choices:
    """What is shown, trained and measured of an experiment: the result of `choose`."""

    name: str
    profile_name: str
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    templates: tuple[str, ...]
    widths: tuple[float, ...]
    seeds: tuple[int, ...]  # none are those of the setting
    device: str | None  # cpu, cuda, or the name of a device that was measured
    suffix: str  # what tells its files from those of the whole experiment

    experiment = property(lambda self: EXPERIMENTS[self.name])
    profile = property(lambda self: PROFILES[self.profile_name])

    @property
    def here(self) -> bool:
        """Whether its device is of a kind on which things are made, not a name in records."""
        return self.device in (None, *DEVICES)

    def cells(self) -> list[Cell]:
        """Return every network on every data set, in the paper's order."""
        return [
            Cell(dataset, model, template, width, like)
            for like in self.experiment.like or ("",)
            for dataset in self.datasets or ("",)
            for model in self.models
            for template in self.templates
            for width in self._widths(like, dataset, model, template)
        ]

    def _widths(self, like: str, *cell: str) -> tuple[float, ...]:
        return (_fitting(self.profile_name, like, *cell),) if like else self.widths

    def seeds_of(self, cell: Cell) -> tuple[int, ...]:
        """Return the seeds that a cell is trained with."""
        return self.seeds or self.setting(cell.like).seeds

    def setting(self, like: str = "") -> Setting:
        """Return how the profile trains this kind of experiment, or its cells at an equal cost."""
        return getattr(self.profile, like or self.experiment.kinds[0])

    def run(self, cell: Cell, seed: int, fingerprint: str | None = None) -> Run:
        """Return a cell's run, at the profile's scale, on data at hand or of a fingerprint."""
        return make_run(
            self.setting(cell.like),
            cell.dataset,
            cell.model,
            cell.template,
            seed=seed,
            width=cell.width,
            fingerprint=data.fingerprint(cell.dataset) if fingerprint is None else fingerprint,
            head=self.experiment.heads.get(cell.model),
        )

    def runs(self, store: Store | None = None, *, making: bool = True) -> list[Run]:
        """Return all runs: none for what needs no training.

        Of data that are neither known by a fingerprint nor at hand, it is that of a store's runs.
        Where nothing is made, data at hand that were never decoded are not asked.
        """
        if not self.experiment.trained:
            return []
        cells = [(cell, seed) for cell in self.cells() for seed in self.seeds_of(cell)]
        known = {}
        for one in self.datasets:
            found = data.fingerprint(one, decode=making)
            if found is None and store is not None:
                found = store.fingerprint(one)
            known[one] = found or ""  # not None: it is not looked for again with each run
        return [self.run(*key, fingerprint=known[key[0].dataset]) for key in cells]

    def network(self, cell: Cell) -> Network:
        """Return the network whose costs are shown: on curves as trained, else as the paper has it.

        A reduced profile's Table 2 has the accuracies of small networks beside the paper's counts.
        """
        if self.experiment.curves or cell.like:
            return self.run(cell, 0, fingerprint="").network
        options = {"convention": "published", "head": self.experiment.heads.get(cell.model)}
        classes = DATASETS[self.experiment.datasets[0]].classes if self.experiment.tiny else 10
        return make_network(cell.model, cell.template, cell.width, classes, **options)

    def image_size(self, cell: Cell) -> int:
        """Return the height and width of the images that its costs are for."""
        name = self.experiment.datasets[0] if self.experiment.tiny else cell.dataset
        return DATASETS[name].size if name else 32


@cache
def _fitting(profile_name: str, like: str, dataset: str, model: str, template: str) -> float:
    """Return the largest width at which a template costs no more than the base at the same scale.

    The budget is that of `dataset`'s images and classes; the base's own width is 1.0.
    """
    setting = getattr(PROFILES[profile_name], like)

    def cost(width: float, template: str = template) -> int:
        network = make_run(setting, dataset, model, template, width=width).network
        return network_cost(network, like, DATASETS[dataset].size)

    return 1.0 if template == "base" else largest(cost, cost(1.0, "base"))


def choose(
    name: str,
    profile: str = "auto",
    *,
    datasets: Sequence[str] | str | None = None,
    models: Sequence[str] | str | None = None,
    templates: Sequence[str] | str | None = None,
    widths: Sequence[float] | str | None = None,
    seeds: Sequence[int] | str | None = None,
    device: str | None = None,
    present: Callable[[str], bool] = at_hand,
) -> Choices:
    """Return the checked choices of an experiment; None is all of the paper's or the profile's.

    "auto" is the paper's protocol with a CUDA device, else smoke. Only where no data set is named
    does a profile that has fallbacks (smoke) take one that is `present`: by default, at hand.

    Raises
    ------
    ValueError, TypeError
        For a name that does not exist, listing those that do.

    Examples
    --------
    >>> chosen = choose("table1", "smoke", models="vgg19", datasets=["digits"])
    >>> len(chosen.runs()), chosen.suffix
    (5, '-digits-vgg19')
    """
    experiment = EXPERIMENTS[check_choice("table or figure", name, EXPERIMENTS)]
    if check_choice("profile", profile, ("auto", *PROFILES)) == "auto":
        import torch  # takes seconds

        profile = "paper" if torch.cuda.is_available() else "smoke"
    own = PROFILES[profile]
    part = {"models": own.curve_models, "widths": own.curve_widths} if experiment.curves else {}
    usual = experiment.datasets[:1] if experiment.tiny else own.datasets
    given = {
        "datasets": _datasets(name, datasets),
        "models": _chosen("models", models, MODELS),
        "templates": _chosen("templates", templates, TEMPLATES),
        "widths": sorted(check_numbers("widths", widths, float) or (), reverse=True),
        "seeds": tuple(sorted(check_numbers("seeds", seeds, int) or ())),
    }
    defaults = {
        "datasets": _present(usual, own, present) if experiment.trained else (),
        "models": part.get("models") or experiment.models,
        "templates": experiment.templates,
        "widths": part.get("widths") or experiment.widths,
    }
    chosen = {what: tuple(given[what] or default) for what, default in defaults.items()}
    # What a file is called must not depend on the data at hand: a stand-in is named if asked for.
    seeds = {getattr(own, kind).seeds for kind in experiment.kinds}
    seeds = seeds.pop() if len(seeds) == 1 else ()  # else any choice is named
    words = _unusual(given, defaults | {"seeds": seeds, "datasets": usual})
    words += [] if device is None else [re.sub(r"\W+", "_", _device(device))]
    suffix = "".join(f"-{word}" for word in words)
    if len(suffix) > 120:  # no file system takes names of any length
        suffix = f"{suffix[:100]}-{short_hash(suffix)}"
    return Choices(name, profile, **chosen, seeds=given["seeds"], device=device, suffix=suffix)


def _unusual(given: Mapping[str, Sequence | None], usual: Mapping[str, Sequence]) -> list[str]:
    """Return the choices that are others than usual, in the words of a file's name."""
    return [
        f"{word:.15g}" if isinstance(word, float) else str(word)
        for what, value in given.items()
        if value and set(value) != set(usual[what])
        for word in ((f"seed{one}" for one in value) if what == "seeds" else value)
    ]


def _device(device: str) -> str:
    """Return the device asked for, unless it can be none: records are of a kind or a name."""
    if not isinstance(device, str) or not device.strip():
        raise TypeError(f"expected cpu, cuda or a device's name as device, got {device!r}")
    if re.fullmatch(r"(cpu|cuda):\d+", device):
        said = "expected cpu, cuda or a device's name as device; CUDA_VISIBLE_DEVICES chooses"
        raise ValueError(f"{said} one of several, got {device!r}")
    return device


def _chosen(what: str, values, order: Sequence[str]) -> list[str] | None:
    """Return names in the catalogue's order, however they were typed: one choice, one form."""
    if values is None:
        return None
    return sorted(check_choices(what, values, order), key=tuple(order).index)


def _present(names: Sequence[str], profile: Profile, present: Callable) -> tuple[str, ...]:
    """Return data sets, or of those that are not present what the profile falls back on."""
    chosen = []
    for name in names:
        places = (name, *profile.fallbacks.get(name, ()))
        chosen.append(next(filter(present, places), name))
    return tuple(dict.fromkeys(chosen))


def _datasets(name: str, datasets) -> tuple[str, ...] | None:
    experiment = EXPERIMENTS[name]
    given = _chosen("data sets", datasets, tuple(DATASETS))
    if given is None or not experiment.trained:
        return None
    if other := [one for one in given if one not in experiment.datasets]:
        said = f"expected data sets from {', '.join(experiment.datasets)} for {name}"
        raise ValueError(f"{said}, got {', '.join(other)}")
    return tuple(given)
