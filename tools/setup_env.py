"""Build the environment of `make setup`: a venv with the packages of requirements.lock.

Run by the Python to build from, with its standard library alone; it parses on Python 3.6, to say
that this is too old. A stamp marks the folder as ours before anything is in it and is filled in
last: an interrupted setup is redone, and no folder but our own is ever emptied. `uv sync` does the
middle of this, but has to be installed first, knows no torch of the system's, and reads none of
pip's settings.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, PROJECT, STAMP = ROOT / "requirements.lock", ROOT / "pyproject.toml", ".fredist-setup"
OLDEST_PYTHON, OLDEST_TORCH = (3, 11), (2, 11)  # as in pyproject.toml, where a test compares them
# GB to download and GB on disk, measured with an empty cache. On Linux most of both are the CUDA
# libraries of torch.
SIZES = {"linux": (3.5, 6.7), "darwin": (0.6, 1.9), "system": (0.4, 1.4)}
# What TORCH=system leaves to the Python that it is built from.
TORCH_PACKAGES = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")
# The files of an environment that is only begun, as by an editor: it holds nothing to lose.
BARE = re.compile(
    r"pyvenv\.cfg|\.gitignore|lib64|bin/((python|pip|activate)[^/]*|Activate\.ps1)"
    r"|lib/python[^/]*/site-packages/((pip|setuptools)(-[^/]*)?|pkg_resources|_distutils_hack)/.*"
    r"|lib/python[^/]*/site-packages/distutils-precedence\.pth"
)
# The user's settings of pip and uv that say where packages come from. Any other, and Python's own,
# could install something else or somewhere else: PIP_USER, PIP_TARGET, UV_OVERRIDE, PYTHONHOME.
SOURCES = "(PIP|UV)_.*(INDEX|LINKS|CERT|TLS|PROXY|HOST|KEYRING|TIMEOUT|RETRIES|CACHE|CONFIG_FILE)"


def check_python():
    """Exit where this Python is too old or cannot make environments."""
    problem = None
    if sys.version_info[:2] < OLDEST_PYTHON:
        problem = "is {}.{}".format(*sys.version_info)
    try:
        __import__("ensurepip"), __import__("venv")
    except ImportError as error:
        problem = problem or f"has no {error.name} (on Debian and Ubuntu: install python3-venv)"
    if problem:
        sys.exit(
            "setup: expected Python 3.11 or later (3.11 to 3.13 are tested) that can make virtual "
            f"environments, {sys.executable} {problem}. Name one: make setup PYTHON=python3.12"
        )


def check_folder(venv):
    """Exit unless `venv` is free, ours, or an environment with nothing in it yet."""
    within = (path for path in venv.rglob("*") if path.is_symlink() or not path.is_dir())
    bare = (venv / "pyvenv.cfg").is_file() and all(
        BARE.fullmatch(path.relative_to(venv).as_posix()) for path in within
    )
    if venv.is_symlink():
        got = f"a link to {venv.resolve()}"  # which may be anything, and is not ours to empty
    elif venv.exists() and not venv.is_dir():
        got = "a file"
    elif not venv.exists() or not any(venv.iterdir()) or (venv / STAMP).exists() or bare:
        return
    else:
        got = "a folder with other contents"
    sys.exit(
        "setup: expected a new or empty folder, or the environment of an earlier make setup; "
        f"{venv} is {got}. It stays as it is: move it away, or name another: make setup VENV=..."
    )


def check_disk(venv, kind):
    """Print what the setup will download and keep; exit if the disk has no room for it."""
    download, disk = SIZES["system" if kind == "system" else sys.platform]
    folder = next(parent for parent in venv.parents if parent.is_dir())
    free = shutil.disk_usage(str(folder)).free / 1e9
    print(f"setup: {venv} needs about {disk} GB of disk ({free:.0f} GB are free), and downloads of")
    print(f"setup: about {download} GB, less what is still in the cache from before", flush=True)
    if free < disk:
        sys.exit(
            f"setup: expected {disk} GB free for {venv}, got {free:.1f}. "
            "Make room, or name another place: make setup VENV=..."
        )


def find_torch():
    """Return the folders in which this Python finds torch and torchvision; exit if it does not."""
    try:
        import torch
        import torchvision

        # Boxes make torchvision load its compiled half, which is where a mismatched pair fails.
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        found = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
        new = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) >= OLDEST_TORCH
    except Exception as error:
        found, new = f"{type(error).__name__}: {error}", False
    if not new:
        sys.exit(
            "setup: TORCH=system expects torch 2.11 or later and its torchvision in "
            f"{sys.executable}, got {found}. Name the Python that has them: make setup "
            "TORCH=system PYTHON=..., or take the lock's: make setup TORCH=default"
        )
    print(f"setup: {found} of {sys.executable}")
    homes = [str(Path(module.__file__).parent.parent) for module in (torch, torchvision)]
    homes += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return list(dict.fromkeys(homes))


def lock_blocks(text):
    """Return the lock's requirements as a list of blocks, each with its hashes."""
    return re.findall(r"^[a-z0-9].*\n(?:[ \t]+.*\n)*", text, re.MULTILINE)


def pip_install(venv, *words):
    """Install into the venv with its own pip; a pip.conf may say where from, but not where to."""
    places = ["--no-user", "--target=", "--root=/", f"--prefix={venv}"]
    command = [venv / "bin" / "python", "-m", "pip", "install", *places, "--no-deps", *words]
    subprocess.run(command, check=True)


def build(venv, kind, python):
    """Make the venv anew, with the lock's packages, whose hashes are checked."""
    blocks, homes = lock_blocks(LOCK.read_text()), []
    if kind == "system":
        if Path(sys.prefix).resolve() == venv.resolve():
            sys.exit(f"setup: PYTHON is that of {venv}, to be replaced. Deactivate it first.")
        homes = find_torch()
        blocks = [block for block in blocks if not TORCH_PACKAGES.match(block)]
    check_disk(venv, kind)

    venv.mkdir(parents=True, exist_ok=True)
    # What was asked: where this is interrupted, the next setup goes on with it.
    (venv / STAMP).write_text(json.dumps({"torch": kind, "python": python}))
    for path in venv.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != STAMP:
            path.unlink()
    # From the base Python: a venv's own may be the link that was just removed.
    subprocess.run([sys._base_executable, "-m", "venv", str(venv)], check=True)

    python, uv_lock, whole = venv / "bin" / "python", venv / "uv.lock", venv / "all.lock"
    uv_lock.write_text("".join(block for block in blocks if block.startswith("uv==")))
    whole.write_text("".join(blocks))
    hashed = [*([] if sys.stderr.isatty() else ["--quiet"]), "--require-hashes", "-r"]
    # uv is twice as quick, but reads none of pip's settings: where they name the index, pip alone.
    settings = subprocess.check_output([python, "-m", "pip", "config", "list"]).decode()
    installed = False
    if not re.search(r"\.(index-url|no-index)=", settings):
        pip_install(venv, *hashed, uv_lock)
        uv = [venv / "bin" / "uv", "pip", "install", "--python", python, "--no-deps"]
        # Bytecode as with pip: where Python keeps none, every import would take twice as long.
        uv = subprocess.run([*uv, "--compile-bytecode", *hashed, whole])
        installed = uv.returncode == 0
    if not installed:
        print("setup: pip installs the lock, more slowly than uv would", flush=True)
        pip_install(venv, *hashed, whole)
    if homes:  # last, so that no installer takes what is there for the venv's own
        (site,) = venv.glob("lib/python*/site-packages")
        (site / "system-torch.pth").write_text("\n".join(homes))


def works(venv):
    """Return whether the venv's Python finds what it needs: not after the system's has changed."""
    ask = "from importlib.util import find_spec as f; "
    ask += "raise SystemExit(not all(map(f, ('fredist', 'torch', 'torchvision'))))"
    try:
        return not subprocess.call([str(venv / "bin" / "python"), "-I", "-c", ask])
    except OSError:
        return False


@contextlib.contextmanager
def turn():
    """Hold the lock's file: two makes in one checkout must not build together."""
    # NFS locks only what can be written, and a checkout may be read-only.
    with open(str(LOCK), "r+" if os.access(str(LOCK), os.W_OK) else "r") as lock:
        with contextlib.suppress(OSError):  # some network disks have no locks, most need none
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("setup: waiting for another make in this checkout", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main():
    """Build the venv unless its stamp says that it is what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv")
    parser.add_argument("--torch", choices=["default", "system"], help="unset: as it was built")
    parser.add_argument("--python", help="this Python, named on purpose; unset: as it was built")
    parser.add_argument("--quiet", action="store_true", help="say nothing if nothing is to do")
    args = parser.parse_args()
    venv = Path(os.path.abspath(args.venv))
    with turn():
        try:
            old = json.loads((venv / STAMP).read_text())
        except (OSError, ValueError):
            old = {}
        kind = args.torch or old.get("torch", "default")
        python = sys.executable if kind == "system" else getattr(sys, "_base_executable", None)
        known = old.get("python", python)
        if kind == "default" and os.path.realpath(str(python)) == os.path.realpath(str(known)):
            python = known  # by another name, or this environment's own, which is a link to it
        wanted = {
            "venv": str(venv),  # a moved or copied environment does not work
            "torch": kind,
            "python": python if args.python else known,
            "lock": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
            "project": hashlib.sha256(PROJECT.read_bytes()).hexdigest(),
        }
        changed = {key for key in wanted if wanted[key] != old.get(key)}
        if not works(venv):
            changed.add("venv")
        if not changed:
            if not args.quiet:
                print(f"setup: {args.venv} is ready (torch: {kind}), nothing to do")
            return
        # Make starts this with -E: after the standard library's modules, a torch may be there.
        sys.path += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        for name in list(os.environ):
            if name.startswith(("PIP_", "UV_", "PYTHON")) and not re.match(SOURCES, name):
                del os.environ[name]
        os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        if changed != {"project"}:
            check_python()
            check_folder(venv)
            build(venv, kind, python)
            wanted["python"] = python
        pip_install(venv, "--quiet", "--no-index", "--no-build-isolation", "-e", ROOT)
        (venv / STAMP).write_text(json.dumps(wanted))
    print(f"setup: {args.venv} is ready (torch: {kind})")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; the next make setup starts it again")
    except OSError as error:
        sys.exit(f"setup: {error}")
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        sys.exit(f"setup: `{command}` failed with status {error.returncode}; see above")
