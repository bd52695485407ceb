"""`make table1` end to end, in a real kernel, on one small network."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from fredist import paths
from fredist.__main__ import main
from fredist.render import clean

ONE = ["--profile", "smoke", "--datasets", "digits", "--models", "mobilenet", "--templates", "base"]


@pytest.fixture
def place(tmp_path):
    """An environment of its own: no data set, no records, no figures yet."""
    return os.environ | {
        "FREDIST_RUNS": str(tmp_path / "runs"),
        "FREDIST_FIGURES": str(tmp_path / "figures"),
        "FREDIST_DATA": str(tmp_path / "no-data"),
        "OMP_NUM_THREADS": "1",
    }


def command(*arguments):
    return [sys.executable, "-m", "fredist", *arguments]


def render(place, *arguments, **options):
    return subprocess.run(
        command("render", "table1", *arguments),
        cwd=paths.ROOT,
        env=place,
        capture_output=True,
        text=True,
        **options,
    )


def records(place):
    return sorted(Path(place["FREDIST_RUNS"]).glob("*.json"))


def figures(place, profile="smoke"):
    return Path(place["FREDIST_FIGURES"]) / profile


def test_the_first_call_trains_and_shows_and_the_second_only_shows(place):
    first = render(place, *ONE)
    assert first.returncode == 0, first.stderr
    assert "[1/1] digits mobilenet base seed 0" in first.stdout
    assert first.stdout.count("[1/1]") == 1  # one plain line for each run
    assert "handwritten digits" in first.stdout
    assert "Better records" in first.stdout or not list(paths.RESULTS.glob("*.json"))
    [record] = records(place)
    frame = pd.read_csv(figures(place) / "table1.csv")
    assert frame.query("n == 1")["records"].tolist() == [record.name]
    notebook = nbformat.read(figures(place) / "table1.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.get("name") == "stderr" or o.output_type == "error"]
    injected = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert 'profile = "smoke"' in injected[0].source

    second = render(place, *ONE)
    assert second.returncode == 0, second.stderr
    assert "training" not in second.stdout
    assert records(place) == [record]
    table = [line for line in first.stdout.splitlines() if line.startswith("MobileNet")]
    assert table[0] in second.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "smok"], "did you mean 'smoke'"),
        (["--datasets", "cifar11"], "cifar10"),
        (["--models", "vgg"], "did you mean 'vgg19'"),
        (["--templates", "negative-quadratic"], "did you mean 'negative_quadratic'"),
        (["--seeds", "zero"], "seeds"),
    ],
)
def test_misspelled_names_are_errors_that_list_the_right_ones(capsys, arguments, message):
    try:
        code = main(["render", "table1", "--profile", "smoke", *arguments])
    except SystemExit as exit:  # argparse's own
        code = exit.code
    assert code != 0
    assert message in capsys.readouterr().err


def test_digits_never_stand_in_for_a_named_data_set(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path))
    arguments = ["--profile", "smoke", "--datasets", "cifar10", "--models", "vgg19"]
    assert main(["render", "table1", *arguments]) == 1
    error = capsys.readouterr().err
    assert "CIFAR-10" in error
    assert "FREDIST_DATA" in error


def kernels(place):
    """The process ids of the kernels of this test (they inherit its folder of runs)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            if (
                b"ipykernel" in words
                and place["FREDIST_RUNS"].encode() in (folder / "environ").read_bytes()
            ):
                found.append(int(folder.name))
        except OSError:
            pass  # it has ended meanwhile
    return found


def interrupted(place, stop):
    """Start a rendering, stop it after the first checkpoint, and return the finished process."""
    process = subprocess.Popen(
        command("render", "table1", *ONE),
        cwd=paths.ROOT,
        env=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(1800):
        if list(Path(place["FREDIST_RUNS"]).glob("unfinished/*.pt")):
            break
        time.sleep(0.1)
    stop(process)
    output = process.communicate(timeout=120)
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds kernels through /proc")
@pytest.mark.parametrize("how", ["ctrl-c", "kernel killed"])
def test_an_interrupted_call_fails_and_the_next_one_ends_as_an_uninterrupted_one(
    place, tmp_path, how
):
    def stop(process):
        if how == "ctrl-c":
            process.send_signal(signal.SIGINT)
        else:
            for kernel in kernels(place):
                os.kill(kernel, signal.SIGKILL)

    code, _ = interrupted(place, stop)
    assert code != 0
    assert not records(place)
    assert not (figures(place) / "table1.ipynb").exists()
    time.sleep(2)
    assert not kernels(place)  # nothing goes on training behind the user's back
    again = render(place, *ONE)
    assert again.returncode == 0, again.stderr
    other = place | {
        "FREDIST_RUNS": str(tmp_path / "other"),
        "FREDIST_FIGURES": str(tmp_path / "others"),
    }
    assert render(other, *ONE).returncode == 0
    columns = ["model", "template", "n", "top1_mean", "top1_min", "top1_max"]
    mine, theirs = (pd.read_csv(figures(p) / "table1.csv")[columns] for p in (place, other))
    pd.testing.assert_frame_equal(mine, theirs)


def test_cleaning_keeps_tags_and_outputs_and_drops_the_rest(tmp_path):
    path = tmp_path / "a.ipynb"
    cell = nbformat.v4.new_code_cell("1", execution_count=1)
    cell.metadata = {"tags": ["parameters"], "papermill": {"duration": 1.0}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {"x": 1}})
    nbformat.write(notebook, path)
    clean(path)
    first = path.read_bytes()
    clean(path)
    assert path.read_bytes() == first
    assert b"papermill" not in first
    assert nbformat.read(path, as_version=4).cells[0].metadata["tags"] == ["parameters"]
