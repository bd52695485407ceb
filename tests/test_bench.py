"""The benchmark: it ends with a table, a plot and records, of every side."""

import subprocess
import sys

import pytest

from fredist import paths
from fredist.records import Store


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
