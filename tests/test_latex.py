"""What is written for LaTeX compiles in the smallest document."""

import re
import shutil
import subprocess

import pytest
from recording import GPU, trained

from fredist import figures, paths, tables
from fredist.paper import choose
from fredist.records import Store
from fredist.report import to_latex
from fredist.results import collect

pytestmark = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs the system's LaTeX (pdflatex)"
)
DOCUMENT = r"""\documentclass[twocolumn]{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs,adjustbox}
\begin{document}
%s
\end{document}
"""


def compile_latex(folder, body):
    """Return the log of a document that compiled."""
    (folder / "paper.tex").write_text(DOCUMENT % body)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:]
    assert (folder / "paper.pdf").stat().st_size > 1000
    return done.stdout


def test_every_table_compiles_and_fits_the_page(tmp_path):
    first = choose("table1", "paper", datasets="cifar10", models="vgg19", seeds="0,1")
    for run in first.runs():
        trained(run, tmp_path / "records", 10.0 + run.seed, f"{GPU} #1 & 50% _x^~ ™")
    made = [tables.departures()]
    for choices in (first, *(choose(n, "smoke", models="vgg19") for n in ("table2", "table3"))):
        frame = collect(choices, Store([tmp_path / "records"]))
        made += tables.TABLES[choices.name](choices, frame)
    log = compile_latex(tmp_path, "\n".join(map(to_latex, made)))
    assert "Overfull \\hbox" not in log
    assert "Missing character" not in log


@pytest.mark.parametrize(
    "path", sorted((paths.ROOT / "paper_figures").rglob("*.tex")), ids=lambda path: path.stem
)
def test_a_committed_table_compiles_and_fits_the_page(tmp_path, path):
    assert not re.search("[^\x00-\x7f]", path.read_text())
    assert "Overfull \\hbox" not in compile_latex(tmp_path, path.read_text())


def test_a_figure_can_be_included(tmp_path):
    choices = choose("figure5", "paper")
    frame = figures.filters_per_layer(choices)
    pdf = figures.save(figures.distributions(frame), choices, frame, tmp_path)[1]
    compile_latex(tmp_path, rf"\includegraphics[width=\linewidth]{{{pdf.name}}}")
