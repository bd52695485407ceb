"""What the targets of the Makefile run: seen by a stand-in for the environment's Python."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from fredist.paths import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
NOTEBOOKS = re.search(r"^NOTEBOOKS := (.*)", MAKEFILE, re.MULTILINE)[1].split()
OPTIONS = re.search(r"^OPTIONS := (.*)", MAKEFILE, re.MULTILINE)[1].split()
WATCHED = ["OMP_NUM_THREADS", "FREDIST_RUNS", "FREDIST_FIGURES", "JUPYTER_PATH"]
WATCHED += ["PYTHONPATH", "PYTHONHOME"]
NEAR_MISSES = ["SEED", "MODEL", "PROFILES", "DATASET", "TEMPLATE", "WIDTH", "profile"]
TARGETS = ["lint", "format", "lock", "data", "publish", "lab"]
TARGETS += ["test", "test-slow", "test-setup", "gpu-check"]
REPORT = f"""
import json, os, subprocess, sys
parent = subprocess.run(["ps", "-o", "comm=", "-p", str(os.getppid())], capture_output=True)
environment = {{name: os.environ[name] for name in {WATCHED} if name in os.environ}}
said = [sys.argv[1:], environment, parent.stdout.decode().strip()]
print("ran " + json.dumps(said), flush=True)
sys.exit(os.environ.get("BROKEN") in sys.argv)
"""


@pytest.fixture
def checkout(tmp_path):
    """Return a checkout at a path that a shell would split, whose Python says how it was called."""
    folder = tmp_path / "it's a checkout"
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (folder / "report.py").write_text(REPORT)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -E report.py "$@"\n')
    python.chmod(0o755)
    shutil.copy(ROOT / "Makefile", folder)
    return folder


@pytest.fixture
def make(checkout):
    """Return a function that runs make there and returns how Python was called, and the process."""

    def call(*words, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        command = ["make", "--no-print-directory", *words]
        if not any(word.startswith("PYTHON=") for word in words):
            command.append("PYTHON=.venv/bin/python")
        ran = subprocess.run(
            command, cwd=checkout, env=clean | environment, capture_output=True, text=True
        )
        calls = [json.loads(x[4:]) for x in ran.stdout.splitlines() if x.startswith("ran ")]
        return [call for call in calls if "tools/setup_env.py" not in call[0]], ran

    return call


def test_help_lists_every_target_and_names_every_option(make):
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", MAKEFILE, re.MULTILINE)[1].replace("\\\n", " ")
    said = make("help")[1].stdout
    listed = {line.split()[0] for line in said.splitlines() if line.startswith("  ")}
    assert set(phony.split()) - {"$(NOTEBOOKS)"} | set(NOTEBOOKS) <= listed
    for option in OPTIONS:
        assert f"{option}=" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], []),
        (["PROFILE=quick", "MODELS=vgg19, mobilenet"], "--profile|quick|--models|vgg19, mobilenet"),
        (
            ["DATASETS=cifar10", "TEMPLATES=base,reverse"],
            "--datasets|cifar10|--templates|base,reverse",
        ),
        (["WIDTHS=0.5", "SEEDS=0,1", "DEVICE=cpu"], "--widths|0.5|--seeds|0,1|--device|cpu"),
        (["MINUTES=3", "TRAIN=0", "REMEASURE=1"], "--minutes|3|--no-train|--remeasure"),
        (["TRAIN=1", "REMEASURE=0"], "--train"),
        (["SEEDS="], "--seeds|"),
        (['DEVICE=it\'s a "#;*" one'], '--device|it\'s a "#;*" one'),
        (["-j2", "MAKEFLAGS=-j2", "MODELS=vgg19"], "--models|vgg19"),
    ],
)
def test_options_reach_the_program_word_for_word(make, given, words):
    (call,), _ = make("table1", *given)
    words = words.split("|") if words else []
    assert call[0] == ["-m", "fredist", "render", "table1", *words]


def test_the_program_knows_the_options_it_is_passed(make, capsys):
    from fredist.__main__ import main

    given = [f"{name}=1" for name in OPTIONS]
    (call,), _ = make("table1", *given)
    with pytest.raises(SystemExit):
        main(["render", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    passed = {word for word in call[0] if word.startswith("--")}
    assert len(passed) == len(OPTIONS)
    assert passed <= known


@pytest.mark.parametrize("word", NEAR_MISSES)
def test_a_near_miss_of_an_option_is_an_error_before_anything_runs(make, word):
    calls, ran = make("table1", f"{word}=a b")
    assert not calls
    assert ran.returncode
    assert re.search(rf"expected options among PROFILE .* SEEDS .*, got {word}\.", ran.stderr)


@pytest.mark.parametrize(
    ("target", "given", "takes"),
    [
        ("bench", "MODELS=vgg19", "ARGS"),
        ("data", "MODELS=vgg19", "DATASETS"),
        ("publish", "PROFILE=small", ""),
        ("setup", "ARGS=--quiet", ""),
        ("table1", "ARGS=--seeds 0", " ".join(OPTIONS)),
    ],
)
def test_what_a_target_does_not_take_is_an_error(make, target, given, takes):
    calls, ran = make(target, given)
    assert not calls
    said = f"expected options among {takes} (of setup: VENV PYTHON TORCH)".replace("  ", " ")
    assert f"{said}, got {given.split('=')[0]}." in ran.stderr


@pytest.mark.parametrize("given", ["TRAIN=no", "REMEASURE=", "REMEASURE=yes"])
def test_a_switch_is_0_or_1(make, given):
    calls, ran = make("table3", given)
    assert not calls
    name = given.split("=")[0]
    assert f"expected {name}=0 or {name}=1, got {given}" in ran.stderr


def test_the_environment_gives_options_too_but_no_empty_ones(make):
    (call,), _ = make("table1", MODELS="vgg19", SEEDS="", TRAIN="")
    assert call[0][4:] == ["--models", "vgg19"]


def test_every_target_runs_in_a_path_with_spaces_and_without_a_shell_between(make, checkout):
    for target in [*NOTEBOOKS, *TARGETS]:
        calls, ran = make(target)
        assert ran.returncode == 0, ran.stderr
        assert calls
        assert {parent for _, _, parent in calls} == {"make"}  # so Ctrl-C meets Python alone
    assert {path.name for path in checkout.iterdir()} == {".venv", "Makefile", "report.py"}


def test_a_notebook_that_fails_stops_no_other_and_is_named(make):
    calls, ran = make("paper", "DATASETS=cifar10", BROKEN="table2")
    assert [call[0][3] for call in calls] == NOTEBOOKS
    assert ran.returncode
    assert re.search(r"\[Makefile:\d+: table2\] Error 1", ran.stderr)


def test_the_notebooks_are_checked_against_shipped_records_and_by_our_kernel(make, checkout):
    (quick, checked), _ = make("test", "ARGS=-k 'a or b'", JUPYTER_PATH="/elsewhere")
    assert quick[0][-2:] == ["-k", "a or b"]
    assert quick[1]["OMP_NUM_THREADS"] == "1"
    assert "FREDIST_RUNS" in quick[1]  # the test's own folder, unchanged
    names = [*NOTEBOOKS, "explore"]
    assert checked[0][-len(names) :] == [f"notebooks/{name}.ipynb" for name in names]
    scratch = str(checkout / ".venv" / "notebook-check")
    assert checked[1]["FREDIST_RUNS"] == f"{scratch}/runs"
    assert checked[1]["FREDIST_FIGURES"] == f"{scratch}/figures"
    assert checked[1]["JUPYTER_PATH"] == f"{checkout}/.venv/share/jupyter:/elsewhere"


def test_a_kernel_of_the_same_name_elsewhere_is_not_taken(tmp_path, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager

    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text('{"argv": ["false"], "display_name": "other"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert KernelSpecManager().get_kernel_spec("python3").display_name == "other"
    # As the Makefile sets it.
    monkeypatch.setenv("JUPYTER_PATH", f"{sys.prefix}/share/jupyter:{tmp_path}")
    assert KernelSpecManager().get_kernel_spec("python3").argv[0] != "false"


def test_modules_from_elsewhere_play_no_part(make):
    (call,), ran = make("table1", PYTHONPATH="/elsewhere", PYTHONHOME="/nowhere")
    assert not {"PYTHONPATH", "PYTHONHOME"} & set(call[1])
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("venv", ["/tmp/an env", "an env"])
def test_another_environment_may_have_spaces_in_its_name_too(make, checkout, venv):
    _, ran = make("-n", "figure1", f"VENV={venv}")
    assert f"\n'{venv}/bin/python' -m fredist render figure1" in ran.stdout


def test_clean_removes_our_environment_alone(make, checkout, tmp_path):
    for folder in ("benchmarks", "fredist", "tests", "tools"):
        (checkout / folder).mkdir()
    kept = checkout / ".venv" / "bin" / "python"
    assert make("clean")[1].returncode == 0
    assert kept.exists()  # not one of make setup's
    target = tmp_path / "elsewhere"
    shutil.move(checkout / ".venv", target)
    (target / ".fredist-setup").touch()
    (checkout / ".venv").symlink_to(target)
    other = tmp_path / "another environment"
    shutil.copytree(target, other)
    assert make("clean", "PYTHON=python3", f"VENV={other}")[1].returncode == 0
    assert not other.exists()
    assert (checkout / ".venv").is_symlink()  # nor another environment than the named
    make("clean", "PYTHON=python3")
    assert not (checkout / ".venv").is_symlink()
    assert (target / "bin" / "python").exists()
