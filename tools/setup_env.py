"""Build the environment of `make setup`: a venv with the packages of requirements.lock.

Needs nothing but the standard library, and runs on old interpreters long enough to say that they
are too old. The stamp is written last, so that an interrupted setup is redone.
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

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOCK = os.path.join(ROOT, "requirements.lock")
OLDEST_PYTHON, OLDEST_TORCH = (3, 11), (2, 11)  # as in pyproject.toml, where a test compares them

# GB to download and GB on disk, measured with an empty cache. On Linux the registry's torch brings
# its CUDA libraries, most of both.
SIZES = {"linux": (3.4, 6.5), "elsewhere": (0.5, 1.7), "system": (0.3, 1.2)}

# What TORCH=system leaves to the other interpreter: torch, its pair and its libraries.
TORCH_PACKAGES = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)==")

# Run by the interpreter to build from. The boxes make torchvision load its compiled half, which is
# where a mismatched pair fails.
PROBE = """
import json, os, sys
facts = {"version": sys.version_info[:2], "prefix": sys.prefix}
facts["base"] = getattr(sys, "_base_executable", None) or sys.executable
try:
    import ensurepip, venv
except ImportError as error:
    facts["no_venv"] = str(error)
if sys.argv[1] == "system":
    try:
        import torch, torchvision
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        facts["torch"], facts["torchvision"] = torch.__version__, torchvision.__version__
        homes = [os.path.dirname(os.path.dirname(m.__file__)) for m in (torch, torchvision)]
        homes += [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
        facts["homes"] = list(dict.fromkeys(homes))
    except Exception as error:
        facts["no_torch"] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(facts))
"""


def wait_for_turn():
    """Return a held lock: two makes in a fresh checkout must not build one environment together."""
    lock = open(LOCK)  # noqa: SIM115 (held until the caller closes it)
    with contextlib.suppress(OSError):  # some network disks have no locks, and mostly need none
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def lock_blocks(text):
    """Return the lock's requirements as a list of blocks, each with its hashes.

    >>> lock_blocks("# made by\\na==1 \\\\\\n    --hash=sha256:0\\nb==2\\n")
    ['a==1 \\\\\\n    --hash=sha256:0\\n', 'b==2\\n']
    """
    return re.findall(r"^[a-z0-9].*\n(?:[ \t]+.*\n)*", text, re.MULTILINE)


def probe(python, kind):
    """Return what `python` says of itself and, with kind "system", of its torch.

    Exits, saying what to do, where either will not do.
    """
    try:
        found = subprocess.run([python, "-c", PROBE, kind], stdout=subprocess.PIPE, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(
            f"setup: expected a Python to build from, {python} failed ({error}). Try PYTHON=..."
        )
    facts = json.loads(found.stdout.decode().splitlines()[-1])
    if tuple(facts["version"]) < OLDEST_PYTHON:
        sys.exit(
            "setup: expected Python 3.11 or later (3.11 to 3.13 are tested), {} is {}.{}. "
            "Name another one: make setup PYTHON=python3.12".format(python, *facts["version"])
        )
    if "no_venv" in facts:
        sys.exit(
            f"setup: {python} cannot make virtual environments ({facts['no_venv']}). On Debian and "
            "Ubuntu install python3-venv, or name another Python: make setup PYTHON=..."
        )
    if "no_torch" in facts:
        sys.exit(
            f"setup: TORCH=system expects torch and torchvision that work in {python}, and got "
            f"{facts['no_torch']}. Name their Python: make setup TORCH=system PYTHON=..."
        )
    if kind == "system" and tuple(map(int, re.findall(r"\d+", facts["torch"])[:2])) < OLDEST_TORCH:
        sys.exit(
            f"setup: TORCH=system expects torch 2.11 or later, {python} has {facts['torch']}. "
            "Upgrade that one, or take the lock's: make setup TORCH=default"
        )
    return facts


def check_disk(venv, kind):
    """Print what the setup will download and keep; exit if the disk has no room for it."""
    sizes = kind if kind == "system" else "linux" if sys.platform == "linux" else "elsewhere"
    download, disk = SIZES[sizes]
    folder = os.path.dirname(venv)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free / 1e9
    why = ", most of it torch and its CUDA libraries" if sizes == "linux" else ""
    print(f"setup: {venv} needs about {disk} GB of disk ({free:.0f} GB are free){why}")
    print(f"setup: downloads about {download} GB, less what an earlier setup left in the cache")
    if free < disk:
        sys.exit(
            f"setup: expected {disk} GB free for {venv}, got {free:.1f}. "
            "Make room, or name another place: make setup VENV=..."
        )


def build(venv, kind, python, facts):
    """Make the venv and install the lock, without the torch packages if kind is "system"."""
    source = python if kind == "system" else facts["base"]  # not a venv's link: that may be ours
    subprocess.run([source, "-m", "venv", "--clear", venv], check=True)
    with open(LOCK) as file:
        blocks = lock_blocks(file.read())
    if kind == "system":
        blocks = [block for block in blocks if not TORCH_PACKAGES.match(block)]
    locks = {"uv.lock": [b for b in blocks if b.startswith("uv==")], "all.lock": blocks}
    for name, chosen in locks.items():
        with open(os.path.join(venv, name), "w") as file:
            file.writelines(chosen)

    flags = ["--require-hashes", "--no-deps", "-r"]  # the lock is complete: nothing to resolve
    pip = [os.path.join(venv, "bin", "python"), "-m", "pip", "install"]
    uv = [os.path.join(venv, "bin", "uv"), "pip", "install", "--python", pip[0]]
    # As pip does. Where Python keeps no bytecode of its own, every import would take twice as long.
    uv.append("--compile-bytecode")
    if not sys.stderr.isatty():  # a log needs no progress, nor 150 names
        uv.append("--quiet")
    try:
        subprocess.run([*pip, "--quiet", *flags, os.path.join(venv, "uv.lock")], check=True)
        subprocess.run([*uv, *flags, os.path.join(venv, "all.lock")], check=True)
    except (OSError, subprocess.CalledProcessError):
        print("setup: uv did not finish; pip goes on with the same lock, more slowly", flush=True)
        subprocess.run([*pip, *flags, os.path.join(venv, "all.lock")], check=True)
    if kind == "system":  # last, so that no installer takes those packages for the venv's own
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = subprocess.check_output([pip[0], "-c", where]).decode().strip()
        with open(os.path.join(site, "system-torch.pth"), "w") as file:
            file.writelines(home + "\n" for home in facts["homes"])


def install_project(venv):
    """Install fredist itself, editable, from what the venv already has."""
    pip = [os.path.join(venv, "bin", "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run(
        [*pip, "--no-index", "--no-deps", "--no-build-isolation", "-e", ROOT], check=True
    )


def digest(path):
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def main(argv=None):
    """Build the venv unless its stamp says that it is what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv")
    parser.add_argument("--torch", choices=["default", "system"], help="unset: as it was built")
    parser.add_argument("--python", help="the interpreter to build from; unset: as it was built")
    parser.add_argument(
        "--quiet", action="store_true", help="say nothing if there is nothing to do"
    )
    args = parser.parse_args(argv)
    turn = wait_for_turn()
    venv = os.path.abspath(args.venv)
    stamp = os.path.join(venv, ".fredist-setup")
    try:
        with open(stamp) as file:
            old = json.load(file)
    except (OSError, ValueError):
        old = {}
    if args.python:  # absolute, but a venv's python stays the link it is
        args.python = os.path.abspath(shutil.which(args.python) or args.python)
    kept = old if args.torch in (None, old.get("torch")) else {}  # another torch, another python3
    wanted = {
        "venv": venv,  # a moved or copied environment does not work
        "torch": args.torch or old.get("torch", "default"),
        "python": args.python or kept.get("python", sys.executable),
        "lock": digest(LOCK),
        "project": digest(os.path.join(ROOT, "pyproject.toml")),
    }
    changed = {key for key in wanted if wanted[key] != old.get(key)}
    if not os.path.exists(os.path.join(venv, "bin", "python")):
        changed.add("venv")
    if not changed:
        turn.close()
        if not args.quiet:
            print(f"setup: {args.venv} is ready (torch: {wanted['torch']}), nothing to do")
        return
    if changed != {"project"}:
        facts = probe(wanted["python"], wanted["torch"])
        if wanted["torch"] == "system":
            if os.path.realpath(facts["prefix"]) == os.path.realpath(venv):
                sys.exit(f"setup: PYTHON is that of {venv}, to be replaced. Deactivate it first.")
            pair = f"torch {facts['torch']}, torchvision {facts['torchvision']}"
            print(f"setup: {pair} of {wanted['python']}")
        else:
            wanted["python"] = args.python or facts["base"]
        check_disk(venv, wanted["torch"])
        sys.stdout.flush()
        if os.path.exists(stamp):
            os.remove(stamp)
        build(venv, wanted["torch"], wanted["python"], facts)
    install_project(venv)
    with open(stamp, "w") as file:
        json.dump(wanted, file)
    turn.close()
    print(f"setup: {args.venv} is ready (torch: {wanted['torch']})")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; the next make setup starts it again")
    except subprocess.CalledProcessError as error:
        sys.exit(f"setup: `{' '.join(error.cmd)}` failed with status {error.returncode}; see above")
