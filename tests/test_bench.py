"""The benchmark: it ends with a table, a plot and records, of every side."""

import subprocess
import sys

import pytest
import torch

from benchmarks import operators, precision
from fredist import paths
from fredist.device import describe, device_name, thread_count
from fredist.paper import choose
from fredist.records import Store, write_record
from fredist.runs import Measurement
from fredist.verdicts import decide

CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_benchmark_is_kept_as_records_and_shown_again_without_measuring(own_runs, tmp_path):
    command = [sys.executable, "-m", "benchmarks.bench", "--profile", "smoke"]
    command += ["--models", "mobilenet", "--templates", "base"]
    options = {"cwd": paths.ROOT, "capture_output": True, "text": True}
    nothing = subprocess.run(command, **options, check=False)
    assert nothing.returncode == 1
    assert "nothing has been measured" in nothing.stderr
    measuring = [*command, "--train", "--seconds", "0.2", "--repeats", "2"]
    first = subprocess.run(measuring, **options, check=True)
    records = Store([own_runs]).measurements()
    assert {record.identity["method"] for record in records} == {"training", "evaluation"}
    for record in records:
        assert record.results["ratio_alone"] > 0
        assert 0 < record.results["share"] < 1
        assert {len(repeats) for repeats in record.history.values()} == {2}
    again = subprocess.run(command, **options, check=True)
    assert again.stdout.splitlines()[-3:] == first.stdout.splitlines()[-3:]
    assert (tmp_path / "figures" / "smoke" / "bench.png").stat().st_size > 10_000
    second = subprocess.run(measuring, **options, check=True)  # nothing is left to measure
    assert second.stdout == again.stdout


@pytest.mark.slow
def test_speeds_of_another_precision_are_not_shown(own_runs):
    """`paper` and `quick` have networks in common: one trains in float32, one in bfloat16."""
    run = choose("table1", "quick", models="mobilenet", datasets="cifar10").runs()[0]
    where = device_name(CPU), thread_count(CPU), str(torch.__version__)
    job = Measurement(run.network, 32, "speed", "training", run.recipe.batch_size, *where)
    results = {"usual": 1.0, "alone": 9.9, "bound": 99.0, "share": 0.1}
    results |= dict.fromkeys(("ratio_alone", "ratio_alone_low", "ratio_alone_high"), 9.9)
    provenance = {"sessions": [describe(CPU)], "rates": {"bfloat16": 1e9, "copy": 1e9}}
    write_record(job, results, {}, provenance)
    said = {}
    for profile in ("quick", "paper"):
        command = [sys.executable, "-m", "benchmarks.bench", "--profile", profile]
        command += ["--models", "mobilenet", "--templates", "base"]
        done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
        said[profile] = done.stdout + done.stderr
    assert "9.90 times the usual script" in said["quick"]
    assert "nothing has been measured" in said["paper"]


@pytest.mark.slow
def test_a_steps_time_is_all_of_its_operators():
    [run] = choose(
        "table1", "smoke", models="mobilenet", templates="base", datasets="cifar10"
    ).runs()
    found = operators.table(run, CPU, steps=1)
    assert found.columns.tolist() == [
        "float32, contiguous", "float32, channels last",
        "bfloat16, contiguous", "bfloat16, channels last",
    ]  # fmt: skip
    *rows, last = found.index
    assert (last, rows[-1]) == ("sum", "others")
    assert found.loc[rows].sum().tolist() == pytest.approx(found.loc["sum"].tolist())
    large = (found.loc[rows[:-1]] > 0.03 * found.loc["sum"]).any(axis=1)
    assert large.all()
    assert {"aten::convolution_backward", "aten::native_batch_norm"} <= {*rows}


def test_the_docs_say_of_bfloat16_what_the_shipped_records_do():
    docs = (paths.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    how = {"datasets": "cifar10", "models": "vgg19", "templates": "base", "seeds": range(5)}
    choices = choose("table1", "small", **how)
    [cell] = choices.cells()
    assert precision.accuracies(choices, cell, Store([])).empty
    found = precision.accuracies(choices, cell, Store(paths.RESULTS))
    for name in precision.PRECISIONS:
        row = " | ".join(f"{accuracy:.2f}" for accuracy in found[name])
        assert f"| {name} | {row} |\n" in docs
    verdict = decide(found, base="float32").loc["bfloat16"]
    words = f"bfloat16 is {-verdict.gain:.2f} points lower, with a 95% interval from "
    words += f"{-verdict.low:.2f} lower to {verdict.high:.2f} higher (p {verdict.p:.2f})"
    assert words in docs
    assert ("no difference is shown" in docs) == verdict.verdict.endswith("no difference shown")
