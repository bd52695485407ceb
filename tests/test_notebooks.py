"""What nbval does not prove: that the committed notebooks ran, and hold what is checked."""

import ast
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest

from fredist import paths

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
CHECK = "nbval-check-output"


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def texts(cell):
    """Return all the text a reader sees below a cell."""
    shown = [o.text for o in cell.outputs if o.output_type == "stream"]
    return shown + [o.data["text/plain"] for o in cell.outputs if "data" in o]


def copy_of_the_checkout(folder):
    """Copy what a notebook reads; return the environment in which the copy is imported."""
    for name in ("fredist", "notebooks", "results"):
        shutil.copytree(paths.ROOT / name, folder / name)
    return os.environ | {"PYTHONPATH": str(folder), "FREDIST_FIGURES": str(folder / "figures")}


def check(path, **options):
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", str(path)]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, **options)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestCommitted:
    def test_it_was_executed_in_order(self, path):
        counts = [cell.execution_count for cell in code_cells(path)]
        assert counts == list(range(1, len(counts) + 1))

    def test_it_has_no_errors_no_stderr_and_no_volatile_metadata(self, path):
        for cell in code_cells(path):
            for output in cell.outputs:
                assert output.output_type != "error"
                assert output.get("name") != "stderr"
                assert not any("widget" in kind for kind in output.get("data", ()))
        notebook = nbformat.read(path, as_version=4)
        assert set(notebook.metadata) == {"kernelspec", "language_info"}
        assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)

    def test_its_parameters_are_literals_each_with_a_comment(self, path):
        [cell] = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
        for statement in ast.parse(cell.source).body:
            assert isinstance(statement, ast.Assign)
            ast.literal_eval(statement.value)
        assert all("#" in line for line in cell.source.splitlines())
        assert ast.parse(cell.source).body[0].targets[0].id == "profile"  # names the folder

    def test_it_is_small_and_narrow(self, path):
        assert path.stat().st_size < 500_000
        for cell in code_cells(path):
            assert cell.source.count("\n") < 45
            assert max((len(x) for t in texts(cell) for x in t.splitlines()), default=0) <= 100

    def test_a_checked_cell_holds_real_content(self, path):
        checked = [c for c in code_cells(path) if CHECK in c.metadata.get("tags", [])]
        assert any(any(ch.isdigit() for ch in t) for cell in checked for t in texts(cell))


def test_every_table_and_figure_has_its_notebook_and_its_target():
    makefile = (paths.ROOT / "Makefile").read_text()
    targets = re.search(r"^NOTEBOOKS := (.*)", makefile, re.MULTILINE)[1].split()
    assert sorted(targets) == [path.stem for path in NOTEBOOKS]
    expected = {f"table{n}" for n in (1, 2, 3)} | {f"figure{n}" for n in (1, 2, 3, 4, 5)}
    assert set(targets) == expected | {"claims"}


def test_the_readme_counts_the_claims_as_they_are():
    verdicts = pd.read_csv(paths.FIGURES / "claims.csv")["published_verdict"].value_counts()
    holds, fails, unprinted = verdicts[["holds", "fails", "not published as numbers"]]
    said = " ".join((paths.ROOT / "README.md").read_text().split())
    words = f"{verdicts.sum()} quantitative claims, by its own tables {holds} hold, {fails} fail"
    assert f"{words}, and {unprinted} were never printed as numbers" in said


@pytest.mark.slow
def test_a_changed_number_in_a_checked_cell_fails(tmp_path):
    notebook = nbformat.read(paths.NOTEBOOKS / "table1.ipynb", as_version=4)
    changed = 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if CHECK in cell.metadata.get("tags", []) and "93.52" in output.get("text", ""):
                output.text = output.text.replace("93.52", "93.53", 1)
                changed += 1
    assert changed == 1
    path = tmp_path / "table1.ipynb"
    nbformat.write(notebook, path)
    assert check(path).returncode == 1


@pytest.mark.slow
def test_a_changed_digit_in_a_shipped_record_is_an_error_that_names_the_file(tmp_path):
    environment = copy_of_the_checkout(tmp_path)
    notebook = tmp_path / "notebooks" / "table1.ipynb"
    assert check(notebook, env=environment).returncode == 0
    record = min((tmp_path / "results").glob("vgg19-base-*.json"))
    text = record.read_text()
    digit = re.search(r'"test_top1": \d+\.(\d)', text).start(1)
    record.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    failed = check(notebook, env=environment)
    assert failed.returncode == 1
    assert "RecordError" in failed.stdout
    assert record.name in failed.stdout
