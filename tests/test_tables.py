"""Tables 1 and 2: what their cells and notes are made of."""

import dataclasses

import pandas as pd
from recording import DEVICE, write

from fredist import experiments, report, tables
from fredist.recipes import PROFILES
from fredist.runs import Store, make_run


def test_a_published_number_stands_only_beside_the_network_it_describes():
    [table] = tables.table1("narrow", ["cifar10"], Store([]))
    frame = table.frame.set_index(["model", "template", "network"])
    assert pd.isna(frame.loc[("vgg19", "quadratic", "equations"), "published"])
    assert frame.loc[("vgg19", "quadratic", "as published"), "published"] == 94.18
    assert pd.isna(frame.loc[("resnet50", "uniform", "equations"), "published"])
    assert frame.loc[("resnet50", "uniform", "as published"), "published"] == 95.08
    assert frame["published"].notna().sum() == 20
    assert len(frame) == 22


def test_cells_have_mean_min_max_and_n_over_every_seed_there_is(tmp_path, run):
    for seed, top1 in ((0, 50.0), (1, 60.0), (7, 40.0)):
        write(tmp_path, dataclasses.replace(run, seed=seed), top1)
    [table] = tables.table1("narrow", ["cifar10"], Store([tmp_path]))
    row = table.frame.set_index(["model", "template"]).loc[("vgg19", "uniform")]
    assert row[["n", "top1_mean", "top1_min", "top1_max"]].tolist() == [3, 50.0, 40.0, 60.0]
    assert table.grid.loc["VGG-19", "Uniform"] == "50.00 [40.00–60.00] (3)"
    assert "| 50.00 [40.00–60.00] (3) |" in report.to_markdown(table)
    assert "50.00  40.00  60.00  3      94.24" in report.to_text(table)
    assert DEVICE in table.note


def test_alternatives_of_one_run_count_once_and_the_table_says_which(tmp_path, run):
    write(tmp_path, run, 10.0)
    taken = write(tmp_path, run, 20.0, finished="2026-02-01T00:00:00+00:00", device_type="cuda")
    [table] = tables.table1("narrow", ["cifar10"], Store([tmp_path]))
    row = table.frame.set_index(["model", "template"]).loc[("vgg19", "uniform")]
    assert (row["n"], row["top1_mean"], row["records"]) == (1, 20.0, taken.name)


def test_profiles_never_mix(tmp_path, run):
    write(tmp_path, run, 50.0)
    [table] = tables.table1("quick", ["cifar10"], Store([tmp_path]))
    assert table.frame["n"].sum() == 0


def test_a_profile_is_best_only_when_complete_at_seed_0(tmp_path):
    runs = experiments.table1("narrow", ["cifar10"])
    for run in runs[1:]:
        write(tmp_path, run, 50.0)
    assert tables.best_profile("cifar10", Store([tmp_path])) is None
    write(tmp_path, runs[0], 50.0)
    assert tables.best_profile("cifar10", Store([tmp_path])) == "narrow"
    for run in experiments.table1("quick", ["cifar10"], seeds=[0]):
        write(tmp_path, run, 70.0)
    assert tables.best_profile("cifar10", Store([tmp_path])) == "quick"


def test_captions_say_how_a_profile_differs_from_the_paper():
    [narrow] = tables.table1("narrow", ["cifar10"], Store([]))
    for words in (
        "epochs 4 instead of 160",
        "batch size 64 instead of 16",
        "every width multiplied by 0.08",
        "at most 12,500 train images",
        "0 of 22 runs",
        "Not the paper's protocol",
    ):
        assert words in narrow.note
    [paper] = tables.table1("paper", ["cifar10"], Store([]))
    assert "Not the paper's protocol" not in paper.note
    assert tables.differences("paper") == []
    [digits] = tables.table1("smoke", ["digits"], Store([]))
    assert "handwritten digits" in digits.note


def test_gains_compare_the_best_template_with_the_base(tmp_path):
    for template, top1 in (("base", 50.0), ("uniform", 53.5), ("reverse", 51.0)):
        write(tmp_path, make_run(PROFILES["narrow"], "cifar10", "vgg19", template), top1)
    [table] = tables.table1("narrow", ["cifar10"], Store([tmp_path]))
    gains = tables.gains(table).set_index("model")
    assert gains.loc["VGG-19"].tolist() == ["Uniform", "+3.50", "Reverse-Base", "+0.88"]
    assert gains.loc["ResNet-50"].tolist() == ["–", "–", "Negative-Quadratic", "+0.53"]


# -- Table 2


def test_table_2_sets_three_accuracies_and_exact_parameters_beside_the_papers(tmp_path):
    for template in ("base", "quadratic"):
        run = experiments.table2("narrow", ["tiny-imagenet-subset"], ["vgg19"], [template])[0]
        write(tmp_path, run, 12.5)
    [table] = tables.table2("narrow", ["tiny-imagenet-subset"], Store([tmp_path]))
    frame = table.frame.set_index(["model", "template", "network"])
    base = frame.loc[("vgg19", "base", "equations")]
    assert base[["n", "top1_mean", "top5_mean", "train_mean"]].tolist() == [1, 12.5, 99.0, 50.0]
    assert frame["params"].tolist() == [  # NOTES, section 4
        25_053_192,
        20_674_888,
        19_372_560,
        27_364_495,
        20_797_749,
        20_616_712,
        3_411_976,
        2_422_952,
        2_424_176,
        3_345_031,
        2_629_232,
    ]
    by_the_equations = frame.loc[("vgg19", "quadratic", "equations")]
    assert by_the_equations["n"] == 1
    assert pd.isna(by_the_equations["published_accuracy_percent"])
    described = frame.loc[("vgg19", "quadratic", "as published")]
    assert (described["n"], described["published_accuracy_percent"]) == (0, 96.25)
    assert "subset" in table.caption
    assert "subset" in table.note


def test_table_2_is_not_made_of_table_1s_runs(tmp_path):
    write(tmp_path, experiments.table1("smoke", ["digits"], ["vgg19"], ["base"])[0], 60.0)
    [table] = tables.table2("smoke", ["digits"], Store([tmp_path]))
    assert table.frame["n"].sum() == 0  # another head
