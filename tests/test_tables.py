"""Tables: what their cells and notes say, and how they are shown and saved."""

import io
import json
import re

import mistune
import pandas as pd
import pytest
from recording import CPU, GPU, measured, networks, timed, trained

from fredist import paths, tables
from fredist.networks import make_network
from fredist.paper import EXPERIMENTS, choose
from fredist.records import Store
from fredist.report import Table, plain, to_latex, to_markdown, to_text
from fredist.results import collect
from fredist.runs import COMPUTED

TABLES = {"table1": {"datasets": "cifar10"}, "table2": {}, "table3": {}}


def made(name="table1", profile="smoke", folder=None, **chosen):
    """Return the tables of an experiment, its choices and its frame."""
    choices = choose(name, profile, **chosen)
    frame = collect(choices, Store([folder] if folder else []))
    return tables.TABLES[name](choices, frame), choices, frame


def paper(**chosen):
    return choose("table1", "paper", **{"datasets": "cifar10", "models": "mobilenet"} | chosen)


@pytest.fixture
def mobilenets(tmp_path):
    """Records of MobileNet: the base at three seeds, uniform at two of them, reverse at chance."""
    tops = {"base": (50.0, 60.0, 40.0), "uniform": (53.0, 61.0), "reverse": (10.0, 10.0, 10.5)}
    for run in paper().runs():
        if run.seed < len(tops.get(run.template, ())):
            top1 = tops[run.template][run.seed]
            trained(run, tmp_path / "records", top1, GPU, best=top1 + 5 * (top1 > 20))
    return tmp_path / "records"


# -- Table 1


def test_table_1_has_ours_the_best_epoch_and_the_published_number(mobilenets):
    [table], *_ = made("table1", "paper", mobilenets, models="mobilenet", datasets="cifar10")
    rows = table.grid.loc["MobileNet"]
    assert rows["Base"].tolist() == ["50.00 [40.00–60.00] (3)", "55.00 [45.00–65.00] (3)", "89.52"]
    assert rows["Uniform"].tolist()[0] == "57.00 [53.00–61.00] (2 of 3)"
    assert rows["Uniform"].tolist()[2] == "91.28?"
    assert rows["Reverse-Base"].tolist()[:2] == ["10.17* [10.00–10.50] (3)"] * 2
    assert rows["Quadratic"].tolist() == ["–", "–", "89.98"]
    assert "selected on the test set, which is the paper's practice" in table.caption
    assert f"8 of 15 runs, trained on {GPU}" in table.note
    assert "1 of 3 networks are at chance" in table.note


def test_a_table_has_a_column_for_each_template_in_the_papers_order():
    [table], *_ = made(templates="uniform,base", models="vgg19,inception", datasets="cifar10")
    assert table.grid.columns.tolist() == ["Base", "Uniform"]
    assert table.grid.index.unique(0).tolist() == ["VGG-19", "Inception"]
    shown, *_ = made("table1", "paper")
    assert ["CIFAR-10 " in one.caption for one in shown] == [True, False]


def test_other_widths_have_rows_of_their_own_and_no_published_number(tmp_path):
    chosen = {"models": "vgg19", "widths": "1,0.5", "datasets": "cifar10"}
    for run in choose("table1", "smoke", **chosen).runs():
        trained(run, tmp_path, 80.0 * run.width)
    [table], *_ = made(folder=tmp_path, **chosen)
    assert table.grid["Base"].loc["VGG-19"].tolist() == ["80.00 (1)", "80.00 (1)", "93.52"]
    assert table.grid["Base"].loc["VGG-19 × 0.5"].tolist() == ["40.00 (1)", "40.00 (1)", "–"]


def test_notes_say_how_a_profile_is_not_the_papers():
    [smoke], *_ = made(datasets="digits")
    for words in (
        "0 of 20 runs",
        "scikit-learn's digits, none of the paper's sets, never flipped",
        "1 instead of 3 repetitions",
        "5 (resnet50), 2 (inception)",
        "every width multiplied by 0.0625 to 0.25",
        "Not the paper's protocol",
    ):
        assert words in smoke.note
    assert "on CIFAR-10" in smoke.caption  # where the published numbers are from
    [more], *_ = made(datasets="digits", seeds=[0, 1, 2])
    assert "0 of 60 runs" in more.note
    assert "repetitions" not in more.note
    [fewer], *_ = made("table1", "paper", datasets="cifar10", seeds=[0])
    assert "Unlike the author's released code: 1 instead of 3 repetitions." in fewer.note
    [code], *_ = made("table1", "paper", datasets="cifar10")
    assert "Unlike" not in code.note
    assert "deterministic" in code.note


# -- Tables 2 and 3


def test_table_2_sets_training_accuracy_beside_the_printed_one(tmp_path):
    choices = choose("table2", "smoke", datasets="digits", models="vgg19", templates="base")
    trained(choices.runs()[0], tmp_path, 60.0, train_top1_best=97.0, top1_best=66.0)
    [table], *_ = made(
        "table2", folder=tmp_path, datasets="digits", models="vgg19", templates="base"
    )
    assert table.grid.loc["VGG-19"]["Base"].to_dict() == {
        "training images, best epoch": "97.00 (1)",
        "published accuracy": "97.23",
        "validation top-1": "60.00 (1)",
        "validation top-5": "99.00 (1)",
        "parameters at full width": "25,047,688",
        "published millions": "25.0",
    }
    assert "on Tiny-ImageNet" in table.caption


def test_counts_come_out_to_the_printed_digit():
    (counted, *_), *_ = made("table3")
    for model in counted.grid.index.unique(0):
        rows = counted.grid.loc[model]
        ours = [f"{int(one.replace(',', '')) / 1e6:.1f}" for one in rows.loc["parameters"]]
        assert ours == rows.loc["published"].tolist()
    assert counted.grid.loc[("ResNet-50", "parameters"), "Uniform"] == "12,898,610"
    (second,), *_ = made("table2")
    for model in ("VGG-19", "MobileNet"):
        rows = second.grid.loc[model]
        whole = rows.loc["parameters at full width"]
        cut = [int(one.replace(",", "")) // 10**5 / 10 for one in whole]
        assert list(map(str, cut)) == rows.loc["published millions"].tolist()


def test_what_was_never_measured_has_no_rows_and_the_note_says_so():
    (_, memory, time), *_ = made("table3", models="vgg19")
    assert memory.grid.index.unique(1).tolist() == time.grid.index.unique(1).tolist()
    assert time.grid.index.unique(1).tolist() == ["published"]
    assert all("what was not measured has no row" in one.caption for one in (memory, time))
    assert "captions say" in memory.note
    macs = make_network("resnet50", "reverse", convention="published").macs()
    assert f"(11 TFLOPS) ResNet-50 reverse would need {2 * 64 * macs / 11e9:.0f} ms" in time.note


def test_published_costs_stand_beside_what_was_taken_in_the_same_way(tmp_path):
    for network in networks(choose("table3", "paper", models="vgg19")):
        measured(network, tmp_path, "code", 2, {"reserved_bytes": 1.25e9})
        peaks = {"allocated_peak_bytes": 2e9, "reserved_peak_bytes": 3e9}
        measured(network, tmp_path, "training", 64, peaks)
        way = {"mean_ms": 4.0, "first_ms": 900.0, "batches": 625}
        measured(network, tmp_path, "code", 16, way, quantity="time")
        measured(network, tmp_path, "synchronised", 64, timed(10.0))
    (_, memory, time), *_ = made("table3", "paper", tmp_path, models="vgg19")
    assert memory.grid["Base"].loc["VGG-19"].to_dict() == {
        "published": "1.3",
        "the code's reading": "1.25",
        "training, allocated": "2.000",
        "training, reserved": "3.000",
    }
    assert time.grid["Base"].loc["VGG-19"].to_dict() == {
        "published": "3.0?",
        "the code's way, 16": "4.00",
        "its first pass, 16": "900.0",
        "synchronised, 64": "10.00 [9.00–11.00]",
        "bound, 64": "5.00",
    }
    assert memory.note.startswith(f"Measured on {GPU}. Open")
    assert "Nothing here was taken" not in memory.note + time.note


def test_computed_memory_and_a_cpus_times_are_called_so(tmp_path):
    for network in networks(choose("table3", "paper", models="vgg19")):
        measured(network, tmp_path, "training", 64, {"tensor_peak_bytes": 1e9}, COMPUTED)
        measured(network, tmp_path, "synchronised", 16, timed(30.0), CPU)
    (_, memory, time), *_ = made("table3", "paper", tmp_path, models="vgg19")
    assert memory.grid.index.unique(1).tolist() == ["published", "training, computed"]
    assert memory.note.startswith("Computed, not measured")
    assert "Nothing here was taken as the published numbers were" in memory.note
    assert time.grid.index.unique(1).tolist() == ["published", "synchronised, 16", "bound, 16"]
    assert f"Measured on {CPU}, 2 threads." in time.note


def test_the_six_departures_have_both_filters_and_both_counts():
    table = tables.departures()
    rows = table.grid.loc["VGG-19 Quadratic"]
    assert rows.loc["equations"].tolist() == [
        "811 624 464 331 224 144 91 64 and back",
        "19,419,109",
    ]
    assert rows.loc["published", "Parameters"] == "15,779,575"
    assert table.grid.loc[("ResNet-50 Uniform", "published"), "Filters"] == "200 x4"
    assert len(table.grid) == 12
    assert "200 is typed in" in table.note


# -- shown and saved


@pytest.mark.parametrize("name", TABLES)
def test_a_terminals_lines_have_at_most_100_characters(name, tmp_path):
    for run in choose(name, "paper", seeds="0,1", **TABLES[name]).runs():
        trained(run, tmp_path, 10.0 if run.seed else 10.5, "NVIDIA " + "long name " * 12)
    shown, *_ = made(name, "paper", tmp_path, **TABLES[name])
    if name == "table1":
        shown.append(tables.departures())
    for table in shown:
        lines = to_text(table).splitlines()
        assert max(map(len, lines)) <= 100
        assert all(line == line.rstrip() for line in lines)
        assert repr(table) == to_text(table)


def test_a_terminal_of_any_encoding_shows_a_table(mobilenets):
    [table], *_ = made("table1", "paper", mobilenets, models="mobilenet", datasets="cifar10")
    for encoding, between in (("ascii", "-"), ("latin-1", "-"), ("utf-8", "–")):
        written = io.BytesIO()
        with io.TextIOWrapper(written, encoding=encoding, write_through=True) as terminal:
            tables.say_text(table, terminal)
            text = written.getvalue().decode(encoding)
        assert f"50.00 [40.00{between}60.00] (3)" in text
        assert len(text.splitlines()) == len(str(table).splitlines())
    assert plain("R² 日 \udc80 é") == "R2 ? ? e"


def test_a_notebook_shows_a_table_as_a_table(mobilenets):
    [table], *_ = made("table1", "paper", mobilenets, models="mobilenet", datasets="cifar10")
    assert table._repr_markdown_() == to_markdown(table)
    page = mistune.create_markdown(plugins=["table"])(table._repr_markdown_())
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    assert len(cells) == 3 * 7
    assert "10.17* [10.00–10.50] (3)" in cells
    assert "<em>" not in page
    assert page.count("<strong>") == 1


def test_what_markdown_and_latex_take_for_markup_is_escaped():
    grid = pd.DataFrame([["a|b_c*"]], pd.MultiIndex.from_tuples([("$x$", "<y>")]), ["50% & #1"])
    table = Table("Table 9", "a_b *c*", "~^\\{}™ é", pd.DataFrame(), grid)
    page = mistune.create_markdown(plugins=["table"])(to_markdown(table))
    assert "<td>a|b_c*</td>" in page
    assert "&lt;y&gt;" in page
    assert "a_b *c*" in page
    latex = to_latex(table)
    for words in (r"50\% \& \#1", r"\$x\$ & $<$y$>$ & a|b\_c", "TM e"):
        assert words in latex
    assert latex.isascii()


def test_tables_are_saved_by_what_was_chosen_and_the_same_bytes_each_time(tmp_path, mobilenets):
    shown, choices, frame = made("table1", "paper", mobilenets, datasets="cifar10")
    saved = tables.save(shown, choices, tmp_path / "here")
    assert [path.name for path in saved] == [f"table1-cifar10.{k}" for k in ("csv", "md", "tex")]
    first = [path.read_bytes() for path in saved]
    with pd.option_context("display.precision", 1, "display.width", 20, "display.max_rows", 2):
        again, _, _ = made("table1", "paper", mobilenets, datasets="cifar10")
        assert [p.read_bytes() for p in tables.save(again, choices, tmp_path / "there")] == first
        assert to_text(again[0]) == to_text(shown[0])
    back = pd.read_csv(saved[0])
    pd.testing.assert_series_equal(back["value"], frame["value"], rtol=1e-9)
    assert back.query("quantity == 'params_millions'")["value"].iloc[0] == 20.035018
    [part, *_] = tables.save(shown, choose("table1", "paper", models="vgg19"))
    assert part == paths.figures_folder() / "paper" / "table1-vgg19.csv"


def test_a_profile_is_best_only_when_complete_at_seed_0(tmp_path):
    runs = choose("table1", "quick", datasets="cifar10", seeds=[0]).runs()
    for run in runs[1:]:
        trained(run, tmp_path, 50.0)
    asked = ("table1", "cifar10")
    assert tables.best_profile(*asked, Store([tmp_path]), ["paper", "quick"]) is None
    trained(runs[0], tmp_path, 50.0)
    assert tables.best_profile(*asked, Store([tmp_path]), ["paper", "quick"]) == "quick"
    choices = choose("budget", "small", datasets="cifar10", seeds=[0])
    for cell in (cell for cell in choices.cells() if cell.like == "macs"):  # one of its budgets
        assert tables.best_profile("budget", "cifar10", Store([tmp_path]), ["small"]) is None
        trained(choices.run(cell, 0), tmp_path, 50.0)
    assert tables.best_profile("budget", "cifar10", Store([tmp_path]), ["small"]) == "small"


@pytest.mark.parametrize("name", TABLES)
def test_the_committed_tables_are_those_of_the_shipped_records(name, monkeypatch, tmp_path):
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path))
    cells = json.loads((paths.NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    [own] = [c["source"] for c in cells if "parameters" in c["metadata"].get("tags", [])]
    given = {}
    exec("".join(own), given)
    choices = choose(name, **{one: given[one] for one in ("profile", *EXPERIMENTS[name].choices)})
    shown = tables.TABLES[name](choices, collect(choices, Store([paths.RESULTS])))
    committed = (paths.ROOT / "paper_figures" / f"{name}{choices.suffix}.md").read_text()
    assert committed.strip() == "\n".join(map(to_markdown, shown)).strip()
