"""Where a record comes from: versions, device, source revision."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache

import torch

from . import paths
from .train import thread_count


def describe(device: torch.device) -> dict:
    """Return what made a record on a device: versions, the device and its threads, and when."""
    import timm
    import torchvision

    from . import __version__

    return {
        "fredist": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "device_type": device.type,
        "device": device_name(device),
        "threads": thread_count(device),
        "compiled": False,
        "packed": 1,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_name(device: torch.device) -> str:
    """Return the device's name as its maker gives it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            model = next(
                (x.split(":")[1].strip() for x in info if x.startswith("model name")), model
            )
    except OSError:
        pass  # not Linux
    return model


@cache
def revision() -> str | None:
    """Return the checkout's commit, with a plus where the source differs from it."""
    try:
        git = ["git", "-C", str(paths.ROOT)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "fredist"], capture_output=True, text=True
        )
    except OSError:
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
