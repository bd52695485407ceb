"""What nbval does not prove: that the committed notebooks ran, and hold what is checked."""

import ast
import subprocess
import sys

import nbformat
import pytest

from fredist import paths

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
CHECK = "nbval-check-output"


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def texts(cell):
    return [o.text for o in cell.outputs if o.output_type == "stream"]


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
        notebook = nbformat.read(path, as_version=4)
        assert set(notebook.metadata) == {"kernelspec", "language_info"}
        assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)

    def test_its_parameters_are_literals_each_with_a_comment(self, path):
        [cell] = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
        for statement in ast.parse(cell.source).body:
            assert isinstance(statement, ast.Assign)
            ast.literal_eval(statement.value)
        assert all("#" in line for line in cell.source.splitlines())

    def test_it_is_small_and_narrow(self, path):
        assert path.stat().st_size < 500_000
        for cell in code_cells(path):
            assert cell.source.count("\n") < 45
            assert max((len(x) for t in texts(cell) for x in t.splitlines()), default=0) <= 100

    def test_a_checked_cell_holds_real_content(self, path):
        checked = [c for c in code_cells(path) if CHECK in c.metadata.get("tags", [])]
        assert any(any(ch.isdigit() for ch in t) for cell in checked for t in texts(cell))


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
    check = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", str(path)]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, text=True).returncode == 1
