"""Where things are."""

import os
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout
NOTEBOOKS = ROOT / "notebooks"
FIGURES = Path(os.environ.get("FREDIST_FIGURES") or ROOT / "paper_figures").absolute()
RESULTS = ROOT / "results"  # shipped records
PUBLISHED = Path(__file__).resolve().parent / "published"  # the paper's numbers


def runs_folder() -> Path:
    """Return the folder of the user's own records: FREDIST_RUNS, by default `runs/`."""
    folder = Path(os.environ.get("FREDIST_RUNS") or ROOT / "runs").absolute()
    os.environ["FREDIST_RUNS"] = str(folder)  # notebooks run from another folder
    return folder


def unfinished_folder() -> Path:
    """Return the folder of checkpoints, locks and failures, beside the records."""
    return runs_folder() / "unfinished"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears only complete, whatever stops the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sibling = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        sibling.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(sibling, path)
    finally:
        sibling.unlink(missing_ok=True)
