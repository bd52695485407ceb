"""The catalogue: one list of choices, what it makes, and the printed numbers."""

import json

import pytest

from fredist import paths
from fredist.notebook import parameters_of
from fredist.paper import EXPERIMENTS, MODELS, WIDTHS, choose
from fredist.printed import published
from fredist.recipes import PROFILES
from fredist.templates import TEMPLATES


@pytest.fixture(autouse=True)
def no_data(tmp_path, monkeypatch):
    """Choices are made, and networks counted, where no data set is."""
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path / "none"))
    return tmp_path / "none"


# -- the printed numbers


def test_published_numbers_are_the_papers_with_the_damaged_ones_marked():
    tables = {number: published(number) for number in (1, 2, 3)}
    assert [len(tables[number]) for number in (1, 2, 3)] == [40, 20, 60]
    assert [int(tables[number]["doubtful"].sum()) for number in (1, 2, 3)] == [4, 0, 7]
    cell = tables[1].query("dataset == 'cifar10' and model == 'mobilenet'").set_index("template")
    assert cell.loc["uniform", ["value", "doubtful"]].tolist() == [91.28, True]
    assert cell.loc["base", ["value", "doubtful"]].tolist() == [89.52, False]
    memory = tables[3].query("quantity == 'memory_code_gb' and model == 'resnet50'")
    assert memory.set_index("template")["value"].to_dict()["negative_quadratic"] == 3.0


def test_printed_counts_follow_from_the_networks():
    """All 30: Table 3's are rounded, Table 2's truncated (NOTES, section 4)."""
    known = json.loads((paths.PUBLISHED / "networks.json").read_text())["networks"]
    for name, cut in (("table3", round), ("table2", int)):
        choices = choose(name, "paper")
        printed = published(int(name[-1])).query("quantity == 'params_millions'")
        printed = printed.set_index(["model", "template"])["value"]
        assert len(printed) == len(choices.cells())
        for cell in choices.cells():
            params = choices.network(cell).params
            assert cut(params / 1e5) == round(10 * printed[cell.model, cell.template])
            if name == "table3":
                assert params == known[cell.model][cell.template]["parameters_10_classes"]


# -- choices


def test_the_paper_is_what_none_means():
    table1 = choose("table1", "paper")
    assert (table1.models, table1.templates, table1.widths) == (MODELS, TEMPLATES, (1.0,))
    assert table1.datasets == ("cifar10", "cifar100")
    assert len(table1.runs()) == 2 * 4 * 5 * 3
    assert choose("figure2", "paper").widths == WIDTHS
    assert len(choose("figure2", "paper").runs()) == 2 * 4 * 5 * 8 * 3
    assert choose("figure1", "paper").models == ("vgg19",)
    assert choose("figure5", "paper").templates == ("base",)
    assert choose("table3", "paper").runs() == []
    assert {choose(name, "paper").suffix for name in EXPERIMENTS} == {""}


def test_a_profile_has_a_part_of_the_curves_and_all_can_be_asked_for():
    part = choose("figure2", "smoke")
    assert part.models == PROFILES["smoke"].curve_models
    assert len(part.runs()) == len(part.models) * len(part.widths) * 5
    more = choose("figure2", "smoke", models="inception", widths=[1.6])
    assert (more.models, more.widths, more.suffix) == (("inception",), (1.6,), "-inception-1.6")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ({"models": "mobilenet,vgg19"}, {"models": ["vgg19", "mobilenet"]}),
        ({"templates": "uniform , base"}, {"templates": ("base", "uniform")}),
        ({"widths": "0.5,1"}, {"widths": [1.0, 0.5, 0.5]}),
        ({"seeds": "1,0"}, {"seeds": [0, 1]}),
        ({"seeds": "2"}, {"seeds": 2}),
        ({"datasets": "cifar100"}, {"datasets": ["cifar100"]}),
    ],
)
def test_words_of_a_command_line_and_lists_in_any_order_are_one_choice(word, value):
    assert choose("table1", "paper", **word) == choose("table1", "paper", **value)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"models": "vgg"}, "choose from vgg19, resnet50"),
        ({"models": ""}, "separated by commas"),
        ({"models": []}, "at least one of models"),
        ({"templates": "negative-quadratic"}, "did you mean 'negative_quadratic'"),
        ({"datasets": "cifar11"}, "choose from cifar10, cifar100"),
        ({"datasets": "tiny-imagenet"}, "expected data sets from cifar10, cifar100, digits"),
        ({"datasets": "cifar10,tiny-imagenet"}, "got tiny-imagenet"),
        ({"seeds": ","}, "separated by commas"),
        ({"seeds": "zero"}, "expected .*integer.* as seeds"),
        ({"seeds": [0.5]}, "expected an integer"),
        ({"widths": "0"}, "above 0 as widths"),
        ({"device": ""}, "device's name"),
        ({"device": 0}, "device's name"),
    ],
)
def test_anything_else_is_an_error_that_names_the_right_ones(chosen, message):
    with pytest.raises((ValueError, TypeError), match=message):
        choose("table1", "paper", **chosen)


def test_unknown_experiments_and_profiles_are_errors():
    with pytest.raises(ValueError, match="did you mean 'table1'"):
        choose("table-1", "paper")
    with pytest.raises(ValueError, match="did you mean 'smoke'"):
        choose("table1", "smok")


def test_a_part_has_a_suffix_and_the_whole_has_none():
    assert choose("table1", "paper", models=MODELS, seeds="2,1,0").suffix == ""
    assert choose("table1", "paper", models="vgg19", seeds=[0]).suffix == "-vgg19-seed0"
    assert choose("figure1", "paper", models="resnet50").suffix == "-resnet50"
    close = [
        choose("table1", "paper", widths=width).suffix for width in ("0.1234567", "0.12345678")
    ]
    assert close == ["-0.1234567", "-0.12345678"]
    many = [choose("table1", "paper", seeds=range(100, end)).suffix for end in (140, 140, 141)]
    assert many[0] == many[1] != many[2]
    assert many[0].startswith("-seed100-seed101-")
    assert max(map(len, many)) < 120  # a name of 255 bytes has room for more than that


def test_seeds_that_are_not_all_of_an_experiments_own_are_named():
    """At equal MACs `small` has five seeds, at equal parameters two: five of both are others."""
    own = choose("budget", "small", datasets="cifar10")
    assert (len(own.runs()), own.suffix) == (70, "")
    five = choose("budget", "small", datasets="cifar10", seeds=range(5))
    assert (len(five.runs()), five.suffix) == (100, "-seed0-seed1-seed2-seed3-seed4")


def test_a_devices_name_is_part_of_a_files():
    assert choose("table3", "paper", device="NVIDIA H100 / 80GB").suffix == "-NVIDIA_H100_80GB"


def test_what_stands_in_for_missing_data_is_named_only_where_it_was_asked_for(no_data):
    unasked = choose("table1", "smoke")
    assert (unasked.datasets, unasked.suffix) == (("digits",), "")
    asked = choose("table1", "smoke", datasets="digits")
    assert (asked.datasets, asked.suffix) == (("digits",), "-digits")
    assert choose("table1", "paper").datasets == ("cifar10", "cifar100")  # no fallback
    assert choose("table1", "smoke", datasets="cifar10").datasets == ("cifar10",)
    (no_data / "cifar10" / "train").mkdir(parents=True)  # image folders
    assert choose("table1", "smoke").datasets == ("cifar10",)


# -- what choices make


def test_table_2_is_a_row_of_the_catalogue():
    choices = choose("table2", "paper", seeds=0)
    assert choices.datasets == ("tiny-imagenet",)
    runs = {(run.network.model, run.template): run for run in choices.runs()}
    assert len(runs) == 10
    base = runs["vgg19", "base"]
    assert (base.network.head, base.network.num_classes) == ("flatten7x7", 200)
    assert base.recipe.evaluate_train
    assert base.recipe.batch_size == 256
    assert runs["vgg19", "quadratic"].recipe.batch_size == 16
    reduced = choose("table2", "smoke")
    cell = reduced.cells()[0]
    assert reduced.network(cell).params == 25_047_688  # as published, whatever is trained
    assert reduced.run(cell, 0).network.params < 10**6
    assert reduced.image_size(cell) == 64


def test_curves_cost_what_was_trained():
    choices = choose("figure3", "smoke", models="vgg19", datasets="cifar10")
    for cell in choices.cells():
        assert choices.network(cell) == choices.run(cell, 0).network
        assert choices.image_size(cell) == 32


def test_runs_are_of_the_published_networks():
    choices = choose("table1", "paper", models="resnet50", templates="uniform", seeds=0)
    assert {run.network.filters for run in choices.runs()} == {(200,) * 4}
    assert {run.convention for run in choices.runs()} == {"published"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_notebook_has_the_choices_of_its_experiment(name):
    own = [one for one in parameters_of(name) if one not in ("profile", "train")]
    assert own == list(EXPERIMENTS[name].choices)
