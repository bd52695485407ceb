"""Tables as text and as files, and the published numbers."""

import pandas as pd
from recording import write

from fredist import report, tables
from fredist.runs import Store


def test_published_numbers_are_the_papers_with_the_damaged_ones_marked():
    table = report.published(1)
    assert len(table) == 40
    cell = table.query("dataset == 'cifar10' and model == 'mobilenet' and template == 'uniform'")
    assert cell["value"].item() == 91.28
    assert cell["doubtful"].item()
    assert table["doubtful"].sum() == 4
    assert report.published(3)["doubtful"].sum() == 6
    assert report.published(2)["doubtful"].sum() == 0


def test_text_lines_fit_a_notebook():
    for [table] in (
        tables.table1("narrow", ["cifar10"], Store([])),
        tables.table2("smoke", ["digits"], Store([])),
    ):
        assert max(map(len, report.to_text(table).splitlines())) <= 100


def test_saved_tables_hold_what_the_frame_holds(tmp_path, run):
    write(tmp_path / "records", run, 51.25)
    made = tables.table1("narrow", ["cifar10"], Store([tmp_path / "records"]))
    report.save(made, "table1", tmp_path)
    frame = pd.read_csv(tmp_path / "table1.csv")
    assert frame.query("n == 1")["top1_mean"].tolist() == [51.25]
    tex = (tmp_path / "table1.tex").read_text()
    assert "51.25 (1)" in tex
    assert r"94.18?" in tex
    assert "–" not in tex
    assert "adjustbox" in tex  # no wider than the page
    assert sorted(path.name for path in tmp_path.glob("table1.*")) == [
        "table1.csv",
        "table1.md",
        "table1.tex",
    ]
