"""Which runs each table and figure is made of."""

from collections.abc import Iterable, Sequence
from types import MappingProxyType

import torch

from .data import DATASETS, at_hand, load
from .measurements import Network, make_network
from .models import FAMILIES
from .progress import bar
from .recipes import PROFILES, Profile
from .runs import Run, make_run
from .templates import TEMPLATES, check_choice

# The networks of Table 1 whose published parameter counts differ from the equations': a second
# row, with runs of its own.
AS_PUBLISHED = {"vgg19": "quadratic", "resnet50": "uniform"}


# Section 4's width multipliers.
WIDTHS = (1.6, 1.3, 1.0, 0.8, 0.5, 0.25, 0.1, 0.05)
# What smoke trains of Figures 2 to 4: one declared part, in minutes on two cores.
SMOKE_MODELS, SMOKE_WIDTHS = ("vgg19", "mobilenet"), (1.0, 0.5, 0.25)
TABLE2_MODELS = ("vgg19", "mobilenet")
TABLE2_DATASETS = ("tiny-imagenet", "tiny-imagenet-subset", "digits")
TABLE2_OPTIONS = {"vgg19": {"head": "flatten7x7"}}  # what fits the printed counts


def table1(
    profile: str,
    datasets: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Run]:
    """Return Table 1's runs: models x templates on each data set and seed, and the as published.

    Parameters
    ----------
    profile : str
        A name in `PROFILES`.
    datasets, models, templates, seeds : sequences, optional
        Limit the runs; None is all of the profile's or the paper's.

    Raises
    ------
    ValueError
        For a name that does not exist, listing those that do.

    Examples
    --------
    >>> len(table1("narrow", ["cifar10"]))
    22
    """
    return _runs(
        profile, resolve_datasets(profile, datasets), networks(models, templates), (1.0,), seeds
    )


def table2(
    profile: str,
    datasets: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Run]:
    """Return Table 2's runs, on Tiny-ImageNet: VGG-19 with the head that fits the printed counts.

    Examples
    --------
    >>> runs = table2("narrow", ["tiny-imagenet-subset"])
    >>> len(runs), dict(runs[0].options)["head"]
    (11, 'flatten7x7')
    """
    chosen = [name for name in TABLE2_MODELS if name in check_choices("model", models, FAMILIES)]
    return _runs(
        profile,
        resolve_datasets(profile, datasets, table=2),
        networks(chosen, templates) if chosen else [],
        (1.0,),
        seeds,
        TABLE2_OPTIONS,
    )


def table3(
    models: Sequence[str] | None = None, templates: Sequence[str] | None = None
) -> dict[tuple[str, str, str], Network]:
    """Return Table 3's networks, at full width on 32x32 images, by model, template, convention.

    Examples
    --------
    >>> len(table3()), table3()["vgg19", "uniform", "equations"].filters[:2]
    (22, (344, 344))
    """
    return {
        (model, template, convention): make_network(model, template, convention=convention)
        for model, template, convention in networks(models, templates)
    }


def curves(
    profile: str,
    datasets: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Run]:
    """Return the runs of Figures 2 to 4: Table 1's networks by the equations, at eight widths.

    The runs at width 1.0 are Table 1's own. Smoke has a declared part of them.

    Examples
    --------
    >>> len(curves("narrow", ["cifar10"])), len(curves("smoke", ["digits"]))
    (160, 30)
    """
    smoke = profile == "smoke"
    models = SMOKE_MODELS if models is None and smoke else models
    plain = [network for network in networks(models, templates) if network[2] == "equations"]
    widths = SMOKE_WIDTHS if smoke else WIDTHS
    return _runs(profile, resolve_datasets(profile, datasets), plain, widths, seeds)


EXPERIMENTS = {
    "table1": table1,
    "table2": table2,
    "figure2": curves,
    "figure3": curves,
    "figure4": curves,
}


def _runs(profile, datasets, chosen, widths, seeds, options=MappingProxyType({})) -> list[Run]:
    p = get_profile(profile)
    return [
        make_run(
            p,
            dataset,
            model,
            template,
            seed=seed,
            width=width,
            convention=convention,
            fingerprint=_fingerprint(dataset),
            **options.get(model, {}),
        )
        for dataset in datasets
        for model, template, convention in chosen
        for width in widths
        for seed in (p.seeds if seeds is None else seeds)
    ]


def networks(
    models: Sequence[str] | None = None, templates: Sequence[str] | None = None
) -> list[tuple[str, str, str]]:
    """Return Table 1's networks as (model, template, convention), in the paper's order.

    Examples
    --------
    >>> networks(["resnet50"], ["uniform"])
    [('resnet50', 'uniform', 'equations'), ('resnet50', 'uniform', 'published')]
    """
    result = []
    for model in check_choices("model", models, FAMILIES):
        for template in check_choices("template", templates, TEMPLATES):
            result.append((model, template, "equations"))
            if printed_convention(model, template) == "published":
                result.append((model, template, "published"))
    return result


def printed_convention(model: str, template: str) -> str:
    """Return the convention of the network that the paper's printed numbers are of.

    Examples
    --------
    >>> printed_convention("resnet50", "uniform"), printed_convention("resnet50", "reverse")
    ('published', 'equations')
    """
    return "published" if AS_PUBLISHED.get(model) == template else "equations"


def get_profile(name: str) -> Profile:
    """Return the profile of that name."""
    check_choice("profile", name, tuple(PROFILES))
    return PROFILES[name]


def resolve_profile(name: str = "auto") -> str:
    """Return the profile's name; "auto" is paper with a CUDA device, else smoke."""
    if name == "auto":
        return "paper" if torch.cuda.is_available() else "smoke"
    check_choice("profile", name, ("auto", *PROFILES))
    return name


def resolve_datasets(
    profile: str, datasets: Sequence[str] | None = None, table: int = 1
) -> tuple[str, ...]:
    """Return the data sets asked for, else the profile's, or for Table 2 Tiny-ImageNet.

    Only the smoke profile, and only where no data set is named, takes what is at hand: the subset
    of Tiny-ImageNet, and where nothing is, scikit-learn's bundled digits.
    """
    names, own = get_profile(profile).datasets, tuple(DATASETS)
    if table == 2:
        names, own = TABLE2_DATASETS[:1], TABLE2_DATASETS
    if datasets is not None:
        given = check_choices("data set", datasets, DATASETS)
        if not (fitting := tuple(name for name in given if name in own)):
            raise ValueError(
                f"expected data sets from {', '.join(own)} for Table {table}, got "
                f"{', '.join(given)}"
            )
        return fitting
    if profile == "smoke":
        if table == 2 and not at_hand(*names):
            names = TABLE2_DATASETS[1:2]
        return tuple(dict.fromkeys(name if at_hand(name) else "digits" for name in names))
    return names


def fetch_unknown(name: str, profile: str, datasets: Sequence[str] | None = None) -> None:
    """Fetch those of an experiment's data sets whose runs are known only with the data.

    The full Tiny-ImageNet is the one whose fingerprint is no constant.
    """
    for dataset in resolve_datasets(profile, datasets, table=2 if name == "table2" else 1):
        if DATASETS[dataset].fingerprint is None:
            load(dataset, download=profile != "smoke", progress=bar)


def check_choices(
    what: str, values: Sequence[str] | None, choices: Iterable[str]
) -> tuple[str, ...]:
    """Return `values` checked against `choices`; None is all of them."""
    choices = tuple(choices)
    if values is None:
        return choices
    if isinstance(values, str) or not values:
        raise ValueError(
            f"expected a list of {what} names from {', '.join(choices)}, got {values!r}"
        )
    for value in values:
        check_choice(what, value, choices)
    return tuple(dict.fromkeys(values))


def _fingerprint(dataset: str) -> str | None:
    """The data set's fingerprint: a constant where it is known, else read from the data at hand."""
    known = DATASETS[dataset].fingerprint
    return known if known or not at_hand(dataset) else load(dataset).fingerprint
