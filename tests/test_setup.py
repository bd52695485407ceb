"""The lock, what installs from it, and the environments that `make setup` builds and refuses."""

import ast
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fredist.paths import ROOT

LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPT = ROOT / "tools" / "setup_env.py"

spec = importlib.util.spec_from_file_location("setup_env", SCRIPT)
setup_env = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_env)


def make(*args, timeout=60, **environment):
    """Return the finished `make setup`, free of what an outer make would pass on."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    how = {"env": clean | environment, "capture_output": True, "text": True, "timeout": timeout}
    return subprocess.run(["make", "-C", str(ROOT), "setup", *map(str, args)], **how)


def pins():
    """Return the locked versions of every package, by name: one, or one per Python version."""
    found = {}
    for block in setup_env.lock_blocks(LOCK):
        name, version = re.match(r"([a-z0-9-]+)==([^ ;]+)", block).groups()
        found.setdefault(name, set()).add(version)
    return found


# The lock


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
    if metadata.version("torchvision") not in pins()["torchvision"]:
        pytest.skip("another torchvision than the lock's is installed")
    (needed,) = (Requirement(r) for r in metadata.requires("torchvision") if r.startswith("torch"))
    assert all(version in needed.specifier for version in pins()["torch"])


def test_conda_installs_the_lock_with_its_hashes():
    text = (ROOT / "environment.yml").read_text()
    assert "      - --require-hashes\n      - -r requirements.lock\n" in text


def test_the_oldest_versions_are_those_of_pyproject():
    python, torch = (
        ".".join(map(str, v)) for v in (setup_env.OLDEST_PYTHON, setup_env.OLDEST_TORCH)
    )
    assert PROJECT["project"]["requires-python"] == f">={python}"
    assert f"torch>={torch}" in PROJECT["project"]["dependencies"]


def test_system_torch_leaves_out_torch_and_its_libraries_only():
    left = {name for name in pins() if setup_env.TORCH_PACKAGES.match(f"{name}==")}
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-toolkit"} <= left
    assert not {"timm", "numpy", "setuptools"} & left


# What is refused, and left as it is


def write(path, text="the user's"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def a_folder(venv):
    write(venv / "x")


def an_environment_in_a_project(venv):
    write(venv / "pyvenv.cfg")
    write(venv / "my_code.py")


def an_environment_with_packages(venv):
    write(venv / "pyvenv.cfg")
    write(venv / "lib/python3.11/site-packages/jax-1.dist-info/METADATA")


def an_install_prefix(venv):
    write(venv / "bin" / "python3-tool")
    write(venv / "lib" / "libmine.a")
    write(venv / "include" / "mine.h")


def a_prefix_with_names_of_an_environment(venv):
    write(venv / "bin" / "python3")


def a_program_in_an_environment(venv):
    write(venv / "pyvenv.cfg")
    write(venv / "bin" / "my_tool")


def a_module_in_an_environment(venv):
    write(venv / "pyvenv.cfg")
    write(venv / "lib/python3.11/site-packages/mine.py")


def a_link(venv):
    venv.symlink_to("target")


def a_link_to_an_environment(venv):
    write(venv.with_name("target") / ".fredist-setup")
    write(venv.with_name("target") / "x")
    a_link(venv)


@pytest.mark.parametrize(
    "there",
    [
        a_folder,
        an_environment_in_a_project,
        an_environment_with_packages,
        an_install_prefix,
        a_prefix_with_names_of_an_environment,
        a_program_in_an_environment,
        a_module_in_an_environment,
        a_link,
        a_link_to_an_environment,
        write,
    ],
)
def test_what_is_not_ours_is_refused_and_stays_as_it_is(tmp_path, there):
    venv = tmp_path / "a venv"
    there(venv)
    before = sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*"))
    refused = make(f"VENV={venv}")
    assert refused.returncode
    assert re.search(f"setup: expected a new .* {venv} is a .*make setup VENV=", refused.stderr)
    assert sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_two_makes_in_one_checkout_take_turns(tmp_path):
    command = [sys.executable, SCRIPT, tmp_path / "target"]
    write(tmp_path / "target" / "x")
    with open(setup_env.LOCK) as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        second = subprocess.Popen(command, **how)
        assert second.stdout.readline() == "setup: waiting for another make in this checkout\n"
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.5)
    second.communicate(timeout=30)
    assert second.returncode == 1  # its folder is refused


@pytest.mark.parametrize("writable", [True, False])
def test_a_lock_is_taken_where_only_what_can_be_written_is_locked(monkeypatch, writable):
    """As over NFS; in a checkout that is read-only nothing is locked, and all goes on."""
    locked = []

    def flock(file, how):
        if not file.writable():
            raise OSError(errno.EBADF, "Bad file descriptor")
        locked.append(how)

    monkeypatch.setattr(setup_env.fcntl, "flock", flock)
    monkeypatch.setattr(setup_env.os, "access", lambda path, how: writable)
    with setup_env.turn():
        assert locked == [fcntl.LOCK_EX | fcntl.LOCK_NB] * writable


def test_a_new_empty_begun_or_own_environment_is_built(tmp_path):
    setup_env.check_folder(tmp_path / "new")
    setup_env.check_folder(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    setup_env.check_folder(tmp_path)  # as an editor leaves it
    write(tmp_path / "bin" / "pip3.11")
    write(tmp_path / "lib/python3.11/site-packages/setuptools/command/build.py")
    write(tmp_path / "lib/python3.11/site-packages/pip-25.0.dist-info/METADATA")
    setup_env.check_folder(tmp_path)
    write(tmp_path / "lib/python3.11/site-packages/torch-2.15.dist-info/METADATA")
    write(tmp_path / ".fredist-setup", "")  # interrupted
    setup_env.check_folder(tmp_path)


def test_an_old_python_can_read_why_it_is_refused():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("sys.version_info = (3, 9, 1)", "expected Python 3.11 or later .* is 3.9. Name one: make"),
        ("sys.modules['ensurepip'] = None", "has no ensurepip .*: install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_refused(tmp_path, lacking, message):
    start = f"import runpy, sys; {lacking}; sys.argv = ['', sys.argv[2]]; "
    start += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    venv = tmp_path / "venv"
    ran = subprocess.run(
        [sys.executable, "-c", start, "x", str(venv)], capture_output=True, text=True
    )
    assert ran.returncode
    assert re.search(message, ran.stderr)
    assert not venv.exists()


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**9))
    with pytest.raises(SystemExit, match=r"expected 1\.4 GB free for .*, got 1\.0\. Make room"):
        setup_env.check_disk(tmp_path / "no" / "venv", "system")
    assert "needs about 1.4 GB of disk (1 GB are free)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("torch", "message"),
    [
        (None, "got ModuleNotFoundError: No module named 'torch'"),
        ("raise OSError('no libcudart')", "got OSError: no libcudart"),
        ("__version__ = '2.10.1+cpu'", r"expects torch 2\.11 or later .* got torch 2\.10\.1\+cpu"),
    ],
)
def test_a_system_torch_that_will_not_do_is_refused(tmp_path, torch, message):
    other = tmp_path / "other python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    (site,) = other.glob("lib/python*/site-packages")
    if torch:
        write(site / "torch.py", torch + "\nzeros = lambda *size: None\n")
        write(site / "torchvision.py", "class ops:\n    nms = print\n__version__ = '0.25'\n")
    refused = make("TORCH=system", f"PYTHON={other}/bin/python", f"VENV={tmp_path}/venv")
    assert refused.returncode
    assert re.search(message, refused.stderr)
    assert not (tmp_path / "venv").exists()


def test_settings_of_where_packages_come_from_are_kept_and_no_others():
    kept = "PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX PIP_CERT PIP_CLIENT_CERT"
    kept += " PIP_CONFIG_FILE PIP_PROXY PIP_TRUSTED_HOST PIP_CACHE_DIR PIP_DEFAULT_TIMEOUT UV_INDEX"
    kept += " UV_DEFAULT_INDEX UV_INDEX_OURS_PASSWORD UV_FIND_LINKS UV_CACHE_DIR UV_NATIVE_TLS"
    gone = "PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_REQUIRE_VIRTUALENV UV_OVERRIDE"
    gone += " PIP_CONSTRAINT UV_SYSTEM_PYTHON UV_TORCH_BACKEND UV_NO_VERIFY_HASHES PYTHONPYCACHE"
    assert all(re.match(setup_env.SOURCES, name) for name in kept.split())
    assert not any(re.match(setup_env.SOURCES, name) for name in gone.split())


# What is ready, and what is not


@pytest.fixture
def ready(tmp_path):
    """Make an environment with the stamp of one that is ready; return its folder."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    for name in ("fredist", "torch", "torchvision"):
        write(site / f"{name}.py")
    stamp = {"venv": str(venv), "torch": "default", "python": sys._base_executable}
    for name, path in (("lock", setup_env.LOCK), ("project", setup_env.PROJECT)):
        stamp[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    write(venv / ".fredist-setup", json.dumps(stamp))
    return venv


def said_on_a_full_disk(venv, python, *words):
    """Return what the script says, which builds nothing there."""
    start = "import runpy, shutil, sys, types; sys.argv = sys.argv[1:]; "
    start += "shutil.disk_usage = lambda _: types.SimpleNamespace(free=0); "
    start += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = [python, "-c", start, "setup", venv, *words]
    ran = subprocess.run(command, capture_output=True, text=True)
    return ran.stdout + ran.stderr


def test_an_interpreter_by_another_name_rebuilds_nothing(ready, tmp_path):
    (tmp_path / "another-name").symlink_to(sys._base_executable)
    for python in (ready / "bin" / "python", tmp_path / "another-name"):
        assert "nothing to do" in said_on_a_full_disk(ready, python, "--python", python)
    stamp = ready / ".fredist-setup"
    stamp.write_text(stamp.read_text().replace(sys._base_executable, "/elsewhere/python3"))
    assert "nothing to do" in said_on_a_full_disk(ready, sys.executable)
    asked = said_on_a_full_disk(ready, sys.executable, "--python", sys.executable)
    assert "GB free for" in asked


def test_an_environment_whose_torch_is_gone_is_not_ready(ready):
    assert "nothing to do" in said_on_a_full_disk(ready, sys.executable)
    next(ready.glob("lib/python*/site-packages/torch.py")).unlink()
    assert "GB free for" in said_on_a_full_disk(ready, sys.executable)


def test_an_environment_that_a_new_python_has_broken_is_not_ready(ready):
    assert "nothing to do" in said_on_a_full_disk(ready, sys.executable)
    (site,) = ready.glob("lib/python*/site-packages")
    other = site.parent.with_name("python3.1") / "site-packages"  # as of another version
    other.parent.mkdir()
    site.rename(other)
    assert "GB free for" in said_on_a_full_disk(ready, sys.executable)
    other.rename(site)
    (ready / "bin" / "python").unlink()
    (ready / "bin" / "python").write_text("no program")
    assert "GB free for" in said_on_a_full_disk(ready, sys.executable)


def test_an_interrupted_setup_goes_on_as_it_was_asked_for(tmp_path, monkeypatch):
    kinds, python = [], str(tmp_path / "python")

    def interrupt(*command, **options):
        raise KeyboardInterrupt

    def setup(*words):
        monkeypatch.setattr(sys, "argv", ["setup", str(tmp_path / "venv"), *words])
        with pytest.raises(KeyboardInterrupt):
            setup_env.main()

    monkeypatch.setattr(setup_env, "find_torch", list)
    monkeypatch.setattr(setup_env, "check_disk", lambda venv, kind: kinds.append(kind))
    monkeypatch.setattr(setup_env.subprocess, "run", interrupt)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "executable", python)
    setup("--torch", "system", "--python", python)
    setup("--quiet")
    assert kinds == ["system", "system"]
    stamp = json.loads((tmp_path / "venv" / ".fredist-setup").read_text())
    assert stamp == {"torch": "system", "python": python}


# What is built


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
def test_an_index_that_pip_is_told_of_is_the_only_one_asked(tmp_path):
    nobody = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    nobody |= {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    failed = make("TORCH=default", f"VENV={tmp_path}/venv", timeout=300, **nobody)
    assert failed.returncode
    assert "setup: pip installs the lock" in failed.stdout
    assert re.search(r"No matching distribution|Connection refused", failed.stderr)
    assert not (tmp_path / "venv" / "bin" / "uv").exists()


@pytest.mark.slow
def test_system_torch_is_used_and_all_else_is_the_lock_s(tmp_path, registry):
    """Whatever the user has set, and after an interruption."""
    venv, wrong = tmp_path / "a venv", tmp_path / "wrong"
    conf = f"[install]\nuser = true\ntarget = {wrong}\n[global]\nrequire-virtualenv = true\n"
    write(tmp_path / "pip.conf", conf)
    write(tmp_path / "modules" / "json.py", "raise SystemExit('not of the standard library')")
    settings = {name: str(wrong) for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME")}
    settings |= dict.fromkeys(("PIP_USER", "PIP_REQUIRE_VIRTUALENV", "UV_SYSTEM_PYTHON"), "1")
    settings |= {"UV_OVERRIDE": str(wrong), "PYTHONPATH": str(tmp_path / "modules")}
    # One that is set already may name the index that the test needs.
    settings["PIP_CONFIG_FILE"] = os.environ.get("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    ask = [f"VENV={venv}", "TORCH=system", f"PYTHON={sys.executable}"]

    command = [sys.executable, SCRIPT, venv, "--torch", "system"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    while not (venv / "bin" / "pip").exists() and first.poll() is None:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (venv / "bin" / "timm").exists()
    built = make(*ask, timeout=1200, **settings)
    assert built.returncode == 0, built.stdout + built.stderr
    assert f"setup: torch {metadata.version('torch').split('+')[0]}" in built.stdout
    assert not wrong.exists()
    assert not (ROOT / "lib").exists()  # where pip would install with an empty prefix

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
    assert "(torch: system), nothing to do" in make(f"VENV={venv}").stdout
