"""Which runs each table and figure is made of."""

from collections.abc import Iterable, Sequence

import torch

from .data import DATASETS, at_hand, load
from .models import FAMILIES
from .recipes import PROFILES, Profile
from .runs import Run, make_run
from .templates import TEMPLATES, check_choice

# The networks of Table 1 whose published parameter counts differ from the equations': a second
# row, with runs of its own.
AS_PUBLISHED = {"vgg19": "quadratic", "resnet50": "uniform"}


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
    p = get_profile(profile)
    runs = []
    for dataset in resolve_datasets(profile, datasets):
        for model, template, convention in networks(models, templates):
            for seed in p.seeds if seeds is None else seeds:
                runs.append(
                    make_run(
                        p,
                        dataset,
                        model,
                        template,
                        seed=seed,
                        convention=convention,
                        fingerprint=_fingerprint(dataset),
                    )
                )
    return runs


EXPERIMENTS = {"table1": table1}


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
            if AS_PUBLISHED.get(model) == template:
                result.append((model, template, "published"))
    return result


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


def resolve_datasets(profile: str, datasets: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the data sets asked for, else the profile's.

    Only the smoke profile, and only where no data set is named, falls back to scikit-learn's
    bundled digits when its own is not at hand.
    """
    if datasets is not None:
        return check_choices("data set", datasets, DATASETS)
    names = get_profile(profile).datasets
    if profile == "smoke":
        return tuple(dict.fromkeys(name if at_hand(name) else "digits" for name in names))
    return names


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


def _fingerprint(dataset: str) -> str:
    """The data set's fingerprint: a constant where it is known, else read from the data."""
    return DATASETS[dataset].fingerprint or load(dataset).fingerprint
