"""Runs as values, and their records: one JSON file each, found by the hash of the run.

A run says everything that decides its result. Its record adds the result and where it came from;
several records of one run (another device, another machine) are alternatives. A measurement's
records are files of the same form; of those the newest counts.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .data import DATASETS
from .models import SHAPING, default_options, redistribute
from .paths import RESULTS, runs_folder, write_whole
from .recipes import Profile, Recipe, Reduction
from .templates import exact_width

if TYPE_CHECKING:
    from .measurements import Measurement

RECIPE_VERSION = 1  # raised when the same recipe comes to mean another computation
SCHEMA = 1
QUANTITIES = ("memory", "time")  # of measurements, whose records are named by them
_NAME = re.compile(r"(?P<label>[a-z0-9_-]+)-(?P<run>[0-9a-f]{12})-(?P<content>[0-9a-f]{12})\.json")


class RecordError(ValueError):
    """A record file is not what its name promises."""


@dataclass(frozen=True)
class Run:
    """One training run: everything that decides its result, and nothing else.

    Device type, compilation and thread count are provenance of its record, not part of it.
    `filters` are those really built, with the reduction's width factor in them.
    """

    dataset: str
    fingerprint: str
    num_classes: int
    model: str
    template: str
    convention: str
    width: float
    filters: tuple
    options: tuple[tuple[str, object], ...]
    recipe: Recipe
    reduction: Reduction
    seed: int
    version: int = RECIPE_VERSION

    @cached_property
    def id(self) -> str:
        """The hash over all fields, 12 hex digits."""
        return identity(self)

    @property
    def name(self) -> str:
        """Model, template and id: unique and readable."""
        return f"{self.model}-{self.template}-{self.id}"

    @property
    def built_width(self) -> Fraction:
        """The width multiplier with the reduction's factor."""
        return exact_width(self.width) * exact_width(self.reduction.width_factor)


def make_run(
    profile: Profile,
    dataset: str,
    model: str,
    template: str,
    *,
    seed: int = 0,
    width: float = 1.0,
    convention: str = "equations",
    fingerprint: str | None = None,
    **options,
) -> Run:
    """Return the run of one network of a profile.

    Where the published convention changes nothing the run is that of the equations: one network,
    one run.

    Examples
    --------
    >>> from fredist.recipes import PROFILES
    >>> run = make_run(PROFILES["narrow"], "cifar10", "resnet50", "uniform")
    >>> run.filters
    (19, 19, 19, 19)
    """
    info = DATASETS[dataset]
    built = exact_width(width) * exact_width(profile.reduction.width_factor)
    options = default_options(model) | options
    shaping = {name: options[name] for name in SHAPING if name in options}
    filters = redistribute(model, template, built, convention=convention, **shaping)
    if convention != "equations" and filters == redistribute(model, template, built, **shaping):
        convention = "equations"
    return Run(
        dataset=dataset,
        fingerprint=fingerprint or info.fingerprint,
        num_classes=info.classes,
        model=model,
        template=template,
        convention=convention,
        width=float(width),
        filters=filters,
        options=tuple(sorted(options.items())),
        recipe=profile.recipe,
        reduction=profile.reduction,
        seed=seed,
    )


@dataclass(frozen=True)
class Record:
    """A run's results and provenance, as read from its file."""

    run_id: str
    run: dict
    results: dict
    history: dict
    provenance: dict
    path: Path

    @property
    def on_cuda(self) -> bool:
        return self.provenance["device_type"] == "cuda"


def write_record(
    run: "Run | Measurement",
    results: dict,
    history: dict,
    provenance: dict,
    folder: Path | None = None,
) -> Path:
    """Write a run's or a measurement's record into the user's folder and return its path.

    The file's name holds the hash of its content, so that a changed digit is found out.
    """
    content = {
        "schema": SCHEMA,
        "run_id": run.id,
        "run": asdict(run),
        "results": results,
        "history": history,
        "provenance": provenance,
    }
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    path = (folder or runs_folder()) / f"{run.name}-{_hash(text)}.json"
    write_whole(path, text)
    return path


def read_record(path: Path) -> Record:
    """Return the record in `path`, or raise `RecordError` naming the file and what is wrong."""
    match = _NAME.fullmatch(path.name)
    if not match:
        raise RecordError(
            f"expected a record named <model>-<template>-<run>-<content>.json, got {path}: "
            "move other files out of the folder of records"
        )
    text = path.read_bytes()
    if _hash(text) != match["content"]:
        raise RecordError(
            f"expected content with hash {match['content']} in {path}, got {_hash(text)}: the file "
            "was changed or damaged; restore it, or delete it to train the run again"
        )
    content = json.loads(text)
    if content["schema"] != SCHEMA:
        raise RecordError(
            f"expected schema {SCHEMA} in {path}, got {content['schema']}: it was written by "
            "another version of fredist"
        )
    if content["run_id"] != match["run"] or _hash(canonical(content["run"])) != match["run"]:
        raise RecordError(f"expected the run {match['run']} in {path}, got another one's identity")
    fields = ("run_id", "run", "results", "history", "provenance")
    return Record(**{name: content[name] for name in fields}, path=path)


class Store:
    """All records at hand: the user's own and the shipped ones.

    Parameters
    ----------
    folders : list of Path, optional
        By default the user's folder and the shipped `results/`. Each is listed once, when the
        store is made.
    """

    def __init__(self, folders: Iterable[Path] | None = None):
        folders = (runs_folder(), RESULTS) if folders is None else folders
        self._paths: dict[str, list[Path]] = {}
        self._records: dict[Path, Record] = {}
        for folder in dict.fromkeys(Path(f).resolve() for f in folders):
            for path in sorted(folder.glob("*.json")):
                match = _NAME.fullmatch(path.name)
                if not match:
                    read_record(path)  # says what is wrong
                self._paths.setdefault(match["run"], []).append(path)

    def find(self, run: "Run | Measurement") -> Record | None:
        """Return the run's record: of several alternatives CUDA before CPU, then the oldest.

        Of a measurement the newest.
        """
        records = [self._read(path) for path in self._paths.get(run.id, [])]
        return _preferred(records) if isinstance(run, Run) else _newest(records)

    def measurements(self) -> list[Record]:
        """Return the record of every measurement there is, the newest of each, by name."""
        return [
            _newest(self._read(path) for path in paths)
            for paths in sorted(self._paths.values(), key=lambda paths: paths[0].name)
            if _NAME.fullmatch(paths[0].name)["label"].endswith(QUANTITIES)
        ]

    def collect(self, runs: Iterable[Run]) -> dict[Run, Record]:
        """Return the records there are, by run, in the order asked for."""
        found = {run: self.find(run) for run in dict.fromkeys(runs)}
        return {run: record for run, record in found.items() if record is not None}

    def replicates(self, run: Run) -> dict[int, Record]:
        """Return the records of this run at every seed there is, one for each seed, by seed."""
        like = as_recorded(run) | {"seed": None}
        prefix = f"{run.model}-{run.template}-"
        by_seed: dict[int, list[Record]] = {}
        for paths in self._paths.values():
            for path in paths:
                if path.name.startswith(prefix):
                    record = self._read(path)
                    if record.run | {"seed": None} == like:
                        by_seed.setdefault(record.run["seed"], []).append(record)
        return {seed: _preferred(by_seed[seed]) for seed in sorted(by_seed)}

    def _read(self, path: Path) -> Record:
        if path not in self._records:
            self._records[path] = read_record(path)
        return self._records[path]


def _preferred(records: Iterable[Record]) -> Record | None:
    return min(
        records,
        key=lambda r: (not r.on_cuda, r.provenance["finished"], r.path.name),
        default=None,
    )


def _newest(records: Iterable[Record]) -> Record | None:
    return max(records, key=lambda r: (r.provenance["finished"], r.path.name), default=None)


def identity(value) -> str:
    """Return the hash over all fields of a dataclass, 12 hex digits."""
    return _hash(canonical(asdict(value)))


def as_recorded(value) -> dict:
    """Return a dataclass's fields as a record has them: its tuples are JSON's lists."""
    return json.loads(canonical(asdict(value)))


def canonical(value) -> str:
    """Return the one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:12]
