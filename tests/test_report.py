import dataclasses

import pandas as pd
import pytest

from fredist import experiments, report
from fredist.recipes import PROFILES
from fredist.runs import Store, make_run, write_record

DEVICE = "a device"


def write(folder, run, top1, finished="2026-01-01T00:00:00+00:00", device_type="cpu"):
    results = {"test_top1": top1, "test_top5": 99.0, "train_top1": 50.0}
    provenance = {"device": DEVICE, "device_type": device_type, "finished": finished}
    return write_record(run, results, {"loss": [1.0], "train_top1": [50.0]}, provenance, folder)


@pytest.fixture
def run():
    return make_run(PROFILES["narrow"], "cifar10", "vgg19", "uniform")


def test_published_numbers_are_the_papers_with_the_damaged_ones_marked():
    table = report.published(1)
    assert len(table) == 40
    cell = table.query("dataset == 'cifar10' and model == 'mobilenet' and template == 'uniform'")
    assert cell["value"].item() == 91.28
    assert cell["doubtful"].item()
    assert table["doubtful"].sum() == 4
    assert report.published(3)["doubtful"].sum() == 6
    assert report.published(2)["doubtful"].sum() == 0


def test_a_published_number_stands_only_beside_the_network_it_describes():
    [table] = report.table1("narrow", ["cifar10"], Store([]))
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
    [table] = report.table1("narrow", ["cifar10"], Store([tmp_path]))
    row = table.frame.set_index(["model", "template"]).loc[("vgg19", "uniform")]
    assert row[["n", "mean", "min", "max"]].tolist() == [3, 50.0, 40.0, 60.0]
    assert "50.00 [40.00–60.00] (3) · 94.24" in report.to_markdown(table)
    assert "50.00   40.00   60.00   3      94.24" in report.to_text(table)
    assert DEVICE in table.caption


def test_alternatives_of_one_run_count_once_and_the_table_says_which(tmp_path, run):
    write(tmp_path, run, 10.0)
    taken = write(tmp_path, run, 20.0, finished="2026-02-01T00:00:00+00:00", device_type="cuda")
    [table] = report.table1("narrow", ["cifar10"], Store([tmp_path]))
    row = table.frame.set_index(["model", "template"]).loc[("vgg19", "uniform")]
    assert (row["n"], row["mean"], row["records"]) == (1, 20.0, taken.name)


def test_profiles_never_mix(tmp_path, run):
    write(tmp_path, run, 50.0)
    [table] = report.table1("quick", ["cifar10"], Store([tmp_path]))
    assert table.frame["n"].sum() == 0


def test_a_profile_is_best_only_when_complete_at_seed_0(tmp_path):
    runs = experiments.table1("narrow", ["cifar10"])
    for run in runs[1:]:
        write(tmp_path, run, 50.0)
    assert report.best_profile("cifar10", Store([tmp_path])) is None
    write(tmp_path, runs[0], 50.0)
    assert report.best_profile("cifar10", Store([tmp_path])) == "narrow"
    for run in experiments.table1("quick", ["cifar10"], seeds=[0]):
        write(tmp_path, run, 70.0)
    assert report.best_profile("cifar10", Store([tmp_path])) == "quick"


def test_captions_say_how_a_profile_differs_from_the_paper():
    [narrow] = report.table1("narrow", ["cifar10"], Store([]))
    for words in (
        "epochs 4 instead of 160",
        "batch size 128 instead of 16",
        "every width multiplied by 0.05",
        "at most 25,000 train images",
        "0 of 22 runs",
        "Not the paper's protocol",
    ):
        assert words in narrow.caption
    [paper] = report.table1("paper", ["cifar10"], Store([]))
    assert "Not the paper's protocol" not in paper.caption
    assert report.differences("paper") == []
    [digits] = report.table1("smoke", ["digits"], Store([]))
    assert "handwritten digits" in digits.caption


def test_text_lines_fit_a_notebook():
    [table] = report.table1("narrow", ["cifar10"], Store([]))
    assert max(map(len, report.to_text(table).splitlines())) <= 100


def test_gains_compare_the_best_template_with_the_base(tmp_path):
    for template, top1 in (("base", 50.0), ("uniform", 53.5), ("reverse", 51.0)):
        write(tmp_path, make_run(PROFILES["narrow"], "cifar10", "vgg19", template), top1)
    [table] = report.table1("narrow", ["cifar10"], Store([tmp_path]))
    gains = report.gains(table).set_index("model")
    assert gains.loc["VGG-19"].tolist() == ["Uniform", "+3.50", "Reverse-Base", "+0.88"]
    assert gains.loc["ResNet-50"].tolist() == ["–", "–", "Negative-Quadratic", "+0.53"]


def test_saved_tables_hold_what_the_frame_holds(tmp_path, run):
    write(tmp_path / "records", run, 51.25)
    tables = report.table1("narrow", ["cifar10"], Store([tmp_path / "records"]))
    report.save(tables, "table1", tmp_path)
    frame = pd.read_csv(tmp_path / "table1.csv")
    assert frame.query("n == 1")["mean"].tolist() == [51.25]
    tex = (tmp_path / "table1.tex").read_text()
    assert "51.25 (1)" in tex
    assert r"94.18?" in tex
    assert "–" not in tex
    assert sorted(path.name for path in tmp_path.glob("table1.*")) == [
        "table1.csv",
        "table1.md",
        "table1.tex",
    ]
