"""The command line, as a process, in a small checkout with small notebooks."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from fredist import paths
from fredist.__main__ import _choose, main
from fredist.notebook import CHECKED, CHOICES, PARAMETERS
from fredist.paper import EXPERIMENTS, choose
from fredist.records import Store
from fredist.results import collect

ONE = {"datasets": "digits", "models": "vgg19", "templates": "base"}  # network of Table 1
TABLE = """
from fredist.notebook import settle
from fredist.paths import figures_folder, write_whole
choices = settle({name!r}, globals())
print({name!r}, "shows", choices.models, choices.datasets)
write_whole(figures_folder() / choices.profile_name / f"{name}{{choices.suffix}}.csv", "a,b")
"""
SLEEP = """
import os, time
from fredist.paths import runs_folder, write_whole
begun = runs_folder() / "begun"
try:  # the file is there before it is written for good, when the signal may come
    write_whole(begun, str(os.getpid()))
    time.sleep(60)
finally:
    begun.unlink()
"""


def write_notebook(folder, name, parameters, code):
    cells = [nbformat.v4.new_markdown_cell(f"# Title of {name}")]
    own = "\n".join(['profile = "smoke"', *parameters])
    cells.append(nbformat.v4.new_code_cell(own, metadata={"tags": ["parameters"]}))
    cells.append(nbformat.v4.new_code_cell(f"{CHECKED}\n{code}"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, folder / f"{name}.ipynb")


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A copy of the package beside notebooks that run in no time."""
    root = tmp_path_factory.mktemp("a checkout")
    shutil.copytree(paths.PACKAGE, root / "fredist", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "pyproject.toml").touch()
    (root / "notebooks").mkdir()
    kept = [one for one in PARAMETERS[1:-1] if one != "widths"]
    lists = [f"{one} = None" for one in kept] + ["train = False"]
    widths = "widths = None"
    made = {"table1": lists, "figure1": [*lists[1:3], widths], "figure3": [*lists, widths]}
    for name, own in made.items():
        write_notebook(root / "notebooks", name, own, TABLE.format(name=name))
    write_notebook(root / "notebooks", "figure5", [], SLEEP)
    return root


@pytest.fixture
def run(source, own_runs, tmp_path):
    """Return a function that starts the command line there, with folders of its own."""
    place = {"FREDIST_DATA": str(tmp_path / "none"), "FREDIST_CACHE": str(tmp_path / "cache")}

    def start(*arguments, preexec_fn=None, **variables):
        how = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) | {"encoding": "utf-8"}
        how |= {"cwd": source, "env": os.environ | place | variables, "preexec_fn": preexec_fn}
        command = [sys.executable, "-m", "fredist", *arguments]
        return subprocess.Popen(command, process_group=0, **how)

    return start


def finished(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("render tabel1", "did you mean 'table1'"),
        ("render table1 --seeds=", "as seeds, got ''"),
        ("render table1 --device gpu", "choose from cpu, cuda"),
        ("render table1 --minutes 0", "above 0 as minutes"),
        ("render table1 --no-train --remeasure", "--remeasure or --no-train, got both"),
        (
            "train table1 --device cuda:1",
            "CUDA_VISIBLE_DEVICES chooses one of several, got 'cuda:1",
        ),
        ("render table1 --seed 0", "unrecognized arguments: --seed 0"),
        ("train figure1", "expected a table or figure of trained networks, got figure1"),
        ("measure table1", "expected a table or figure of memory or time, got table1"),
        ("render table1 --datasets tiny-imagenet", "data sets from cifar10, cifar100, digits"),
        ("data --datasets=", "data sets, got"),
    ],
)
def test_a_wrong_word_is_one_sentence_before_anything_starts(capsys, own_runs, arguments, words):
    profile = ["--profile", "smoke"] * (not arguments.startswith("data"))
    with suppress(SystemExit):  # argparse's own way
        assert main([*arguments.split(), *profile]) == 1
    said = capsys.readouterr()
    assert (said.out, words in said.err) == ("", True)
    assert not own_runs.exists()


def test_what_is_there_is_shown_before_and_after_what_cannot_be_made(run, written):
    two = {"datasets": "cifar10", "models": "mobilenet", "templates": "base,uniform"}
    base, uniform = choose("table1", "smoke", **two).runs()
    written(base, 61.25)
    call = ["render", "table1", "--profile=smoke", *(f"--{k}={v}" for k, v in two.items())]
    status, out, err = finished(run(*call, PYTHONIOENCODING="ascii"))
    first, second = out.split("files: ")[:2]
    assert all("61.25" in shown and "1 of 2 runs" in shown for shown in (first, second))
    assert "CIFAR-10" in second.split("61.25")[0]  # where it was looked for
    assert status == 1
    assert str(uniform) in err
    assert Path(err.strip().rpartition("traceback: ")[2]).is_file()
    status, out, err = finished(run(*call, "--no-train"))
    assert (status, err) == (0, "")
    assert out.count("61.25") == first.count("61.25")


def test_a_choice_without_use_is_said_and_changes_nothing(run, tmp_path):
    other = tmp_path / "figures" / "smoke" / "figure1-resnet50-2.5.csv"
    paths.write_whole(other, "of another width")
    arguments = ["render", "figure1", "--profile=smoke", "--models=resnet50", "--widths=2"]
    status, out, err = finished(run(*arguments, "--seeds", "1", "--device", "cpu"))
    assert (status, err) == (0, "")
    assert out.startswith("figure1 has no seeds to choose from")
    assert "figure1 shows ('resnet50',) ()" in out
    made = {"figure1-resnet50-2.csv", "figure1-resnet50-2.ipynb"}
    assert set(os.listdir(other.parent)) == made | {other.name}
    assert out.endswith("figure1-resnet50-2.csv, .ipynb\n")


def in_background():
    """As a shell starts what ends in `&`, after nohup: deaf to Ctrl-C, as all that it starts."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize(
    ("number", "started"),
    [
        (signal.SIGINT, None),
        (signal.SIGTERM, None),
        (signal.SIGHUP, None),  # the terminal is closed
        (signal.SIGTERM, in_background),
    ],
)
def test_a_signal_to_the_terminal_ends_all_in_one_sentence(
    run, own_runs, tmp_path, number, started
):
    how = {"TMPDIR": str(tmp_path), "preexec_fn": started}
    process = run("render", "figure5", "--profile", "smoke", **how)
    while not (begun := own_runs / "begun").exists():
        time.sleep(0.05)
        assert process.poll() is None
    kernel = int(begun.read_text())
    if started:
        os.killpg(process.pid, signal.SIGHUP)  # its terminal closes, and it goes on
    os.killpg(process.pid, number)
    said = "\ninterrupted: nothing is lost, the same command continues\n"
    assert finished(process) == (128 + number, "", said)
    assert not begun.exists()  # what a cell leaves half made it takes back
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)
    assert not [*tmp_path.glob("fredist-*"), *tmp_path.glob("figures/*/*")]


def test_training_needs_no_jupyter_and_no_figures(run, written, source):
    for one in choose("table1", "smoke", datasets="digits", models="vgg19").runs():
        written(one)
    absent = ("papermill", "nbformat", "nbconvert", "jupyter_client", "matplotlib", "IPython")
    call = ["train", "table1", "--profile=smoke", "--datasets=digits", "--models=vgg19"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
    code += f"from fredist.__main__ import main; sys.exit(main({call!r}))"
    made = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert (made.returncode, made.stdout) == (0, "5 of 5 runs have a record\n"), made.stderr


def test_without_jupyter_a_table_is_printed_and_its_notebook_is_what_failed(run, written, tmp_path):
    written(choose("table1", "smoke", **ONE).runs()[0])
    papermill = tmp_path / "absent" / "papermill"
    papermill.mkdir(parents=True)
    (papermill / "__init__.py").write_text("raise ModuleNotFoundError('no papermill')")
    chosen = ["--profile=smoke", *(f"--{what}={one}" for what, one in ONE.items())]
    asked = run("render", "table1", *chosen, "--no-train", PYTHONPATH=str(papermill.parent))
    status, shown, failed = finished(asked)
    assert (status, failed) == (
        1,
        "table1: table1.ipynb did not finish: ModuleNotFoundError: no papermill\n",
    )
    assert "1 of 1 runs" in shown
    assert "published" in shown


def test_what_a_figure_shows_can_be_measured_of_each_data_set_without_jupyter(own_runs, capsys):
    """A hundred classes are another network."""
    one = {"models": "vgg19", "templates": "base", "widths": "0.25", "datasets": "cifar100"}
    options = [f"--{what}={value}" for what, value in one.items()]
    assert main(["measure", "figure3", "--profile=smoke", "--device=cpu", *options]) == 0
    frame = collect(choose("figure3", "smoke", **one), Store([own_runs]))
    assert frame.query("quantity == 'memory_training_tensors_gb'")["value"].item() > 0
    capsys.readouterr()


def test_data_sets_that_are_meant_for_others_play_no_part_and_that_is_said(capsys, own_runs):
    call = [
        "train",
        "table1",
        "--profile=smoke",
        "--datasets=digits,tiny-imagenet",
        "--minutes=1e-9",
    ]
    main(call)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "table1 is of cifar10, cifar100, digits: tiny-imagenet plays no part"
    assert said[-1] == "0 of 20 runs have a record"


@pytest.mark.parametrize("command", ["render", "train"])
def test_a_choice_that_an_experiment_lacks_plays_no_part_and_that_is_said(run, written, command):
    written(choose("table1", "smoke", **ONE).runs()[0])
    chosen = ["--profile=smoke", *(f"--{what}={one}" for what, one in ONE.items())]
    own = ["--no-train"] if command == "render" else ["--minutes=1e-9"]
    _, said, _ = finished(run(command, "table1", *chosen, "--widths=0.5", *own))
    assert said.startswith("table1 has no widths to choose from: --widths plays no part\n")
    assert "1 of 1 runs" in said


def test_a_run_is_found_by_its_records_where_its_data_are_not_known(own_runs, written, capsys):
    """Tiny-ImageNet's fingerprint is learnt from the data, which who brings records home lacks."""
    chosen = {"datasets": "tiny-imagenet", "models": "vgg19", "templates": "base", "seeds": "0"}
    written(replace(choose("table2", "smoke", **chosen).runs()[0], fingerprint="0123456789abcdef"))
    options = ["--profile=smoke", *(f"--{what}={one}" for what, one in chosen.items())]
    assert main(["train", "table2", *options, "--download"]) == 0  # nothing is to be fetched
    assert capsys.readouterr().out == "1 of 1 runs have a record\n"


def test_a_run_of_another_device_is_none_of_those_asked_for(own_runs, written, capsys):
    written(choose("table1", "smoke", **ONE).runs()[0], device_type="cuda")
    options = ["--profile=smoke", "--minutes=1e-9", *(f"--{k}={v}" for k, v in ONE.items())]
    for device, found in (("cpu", 0), ("cuda", 1)):
        main(["train", "table1", *options, f"--device={device}"])
        assert capsys.readouterr().out.splitlines()[-1] == f"{found} of 1 runs have a record"


def test_what_is_missing_is_said_with_the_command_that_makes_just_that(run):
    chosen = ["--models=mobilenet", "--datasets=cifar10", "--seeds=3", "--device=cpu"]
    _, said, _ = finished(run("render", "table1", "--profile=small", *chosen))
    command = (
        "make table1 PROFILE=small DATASETS=cifar10 MODELS=mobilenet SEEDS=3 DEVICE=cpu TRAIN=1"
    )
    assert f"5 runs are missing, and are made only if asked: {command}\n" in said


def test_measuring_again_is_done_or_refused_but_never_left_out(run):
    """A profile that trains only if asked; what measures nothing; a device that is elsewhere."""
    again = ("--profile=small", "--remeasure")
    _, said, _ = finished(run("render", "table1", *again))
    assert said.startswith("table1 measures nothing: --remeasure plays no part\n")
    one = ["--models=vgg19", "--templates=base", "--widths=1", "--datasets=cifar10"]
    _, said, _ = finished(run("render", "figure3", *again, *one, "--minutes=1e-9"))
    assert "time is up" in said
    assert "runs or measurements are missing, and are made only if asked: make figure3" in said
    wrong = finished(run("render", "table1", *again, "--device=AMD EPYC"))
    assert wrong[2].startswith("error: unknown device 'AMD EPYC'")


def test_a_reader_who_has_seen_enough_is_no_error(run):
    process = run("data", "--datasets", "digits")
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 141)


def test_one_who_closes_the_output_wants_none(run):
    status, _, err = finished(run("data", "--datasets=digits", preexec_fn=lambda: os.close(1)))
    assert (status, err) == (0, "")


def test_publishing_remakes_all_from_the_shipped_records_alone(source, tmp_path):
    ignored = shutil.ignore_patterns("figure5.ipynb")
    root = shutil.copytree(source, tmp_path / "published", ignore=ignored)
    command = [sys.executable, "-m", "fredist", "publish"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert "notebooks.html, 0.3 MB" in done.stdout, done.stderr
    made = {"figure1.csv", "figure3.csv", "notebooks.html", "table1.csv"}
    assert set(os.listdir(root / "paper_figures")) == made
    assert "Title of figure1" in (root / "paper_figures" / "notebooks.html").read_text()
    assert "table1 shows (" in (root / "notebooks" / "table1.ipynb").read_text()
    assert not list(Path(os.environ["FREDIST_FIGURES"]).glob("*"))


def test_jupyterlab_opens_copies(run, source):
    assert finished(run("lab", "--version"))[0] == 0
    copy, committed = (source / place / "table1.ipynb" for place in ("explore", "notebooks"))
    assert copy.read_bytes() == committed.read_bytes()


@pytest.mark.parametrize("name", [name for name, one in EXPERIMENTS.items() if one.trained])
def test_what_has_records_is_shown_without_the_data(name, monkeypatch, tmp_path):
    """A rehearsal of each ships; where nothing may be trained, nothing stands in for it."""
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path))
    given = dict.fromkeys(CHOICES) | {"profile": "smoke"}
    store = Store([paths.RESULTS])
    frame = collect(_choose(name, given, store), store)
    shipped = frame[(frame.quantity == "top1_last") & (frame.kind == "trained")].n.gt(0)
    assert shipped.all()
