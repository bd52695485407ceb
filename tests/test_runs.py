"""Runs as values: everything that decides a result is hashed, and nothing else."""

from dataclasses import fields, replace

import pytest

from fredist.paper import choose
from fredist.recipes import PROFILES
from fredist.runs import make_run


def changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return value[:-1] if isinstance(value, tuple) else value + 1


def test_every_field_that_decides_a_result_changes_the_id(tiny):
    run, others = tiny(), []
    for field in fields(run):
        if field.name not in ("network", "recipe") and field.compare:
            others.append(replace(run, **{field.name: changed(getattr(run, field.name))}))
    others.append(replace(run, network=replace(run.network, num_classes=11)))
    recipe = {
        "epochs": 4, "lr": 0.2, "warmup_steps": 5, "lr_steps": (1,), "batch_size": 8,
        "momentum": 0.5,
        "nesterov": True, "weight_decay": 0.0, "pad": 3, "flip": True, "evaluate_train": True,
        "precision": "bfloat16", "memory_format": "channels_last",
    }  # fmt: skip
    assert {*recipe, "augmentation"} == {field.name for field in fields(run.recipe)}
    changes = [{name: value} for name, value in recipe.items()]
    for change in (*changes, {"augmentation": "resized_crop", "pad": 0}):
        others.append(replace(run, recipe=replace(run.recipe, **change)))
    ids = [run.id, *(other.id for other in others)]
    assert len(ids) == len(set(ids)) > 20


def test_how_a_network_was_asked_for_decides_nothing(tiny):
    run = tiny()
    asked = replace(run, template="reverse", width=0.3, convention="equations")
    assert asked.id == run.id
    assert asked == run
    assert hash(asked) == hash(run)


@pytest.mark.parametrize("seed", [0.0, True, None, "0", -1])
def test_a_seed_has_one_form(tiny, seed):
    with pytest.raises((TypeError, ValueError), match="integer of at least 0 as seed"):
        replace(tiny(), seed=seed)


def test_numpys_integers_are_the_same_run(tiny):
    numpy = pytest.importorskip("numpy")
    assert replace(tiny(), seed=numpy.int64(3)).id == replace(tiny(), seed=3).id


def test_all_images_and_no_limit_are_one_run():
    setting = PROFILES["paper"].cifar
    limited = replace(setting, train_images=60_000)
    runs = [make_run(one, "cifar10", "vgg19") for one in (setting, limited)]
    assert runs[0].id == runs[1].id


def test_digits_are_never_flipped():
    assert not make_run(PROFILES["smoke"].cifar, "digits", "vgg19").recipe.flip


def test_the_ids_of_shipped_results_stay():
    # Another id here means that no result shipped so far is found again.
    golden = {"paper": "620276c51e37", "small": "611a7eba3dc3", "smoke": "f204a9eb9437"}
    for profile in golden:
        run = choose("table1", profile, models="vgg19", datasets="cifar10").runs()[0]
        assert run.id == golden[profile]
