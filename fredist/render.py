"""Executing a notebook with parameters: what stands behind `make table1` and `make publish`."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
import papermill

from . import paths, report
from .data import DATASETS, FINGERPRINTS, at_hand, load
from .experiments import EXPERIMENTS, get_profile, resolve_datasets, resolve_profile
from .progress import PLAIN, bar
from .recipes import PROFILES
from .runs import Store
from .templates import check_choice


def render(
    name: str,
    profile: str = "auto",
    datasets: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Path:
    """Execute a notebook, training what is missing of the runs asked for; return its path.

    The executed notebook appears in `paper_figures/<profile>/` only when every cell has run. Its
    standard output is also this process's.

    Raises
    ------
    ValueError
        For names that do not exist, before anything is started.
    RuntimeError
        When a cell fails or the kernel dies; what an earlier call has made stays as it was.
    """
    check_choice("notebook", name, tuple(EXPERIMENTS))
    auto, profile = profile == "auto", resolve_profile(profile)
    runs = EXPERIMENTS[name](profile, datasets, models, templates, seeds)
    store = Store()
    missing = [run for run in runs if store.find(run) is None]
    for dataset in dict.fromkeys(run.dataset for run in missing):
        # Fetched and decoded here, where a bar can be seen; smoke never touches the network.
        load(dataset, download=profile != "smoke", progress=bar)
    if auto and missing and profile == "paper":
        _name_shorter(name)
    target = paths.FIGURES / profile / f"{name}.ipynb"
    parameters = {
        "profile": profile,
        "datasets": list(resolve_datasets(profile, datasets)),
        "models": models,
        "templates": templates,
        "seeds": seeds,
        "train": bool(missing),
    }
    execute(paths.NOTEBOOKS / f"{name}.ipynb", target, parameters)
    _name_better(name, profile, Store())
    print(f"\nfiles: {os.path.relpath(target.parent)}/{name}.csv, .md, .tex, .ipynb")
    return target


def execute(source: Path, target: Path, parameters: dict) -> None:
    """Execute a notebook into `target`, which appears only when all of it has run."""
    os.environ[PLAIN] = "1"
    # This environment's own kernel, whatever kernels the user has; and no notes of the debugger.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    paths.runs_folder()  # made absolute: the kernel runs in the notebook's folder
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / source.name
        try:
            papermill.execute_notebook(
                source,
                output,
                parameters=parameters,
                kernel_name="python3",
                cwd=source.parent,
                progress_bar=False,
                stdout_file=sys.stdout,
                extra_arguments=["--IPKernelApp.log_level=40"],  # its warnings are not for users
            )
        except papermill.PapermillExecutionError as error:
            raise RuntimeError(
                f"{source.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}"
            ) from None
        except RuntimeError as error:  # nbclient's: the kernel died
            raise RuntimeError(f"{source.name} did not finish: {error}") from None
        notebook = nbformat.read(output, as_version=4)
    if any(cell.cell_type == "code" and not cell.execution_count for cell in notebook.cells):
        raise RuntimeError(f"{source.name} did not finish: some of its cells never ran")
    paths.write_whole(target, nbformat.writes(notebook))


def publish() -> None:
    """Remake the committed tables and notebooks from the shipped records alone.

    Each data set's table comes from the first profile, best first, that is complete at seed 0;
    profiles are never mixed in one table.
    """
    store = Store([paths.RESULTS])
    tables = []
    for dataset in FINGERPRINTS:  # those whose runs are known without the data
        if profile := report.best_profile(dataset, store):
            tables += report.table1(profile, [dataset], store)
    if not tables:
        raise RuntimeError(f"expected a profile complete at seed 0 in {paths.RESULTS}, found none")
    report.save(tables, "table1", paths.FIGURES)
    report.picture(tables[0], paths.FIGURES / "table1.png")
    with tempfile.TemporaryDirectory() as empty:
        own, os.environ["FREDIST_RUNS"] = paths.runs_folder(), empty
        try:
            for name in EXPERIMENTS:
                notebook = paths.NOTEBOOKS / f"{name}.ipynb"
                execute(notebook, notebook, {})
                clean(notebook)
        finally:
            os.environ["FREDIST_RUNS"] = str(own)


def clean(path: Path) -> None:
    """Take out of an executed notebook what differs from one execution to the next."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
    paths.write_whole(path, nbformat.writes(notebook) + "\n")


def _name_shorter(name: str) -> None:
    print("Training the paper's protocol, the longest. Shorter ones, with what they change:")
    for profile in ("paper128", "quick", "narrow", "smoke"):
        print(f"  make {name} PROFILE={profile}  # {'; '.join(report.differences(profile))}")
    print("Ctrl-C loses nothing: the same command continues.", flush=True)


def _name_better(name: str, profile: str, store: Store) -> None:
    """Say which better records are at hand than those of the profile just shown."""
    for dataset in get_profile("paper").datasets:
        best = report.best_profile(dataset, store)
        if best and list(PROFILES).index(best) < list(PROFILES).index(profile):
            print(
                f"\nBetter records are at hand: {DATASETS[dataset].label} of the profile {best}. "
                f"See them: make {name} PROFILE={best} DATASETS={dataset}"
            )


def fetch(datasets: Sequence[str] | None = None) -> None:
    """Download what is missing of the data sets and check that all can be read."""
    for name in datasets or get_profile("paper").datasets:
        there = at_hand(name)
        images = load(name, download=True, progress=bar)
        print(
            f"{name}: {len(images.train_labels):,} train and {len(images.test_labels):,} test "
            f"images, {'at hand' if there else 'downloaded'} as {images.source}"
        )
