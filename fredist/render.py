"""Executing a notebook with parameters: what stands behind `make table1` and `make publish`."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
import papermill

from . import paths, report, tables
from .data import DATASETS, FINGERPRINTS, at_hand, load
from .experiments import (
    EXPERIMENTS,
    TABLE2_DATASETS,
    fetch_unknown,
    get_profile,
    resolve_profile,
)
from .progress import PLAIN, bar
from .recipes import PROFILES
from .runs import Store
from .templates import check_choice

NOTEBOOKS = tuple(sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb")))


def render(
    name: str,
    profile: str = "auto",
    datasets: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    remeasure: bool = False,
) -> Path:
    """Execute a notebook, making what is missing of the records asked for; return its path.

    The executed notebook appears in `paper_figures/<profile>/` only when every cell has run. Its
    standard output is also this process's.

    Raises
    ------
    ValueError
        For names that do not exist, before anything is started.
    RuntimeError
        When a cell fails or the kernel dies; what an earlier call has made stays as it was.
    """
    check_choice("notebook", name, NOTEBOOKS)
    auto, profile = profile == "auto", resolve_profile(profile)
    asked = {"datasets": datasets, "models": models, "templates": templates, "seeds": seeds}
    missing = []
    if name in EXPERIMENTS:
        fetch_unknown(name, profile, datasets)
        runs = EXPERIMENTS[name](profile, **asked)
        asked["datasets"] = list(dict.fromkeys(run.dataset for run in runs))
        store = Store()
        missing = [run for run in runs if store.find(run) is None]
        for dataset in dict.fromkeys(run.dataset for run in missing):
            # Fetched and decoded here, where a bar can be seen; smoke never touches the network.
            load(dataset, download=profile != "smoke", progress=bar)
        if auto and missing and profile == "paper":
            _name_shorter(name)
    # Lists left out are the notebook's own, or all; what it has no use for it does not get.
    parameters = {"profile": profile, "train": bool(missing), "measure": True}
    parameters |= asked | {"remeasure": remeasure}
    source, target = paths.NOTEBOOKS / f"{name}.ipynb", paths.FIGURES / profile / f"{name}.ipynb"
    known = papermill.inspect_notebook(source)
    for option in (key for key, value in asked.items() if value and key not in known):
        print(f"{name} has no {option} to choose from: all are shown")
    execute(source, target, {key: value for key, value in parameters.items() if key in known})
    if name in EXPERIMENTS:
        _name_better(name, profile, Store())
    files = sorted(path.suffix for path in target.parent.glob(f"{name}.*"))
    print(f"\nfiles: {os.path.relpath(target.parent)}/{name}{', '.join(files)}")
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
    """Remake the committed tables, figures and notebooks from the shipped records alone.

    Each data set's Tables 1 and 2 come from the first profile, best first, that is complete at
    seed 0; profiles are never mixed in one table. All else is what the committed notebook shows.
    """
    with tempfile.TemporaryDirectory() as scratch:
        own = {"FREDIST_RUNS": f"{scratch}/runs", "FREDIST_FIGURES": f"{scratch}/figures"}
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            for name in NOTEBOOKS:
                notebook = paths.NOTEBOOKS / f"{name}.ipynb"
                execute(notebook, notebook, {})
                clean(notebook)
        finally:
            os.environ.update({name: value for name, value in before.items() if value})
            for name in (name for name, value in before.items() if not value):
                del os.environ[name]
        for path in sorted(Path(scratch).glob("figures/*/*")):
            paths.write_whole(paths.FIGURES / path.name, path.read_bytes())
    store = Store([paths.RESULTS])
    for name, table in (("table1", tables.table1), ("table2", tables.table2)):
        found = []
        for dataset in _candidates(name):
            if profile := tables.best_profile(dataset, store, name):
                found += table(profile, [dataset], store)
        if found:
            report.save(found, name, paths.FIGURES)
            report.picture(found[0], paths.FIGURES / f"{name}.png")


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
        print(f"  make {name} PROFILE={profile}  # {'; '.join(tables.differences(profile))}")
    print("Ctrl-C loses nothing: the same command continues.", flush=True)


def _name_better(name: str, profile: str, store: Store) -> None:
    """Say which better records are at hand than those of the profile just shown."""
    for dataset in _candidates(name):
        best = tables.best_profile(dataset, store, name)
        if best and list(PROFILES).index(best) < list(PROFILES).index(profile):
            print(
                f"\nBetter records are at hand: {DATASETS[dataset].label} of the profile {best}. "
                f"See them: make {name} PROFILE={best} DATASETS={dataset}"
            )


def _candidates(name: str) -> list[str]:
    """Return an experiment's real data sets, of those whose runs are known without the data."""
    own = TABLE2_DATASETS if name == "table2" else get_profile("paper").datasets
    return [dataset for dataset in own if dataset in FINGERPRINTS and dataset != "digits"]


def fetch(datasets: Sequence[str] | None = None) -> None:
    """Download what is missing of the data sets and check that all can be read."""
    for name in datasets or get_profile("paper").datasets:
        there = at_hand(name)
        images = load(name, download=True, progress=bar)
        print(
            f"{name}: {len(images.train_labels):,} train and {len(images.test_labels):,} test "
            f"images, {'at hand' if there else 'downloaded'} as {images.source}"
        )
