"""What `make publish` writes for LaTeX compiles in the smallest document."""

import re
import shutil
import subprocess

import pytest

from fredist import paths, tables
from fredist.report import to_latex
from fredist.runs import Store

pytestmark = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs the system's LaTeX (pdflatex)"
)
PACKAGES = {"booktabs", "multirow", "siunitx", "amsmath", "graphicx", "threeparttable", "adjustbox"}
DOCUMENT = r"""\documentclass[twocolumn]{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage{adjustbox}
\begin{document}
%s
\end{document}
"""


def compile_latex(folder, body):
    """Return the log of a document that compiled."""
    assert set(re.findall(r"\\usepackage{(\w+)}", DOCUMENT)) <= PACKAGES
    (folder / "paper.tex").write_text(DOCUMENT % body)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:]
    assert (folder / "paper.pdf").stat().st_size > 1000
    return done.stdout


@pytest.mark.parametrize("path", sorted(paths.FIGURES.glob("*.tex")), ids=lambda path: path.stem)
def test_a_committed_table_compiles_and_fits_the_page(tmp_path, path):
    log = compile_latex(tmp_path, path.read_text())
    assert "Overfull \\hbox" not in log


def test_a_table_without_records_compiles(tmp_path):
    made = [*tables.table1("paper", store=Store([])), *tables.table2("smoke", store=Store([]))]
    compile_latex(tmp_path, "\n".join(map(to_latex, made)))


def test_the_committed_figures_can_be_included(tmp_path):
    figures = sorted(paths.FIGURES.glob("figure*.pdf"))
    assert figures
    body = "\n\n".join(rf"\includegraphics[width=\linewidth]{{{path}}}" for path in figures)
    compile_latex(tmp_path, body)
