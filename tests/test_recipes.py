"""Recipes: the author's protocol, every field checked and in one form."""

from dataclasses import asdict, replace

import pytest

from fredist.data import DATASETS
from fredist.paper import MODELS, WIDTHS, choose
from fredist.recipes import PROFILES, Recipe, Setting, differences
from fredist.records import Store
from fredist.report import provenance
from fredist.results import collect
from fredist.runs import make_run
from fredist.templates import TEMPLATES


def test_paper_is_the_authors_released_code():
    recipe = PROFILES["paper"].cifar.recipe
    assert asdict(recipe) == {
        "epochs": 160, "lr": 0.1, "warmup_steps": 0, "lr_steps": (80, 120), "batch_size": 128,
        "momentum": 0.9,
        "nesterov": False, "weight_decay": 1e-4, "augmentation": "pad_crop", "pad": 4,
        "flip": True, "evaluate_train": False, "precision": "float32",
        "memory_format": "contiguous",
    }  # fmt: skip
    assert PROFILES["paper"].cifar.seeds == (0, 1, 2)
    assert PROFILES["paper16"].cifar.recipe == replace(recipe, batch_size=16)
    run = make_run(PROFILES["paper"].cifar, "cifar100", "vgg19")
    assert run.normalisation == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def test_table_2_has_its_own_recipe():
    batches = {
        run.template: run.recipe.batch_size
        for run in choose("table2", "paper", models="vgg19", seeds=0).runs()
    }
    assert batches == {
        "base": 256, "reverse": 16, "uniform": 128, "quadratic": 16, "negative_quadratic": 32,
    }  # fmt: skip
    recipe = PROFILES["paper"].tiny.recipe
    assert (recipe.epochs, recipe.lr, recipe.lr_steps) == (90, 0.01, (45, 67))
    assert recipe.augmentation == "resized_crop"
    assert recipe.evaluate_train


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", float("nan")), ("lr", 0), ("lr", -0.1), ("lr", "0.1"), ("lr", float("inf")),
        ("lr_steps", (120, 80)), ("lr_steps", (80, 80)), ("lr_steps", (160,)), ("lr_steps", 80),
        ("lr_steps", (80.0,)), ("epochs", 0), ("epochs", 1.0), ("batch_size", 1),
        ("momentum", 1.0), ("momentum", -0.5), ("weight_decay", float("nan")), ("pad", -1),
        ("flip", 1), ("nesterov", "no"), ("precision", "float16"), ("augmentation", "none"),
        ("memory_format", None),
    ],
)  # fmt: skip
def test_nonsense_is_an_error_that_names_the_field(field, value):
    with pytest.raises((ValueError, TypeError), match=field):
        Recipe(**{field: value})


def test_one_number_has_one_form():
    assert Recipe(lr=1, weight_decay=-0.0, lr_steps=[80, 120]) == Recipe(
        lr=1.0, weight_decay=0.0, lr_steps=(80, 120)
    )
    assert repr(Recipe(weight_decay=-0.0).weight_decay) == "0.0"


def test_combinations_that_cannot_be_used_are_errors():
    with pytest.raises(ValueError, match="momentum above 0"):
        Recipe(momentum=0.0, nesterov=True)
    with pytest.raises(ValueError, match="pad=0"):
        Recipe(augmentation="resized_crop")


def test_at_width_1_smoke_has_no_layer_with_fewer_than_four_filters():
    def flat(filters):
        return [f for one in filters for f in (one if isinstance(one, tuple) else [one])]

    for model in MODELS:
        for template in TEMPLATES:
            run = make_run(PROFILES["smoke"].cifar, "cifar10", model, template)
            assert min(flat(run.network.filters)) >= 4, (model, template)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_trains_every_network_it_names(profile):
    own = PROFILES[profile]
    for dataset in own.datasets:
        assert dataset in DATASETS
    widths = own.curve_widths or WIDTHS
    assert set(widths) <= set(WIDTHS)
    assert len(choose("figure2", profile, datasets="cifar10").runs()) == (
        len(own.curve_models or MODELS) * 5 * len(widths) * len(own.cifar.seeds)
    )


@pytest.mark.parametrize("like", ["macs", "params"])
def test_at_equal_cost_each_network_is_the_largest_within_the_bases(like):
    choices = choose("budget", "small", datasets="cifar10")
    cells = [cell for cell in choices.cells() if cell.like == like]

    def cost(cell, width):
        network = choices.run(replace(cell, width=width), 0).network
        return network.macs() if like == "macs" else network.params

    assert len(cells) == 10
    for cell in cells:
        [base] = [one for one in cells if (one.model, one.template) == (cell.model, "base")]
        most = cost(base, 1.0)
        assert cost(cell, cell.width) <= most
        if cell.template != "base":
            assert cost(cell, round(cell.width + 1e-4, 4)) > most


def test_study_a_is_small_enough_to_run_and_has_its_seeds():
    choices = choose("budget", "small", datasets="cifar10")
    assert len({run.id for run in choices.runs()}) == 10 * 5 + 10 * 2
    most = max(run.network.macs() * run.train_images * run.recipe.epochs for run in choices.runs())
    assert most < 1e14  # two hours on a busy core


def test_a_profile_says_all_that_differs_from_the_authors_code():
    said = "; ".join(differences(PROFILES["smoke"]))
    for words in (
        "epochs 8 (vgg19), 5 (resnet50)",
        "instead of 160",
        "repetitions",
        "train images",
        "width multiplied by",
    ):
        assert words in said
    assert differences(PROFILES["paper"]) == differences(PROFILES["paper"], "tiny") == []
    assert "epochs 8 instead of 160" in differences(PROFILES["smoke"], models=["vgg19"])


def test_what_the_authors_code_has_of_its_own_for_a_template_is_named_beside_what_is_in_its_place():
    """Table 2's batches are 256, 16, 128, 16 and 32 there."""
    [said] = [one for one in differences(PROFILES["quick"], "tiny") if "batch" in one]
    others = "16 (reverse, quadratic), 128 (uniform), 32 (negative quadratic)"
    assert said == f"batch size 256 instead of {others}"
    [said] = [one for one in differences(PROFILES["smoke"], "tiny") if "batch" in one]
    assert said == "batch size 16 instead of 256 (base), 128 (uniform), 32 (negative quadratic)"
    uniform = differences(PROFILES["paper16"], "tiny", templates=["uniform"])
    assert uniform == ["batch size 16 instead of 128"]


@pytest.mark.parametrize("limit", [0, -5, 2.5, True])
def test_a_limit_of_images_is_a_number_of_images(limit):
    with pytest.raises((ValueError, TypeError), match="expected an integer of at least 1 as train"):
        Setting(train_images=limit)


def test_a_template_has_the_last_word_on_a_models_change():
    setting = Setting(changes={"vgg19": {"lr": 0.05}, "uniform": {"lr": 0.01}})
    assert setting.recipe_for("vgg19", "uniform").lr == 0.01
    assert setting.recipe_for("vgg19", "base").lr == 0.05


def test_every_model_has_a_width_at_equal_cost():
    for profile in PROFILES.values():
        for kind in ("macs", "params"):
            factors = [getattr(profile, kind).width_factor(model) for model in MODELS]
            assert len({factor == 1.0 for factor in factors}) == 1  # all are narrow, or none


def test_the_caption_of_equal_budgets_speaks_of_the_settings_that_trained_them():
    choices = choose("budget", "small", datasets="cifar10")
    said = provenance(choices, collect(choices, Store([])), "cifar10")
    for like, width in (("MACs", "0.25 to 0.5"), ("parameters", "0.125 to 0.25")):
        [own] = [part for part in said.split("Unlike ") if f"at equal {like}:" in part]
        assert "epochs 15 instead of 160" in own
        assert f"every width multiplied by {width}" in own
