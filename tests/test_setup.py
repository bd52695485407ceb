"""The lock, what installs from it, and the two kinds of environment `make setup` builds."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

spec = importlib.util.spec_from_file_location("setup_env", ROOT / "tools" / "setup_env.py")
setup_env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_env)


def make(*args, timeout=60):
    """Return the finished `make`, free of what an outer make would pass on."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))
    }
    command = ["make", "--no-print-directory", "-C", str(ROOT), *map(str, args)]
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=timeout)


def pins():
    """Return the locked versions of every package, by name: one, or one per Python version."""
    found = {}
    for block in setup_env.lock_blocks(LOCK):
        name, version = re.match(r"([a-z0-9-]+)==([^ ;]+)", block).groups()
        found.setdefault(name, set()).add(version)
    return found


def test_every_locked_package_has_hashes_and_a_version():
    blocks = setup_env.lock_blocks(LOCK)
    assert len(blocks) > 100
    for block in blocks:
        assert re.match(r"[a-z0-9-]+==[^ ;]+ ", block), block
        assert "--hash=sha256:" in block
    beside = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    assert sum(len(block.splitlines()) for block in blocks) == len(beside)


def test_the_lock_names_no_host():
    assert "://" not in LOCK
    assert "index-url" not in LOCK


def test_every_declared_package_is_locked_at_a_version_it_allows():
    declared = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    for requirement in map(Requirement, declared + PROJECT["build-system"]["requires"]):
        for version in pins()[canonicalize_name(requirement.name)]:
            assert version in requirement.specifier


def test_the_locked_torch_and_torchvision_are_a_pair():
    import torch
    import torchvision

    kept = torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]]), torch.ones(2), 0.5)
    assert kept.tolist() == [0]
    if metadata.version("torchvision") not in pins()["torchvision"]:
        pytest.skip("another torchvision than the lock's is installed")
    (needed,) = (Requirement(r) for r in metadata.requires("torchvision") if r.startswith("torch"))
    assert all(version in needed.specifier for version in pins()["torch"])


def test_conda_installs_the_lock_with_its_hashes():
    text = (ROOT / "environment.yml").read_text()
    assert "      - --require-hashes\n      - -r requirements.lock\n" in text


def test_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)", text, re.MULTILINE)[1].replace("\\\n", " ")
    listed = [line.split()[0] for line in make("help").stdout.splitlines() if line.startswith("  ")]
    notebooks = re.search(r"^NOTEBOOKS := (.*)", text, re.MULTILINE)[1].split()
    for target in set(phony.split()) - {"$(NOTEBOOKS)"} | set(notebooks):
        assert target in listed


def test_a_notebook_target_passes_only_the_options_that_are_set():
    shown = make("-n", "table1", "PROFILE=quick", "MODELS=vgg19,mobilenet").stdout
    assert shown.endswith("-m fredist render table1 --profile quick --models vgg19,mobilenet\n")


def test_the_oldest_versions_are_those_of_pyproject():
    def dotted(version):
        return ".".join(map(str, version))

    assert PROJECT["project"]["requires-python"] == f">={dotted(setup_env.OLDEST_PYTHON)}"
    assert f"torch>={dotted(setup_env.OLDEST_TORCH)}" in PROJECT["project"]["dependencies"]


def test_system_torch_leaves_out_torch_and_its_libraries_only():
    left = {
        b.split("==")[0] for b in setup_env.lock_blocks(LOCK) if setup_env.TORCH_PACKAGES.match(b)
    }
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-toolkit"} <= left
    assert not {"timm", "numpy", "setuptools"} & left


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**9))
    with pytest.raises(SystemExit, match=r"expected 1\.2 GB free for .*, got 1\.0\. Make room"):
        setup_env.check_disk(str(tmp_path / "venv"), "system")
    assert "needs about 1.2 GB of disk (1 GB are free)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("torch", "message"),
    [
        (None, "expects torch and torchvision that work in .*No module named 'torch'"),
        ("raise OSError('no libcudart')", "got OSError: no libcudart"),
        ("__version__ = '2.10.1+cpu'", r"expects torch 2\.11 or later, .* has 2\.10\.1\+cpu"),
    ],
)
def test_a_system_torch_that_will_not_do_is_refused(tmp_path, torch, message):
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    (site,) = other.glob("lib/python*/site-packages")
    if torch:
        (site / "torch.py").write_text(torch + "\nzeros = lambda *size: None\n")
        fake = "class ops:\n    nms = print\n__version__ = '0.25'\n"
        (site / "torchvision.py").write_text(fake)
    refused = make("setup", "TORCH=system", f"PYTHON={other}/bin/python", f"VENV={tmp_path}/venv")
    assert refused.returncode != 0
    assert re.search(message, refused.stderr)
    assert not (tmp_path / "venv").exists()


@pytest.fixture
def registry():
    """Skip where packages cannot be fetched."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--no-cache", "--quiet", "-"]
    try:
        asked = subprocess.run(command, input="idna", capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("no package registry answers within two minutes")
    if asked.returncode:
        pytest.skip(f"no package registry can be reached: {asked.stderr.strip()[-200:]}")


@pytest.mark.slow
def test_system_torch_is_used_and_all_else_is_the_lock_s(tmp_path, registry):
    venv = tmp_path / "venv"
    ask = ["setup", f"VENV={venv}", "TORCH=system", f"PYTHON={sys.executable}"]
    built = make(*ask, timeout=1200)
    assert built.returncode == 0, built.stdout + built.stderr
    assert f"setup: torch {metadata.version('torch').split('+')[0]}" in built.stdout

    # From elsewhere, so that the current folder provides nothing.
    names = ["torch", "torchvision", "timm", "papermill", "fredist"]
    script = f"import {', '.join(names)}; [print(m.__file__) for m in ({', '.join(names)})]"
    ran = subprocess.run(
        [venv / "bin/python", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    homes = dict(zip(names, map(Path, ran.stdout.splitlines()), strict=True))
    import torch
    import torchvision

    assert homes["torch"] == Path(torch.__file__)
    assert homes["torchvision"] == Path(torchvision.__file__)
    assert homes["timm"].is_relative_to(venv)
    assert homes["papermill"].is_relative_to(venv)
    # Compiled, so that an import is quick even where Python keeps no bytecode.
    assert list(homes["timm"].parent.glob("__pycache__/__init__.*.pyc"))
    assert homes["fredist"] == ROOT / "fredist" / "__init__.py"
    for name, versions in pins().items():
        if name in ("timm", "pandas", "jupyterlab"):
            (installed,) = venv.glob(f"lib/python*/site-packages/{name}-*.dist-info")
            assert installed.name.removeprefix(f"{name}-").removesuffix(".dist-info") in versions

    assert "nothing to do" in make(*ask).stdout
    assert "(torch: system), nothing to do" in make("setup", f"VENV={venv}").stdout
