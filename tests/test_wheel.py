"""fredist installed as a wheel: the Python API works whole, and writes nothing where it lies."""

import os
import shutil
import subprocess
import sys

import pytest

from fredist.paths import ROOT


@pytest.mark.slow
def test_a_wheel_works_without_a_checkout_and_stays_as_it_was_installed(tmp_path):
    source, target, empty = (tmp_path / name for name in ("source", "target", "empty"))
    empty.mkdir()
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fredist", source / "fredist", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    offline = ["--no-index", "--no-deps"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", target, wheel], check=True)
    before = set(target.rglob("*"))

    script = """
import fredist
from fredist.paths import RESULTS, runs_folder
print(fredist.__file__, fredist.apply_template((64, 128, 256, 512), "reverse"))
print(fredist.compare("resnet50").loc["base", "filters"])
network = fredist.create_model("vgg19", convention="published", template="reverse").network
print(network.params, runs_folder())
"""

    def python(*words):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FREDIST_")}
        environment |= {"PYTHONPATH": str(target), "HOME": str(tmp_path / "home")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)

    ran = python("-c", script)
    assert ran.returncode == 0, ran.stderr
    first, second, third = ran.stdout.splitlines()
    assert first == f"{target}/fredist/__init__.py (512, 256, 128, 64)"
    assert second == "(64, 128, 256, 512)"
    assert third.endswith(f" {tmp_path}/home/.local/share/fredist/runs")
    ran = python("-m", "fredist", "render", "table1", "--no-train")
    assert ran.returncode == 1
    assert "expected a checkout of fredist" in ran.stderr
    assert set(target.rglob("*")) == before
    assert not list(empty.iterdir())
