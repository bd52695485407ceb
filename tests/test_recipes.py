"""The recipes: what the paper states, and how the profiles depart from it."""

from dataclasses import FrozenInstanceError, asdict, fields, replace
from fractions import Fraction

import numpy as np
import pytest

from fredist.data import DATASETS
from fredist.recipes import CHOICES, PROFILES, Profile, Recipe, Reduction
from fredist.runs import canonical, make_run


def differences(a, b):
    return {f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)}


def test_the_default_recipe_is_what_section_4_states():
    recipe = Recipe()
    assert (recipe.epochs, recipe.lr, recipe.batch_size) == (160, 0.1, 16)
    assert (recipe.lr_steps, recipe.pad, recipe.flip) == ((80, 120), 4, True)
    assert recipe.reported_epoch == "last"


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.1), (79, 0.1), (80, 0.01), (119, 0.01), (120, 0.001), (159, 0.001)]
)
def test_the_rate_is_a_tenth_from_epochs_80_and_120_on(epoch, lr):
    assert Recipe().lr_at(epoch) == pytest.approx(lr, rel=1e-12)


def test_without_steps_the_rate_stays():
    assert {Recipe(lr_steps=()).lr_at(epoch) for epoch in range(160)} == {0.1}


def test_the_profiles_and_their_seeds():
    assert list(PROFILES) == ["paper", "paper128", "quick", "narrow", "smoke"]
    for name in ("paper", "paper128", "quick"):
        assert PROFILES[name].seeds == (0, 1, 2)
        assert PROFILES[name].datasets == ("cifar10", "cifar100")
        assert PROFILES[name].reduction == Reduction()
    with pytest.raises(TypeError):
        PROFILES["mine"] = PROFILES["paper"]


def test_paper128_differs_in_the_batch_alone():
    paper, other = PROFILES["paper"], PROFILES["paper128"]
    assert differences(paper, other) == {"recipe"}
    assert differences(paper.recipe, other.recipe) == {"batch_size"}
    assert other.recipe.batch_size == 128


def test_quick_is_a_tenth_as_long():
    quick, whole = PROFILES["quick"].recipe, PROFILES["paper128"].recipe
    assert 10 * quick.epochs == whole.epochs
    assert tuple(10 * step for step in quick.lr_steps) == whole.lr_steps
    how = {"precision", "memory_format", "deterministic"}
    assert differences(quick, whole) == {"epochs", "lr_steps"} | how


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_can_be_trained(name):
    profile = PROFILES[name]
    assert set(profile.datasets) <= set(DATASETS)
    assert list(profile.recipe.lr_steps) == sorted(profile.recipe.lr_steps)
    assert max(profile.recipe.lr_steps) < profile.recipe.epochs
    for dataset in (*profile.datasets, "digits"):
        info = DATASETS[dataset]
        train, _ = profile.reduction.images(info.train, info.test)
        assert train % profile.recipe.batch_size != 1  # a last batch of one image


@pytest.mark.parametrize("field", CHOICES)
def test_an_unknown_choice_is_an_error_that_lists_the_right_ones(field):
    listed = ", ".join(CHOICES[field])
    with pytest.raises(ValueError, match=f"unknown {field} 'best'.*choose from {listed}"):
        Recipe(**{field: "best"})
    with pytest.raises(ValueError, match=f"unknown {field}"):
        replace(Recipe(), **{field: "best"})


def test_unknown_fields_are_errors():
    for kind in (Recipe, Reduction, Profile):
        with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
            kind(learning_rate=0.1)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 1}])
def test_no_epochs_and_batches_of_one_are_errors(wrong):
    with pytest.raises(ValueError, match="expected at least 1 epoch and batches of at least 2"):
        Recipe(**wrong)


def test_the_same_values_are_the_same_run_whatever_their_type():
    whole = Recipe(lr=1, momentum=0, weight_decay=0, epochs=np.int64(3), lr_steps=[1, np.int64(2)])
    exact = Recipe(lr=1.0, momentum=0.0, weight_decay=0.0, epochs=3, lr_steps=(1, 2))
    assert canonical(asdict(whole)) == canonical(asdict(exact))
    assert (whole, hash(whole)) == (exact, hash(exact))
    for factor in (1, Fraction(1), np.float32(1)):
        assert canonical(asdict(Reduction(factor))) == canonical(asdict(Reduction(1.0)))
    assert Reduction(np.float32(0.7)) == Reduction(Fraction(7, 10)) == Reduction(0.7)
    profiles = [Profile(recipe, (0,), ("digits",), Reduction(1)) for recipe in (whole, exact)]
    first, second = (make_run(profile, "digits", "vgg19", "base").id for profile in profiles)
    assert first == second


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (Recipe, {"epochs": 3.0}, "an integer of at least 0 as epochs, got 3.0"),
        (Recipe, {"batch_size": True}, "an integer of at least 0 as batch_size, got True"),
        (Recipe, {"pad": None}, "an integer of at least 0 as pad, got None"),
        (Recipe, {"lr": "0.1"}, "a number as lr, got '0.1'"),
        (Recipe, {"momentum": False}, "a number as momentum, got False"),
        (Recipe, {"flip": 1}, "True or False as flip, got 1"),
        (Recipe, {"deterministic": "no"}, "True or False as deterministic, got 'no'"),
        (Recipe, {"lr_steps": 80}, "a list of integers as lr_steps, got 80"),
        (Recipe, {"lr_steps": [0.5]}, "an integer of at least 0 as lr_steps, got 0.5"),
        (Recipe, {"precision": 32}, "a string as precision, got 32; choose from float32, bf"),
        (Reduction, {"width_factor": "1"}, "a number as width, got '1'"),
        (Reduction, {"train_images": 1e3}, "an integer of at least 0 as train_images, got 1000.0"),
    ],
)
def test_values_of_another_type_are_refused(kind, wrong, message):
    with pytest.raises(TypeError, match=f"expected {message}"):
        kind(**wrong)


@pytest.mark.parametrize("value", [Recipe(), Reduction(), PROFILES["paper"]])
def test_values_are_frozen_and_hashable(value):
    for field in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, None)
    assert hash(value) == hash(replace(value))
    assert asdict(value) == asdict(replace(value))


@pytest.mark.parametrize(
    ("limits", "left"),
    [((None, None), (1437, 360)), ((160, 100), (160, 100)), ((9999, 9999), (1437, 360))],
)
def test_a_reduction_limits_the_images(limits, left):
    assert Reduction(1.0, *limits).images(1437, 360) == left
