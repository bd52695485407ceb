"""Which runs an experiment is made of, and the command that trains them."""

import pytest

from fredist import __main__ as command
from fredist.data import DATASETS
from fredist.experiments import (
    check_choices,
    curves,
    networks,
    resolve_datasets,
    resolve_profile,
    table1,
    table2,
)
from fredist.models import FAMILIES
from fredist.recipes import PROFILES
from fredist.templates import TEMPLATES


@pytest.fixture(autouse=True)
def no_data(tmp_path, monkeypatch):
    """No data set is at hand but the bundled one."""
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FREDIST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()


def test_table_1_has_22_networks():
    found = networks()
    assert len(found) == len(set(found)) == 22
    plain = [(model, template) for model, template, how in found if how == "equations"]
    assert plain == [(model, template) for model in FAMILIES for template in TEMPLATES]
    assert [network for network in found if network[2] == "published"] == [
        ("vgg19", "quadratic", "published"),
        ("resnet50", "uniform", "published"),
    ]


@pytest.mark.parametrize("profile", PROFILES)
def test_table_1_has_22_runs_of_each_data_set_and_seed(profile):
    runs = table1(profile, ["cifar10", "digits"])
    p = PROFILES[profile]
    assert len(runs) == len({run.id for run in runs}) == 22 * 2 * len(p.seeds)
    for dataset in ("cifar10", "digits"):
        for seed in p.seeds:
            part = [run for run in runs if (run.dataset, run.seed) == (dataset, seed)]
            assert [(run.model, run.template, run.convention) for run in part] == networks()
    for run in runs:
        assert (run.recipe, run.reduction, run.width) == (p.recipe, p.reduction, 1)
        assert run.fingerprint == DATASETS[run.dataset].fingerprint


def test_runs_are_of_the_profiles_data_sets_unless_named():
    assert {run.dataset for run in table1("paper")} == {"cifar10", "cifar100"}
    assert {run.num_classes for run in table1("paper", ["cifar100"])} == {100}


def test_table_2_has_vggs_other_head_and_tiny_imagenet(tmp_path):
    runs = table2("quick", ["tiny-imagenet-subset"], seeds=[0])
    assert [(run.model, run.template, run.convention) for run in runs] == [
        network for network in networks() if network[0] in ("vgg19", "mobilenet")
    ]
    heads = {run.model: dict(run.options).get("head") for run in runs}
    assert heads == {"vgg19": "flatten7x7", "mobilenet": None}
    assert {run.num_classes for run in runs} == {200}
    assert not {run.id for run in table2("smoke")} & {
        run.id for run in table1("smoke") if run.model == "vgg19"
    }
    assert resolve_datasets("paper", table=2) == ("tiny-imagenet",)
    assert resolve_datasets("smoke", table=2) == ("digits",)
    assert resolve_datasets("quick", ["cifar10", "tiny-imagenet-subset"], table=2) == (
        "tiny-imagenet-subset",
    )
    with pytest.raises(ValueError, match=r"expected data sets from tiny-imagenet.*got cifar10"):
        table2("quick", ["cifar10"])


def test_a_set_that_is_not_at_hand_and_has_no_known_fingerprint_has_no_records():
    assert {run.fingerprint for run in table2("paper")} == {None}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_curves_share_table_1s_runs_at_width_1(profile):
    runs = curves(profile, ["digits"], seeds=[0])
    models = {"vgg19", "mobilenet"} if profile == "smoke" else set(FAMILIES)
    widths = {1.0, 0.5, 0.25} if profile == "smoke" else {1.6, 1.3, 1.0, 0.8, 0.5, 0.25, 0.1, 0.05}
    assert {run.width for run in runs} == widths
    assert len(runs) == len({run.id for run in runs}) == len(models) * 5 * len(widths)
    shared = {run.id for run in runs} & {run.id for run in table1(profile, ["digits"])}
    assert shared == {run.id for run in runs if run.width == 1}
    assert len(shared) == len(models) * 5


def test_the_choices_limit_the_runs():
    runs = table1("paper", ["cifar100"], ["vgg19", "mobilenet"], ["uniform"], [4, 2])
    assert [(run.model, run.template, run.seed) for run in runs] == [
        ("vgg19", "uniform", 4),
        ("vgg19", "uniform", 2),
        ("mobilenet", "uniform", 4),
        ("mobilenet", "uniform", 2),
    ]
    one = table1("paper", ["cifar10"], ["vgg19"], ["base"], [2])
    assert set(one) < set(table1("paper", models=["vgg19"])) < set(table1("paper"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"profile": "papper"}, r"unknown profile 'papper' \(did you mean 'paper'\?\).*narrow"),
        ({"datasets": ["cifar"]}, r"unknown data set 'cifar'.*cifar10, cifar100"),
        ({"models": ["vgg16"]}, r"unknown model 'vgg16'.*'vgg19'\?\).*vgg19, resnet50"),
        ({"templates": ["Reverse-Base"]}, r"unknown template 'Reverse-Base'.*base, reverse"),
        ({"models": "vgg19"}, r"expected a list of model names from vgg19, .*got 'vgg19'"),
        ({"templates": []}, r"expected a list of template names from base, .*got \[\]"),
    ],
)
def test_a_wrong_name_is_an_error_that_lists_the_right_ones(wrong, message):
    with pytest.raises(ValueError, match=message):
        table1(**({"profile": "paper"} | wrong))


def test_none_is_all_and_the_order_is_kept():
    assert check_choices("letter", None, "abc") == ("a", "b", "c")
    assert check_choices("letter", ["c", "a", "c"], "abc") == ("c", "a")


def test_only_smoke_falls_back_to_the_digits_and_only_unnamed(tmp_path):
    assert resolve_datasets("smoke") == ("digits",)
    assert resolve_datasets("smoke", ["cifar10"]) == ("cifar10",)
    assert resolve_datasets("narrow") == ("cifar10",)
    assert resolve_datasets("quick") == ("cifar10", "cifar100")
    assert {run.dataset for run in table1("smoke")} == {"digits"}
    (tmp_path / "data/cifar-10-python.tar.gz").write_bytes(b"at hand, if not opened")
    assert resolve_datasets("smoke") == ("cifar10",)


def test_auto_is_paper_with_a_gpu_else_smoke(monkeypatch):
    for there, profile in ((True, "paper"), (False, "smoke")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert resolve_profile("auto") == profile
    assert resolve_profile("quick") == "quick"
    with pytest.raises(ValueError, match=r"unknown profile 'fast'.* choose from auto, paper, "):
        resolve_profile("fast")


# -- the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tabel1", "unknown experiment 'tabel1' (did you mean 'table1'?)"),
        ("table1 --profile smok", "unknown profile 'smok' (did you mean 'smoke'?)"),
        ("table1 --profile smoke --models vgg", "unknown model 'vgg'"),
        # The one profile that fetches nothing, and a seed of which no record is shipped.
        ("table1 --profile smoke --datasets cifar10 --seeds 71", "expected CIFAR-10 in one of"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, message, capsys):
    assert command.main(["train", *arguments.split()]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_the_command_trains_what_is_asked_for(own_runs, capsys):
    # Seeds of which no record is shipped, and no time to train.
    asked = "table1 --profile smoke --models vgg19,resnet50 --templates uniform --seeds 71,72"
    assert command.main(["train", *asked.split(), "--minutes", "1e-9", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "0 of 6 runs of table1 have a record" in shown  # each ResNet-50 uniform is two
    assert "6 of 6 runs left; call again to continue" in shown
    assert not list(own_runs.glob("*.json"))
