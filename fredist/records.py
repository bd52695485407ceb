"""Records of runs and measurements: one JSON file each, found by hash, and the store of them.

A record adds to its run the result and where it came from; several records of one run (another
device, another machine) are alternatives.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from .checks import check_choice, check_integer, check_number
from .data import DATASETS
from .networks import Network
from .paths import RESULTS, runs_folder, write_whole
from .recipes import Recipe
from .runs import COMPUTED, METHODS, Measurement, Run, canonical, short_hash

SCHEMA = 2
_IN_JSON = {Network: dict, Recipe: dict, tuple: list}  # of an identity's values
_NAME = re.compile(
    r"(?P<model>[a-z0-9]+)-(?P<label>[a-z_]+)-(?P<id>[0-9a-f]{12})-(?P<content>[0-9a-f]{12})\.json"
)


class RecordError(ValueError):
    """A file in a folder of records is not a record that can be used; says why."""


class OtherSchema(RecordError):
    """A record of another version of fredist: usually there are many, which are named as one."""

    def __init__(self, schema: int, path: Path):
        super().__init__(f"{path} is of schema {schema}: another version of fredist wrote it")
        self.schema = schema


class Place(NamedTuple):
    """Where a measurement was taken: all numbers of one table are of one place."""

    device: str  # its maker's name for it, or "computed"
    device_type: str
    threads: int  # 0 where a GPU computes, or nothing does
    torch: str
    instructions: str

    computed = property(lambda self: self.device == COMPUTED)

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" * bool(self.threads)
        return self.device + threads


@dataclass(frozen=True)
class Record:
    """Results and provenance as read from a file; `sessions` say which device did which part."""

    id: str
    identity: Mapping
    labels: Mapping
    results: Mapping
    history: Mapping
    provenance: Mapping
    path: Path

    @property
    def device(self) -> str:
        """The names of the devices it was made on, each once: one but for a run that moved."""
        return " + ".join(dict.fromkeys(s["device"] for s in self.provenance["sessions"]))

    @property
    def device_type(self) -> str:
        """cpu or cuda; both, joined by a plus, for a run that moved."""
        return "+".join(dict.fromkeys(s["device_type"] for s in self.provenance["sessions"]))

    @property
    def place(self) -> Place:
        """Where a measurement was taken; what is computed has no device."""
        it, own = self.identity, self.provenance["sessions"][0].get("instructions") or ""
        if it["device"] == COMPUTED:
            return Place(COMPUTED, COMPUTED, 0, it["torch"], "")
        return Place(it["device"], self.device_type, it["threads"] or 0, it["torch"], own)

    def counts(self, device: str | None = None) -> bool:
        """Whether it is to be used, for a device if its name or kind is given.

        A run that moved is of each kind that it was trained on; a measurement's device is part of
        what it is. A measurement from the future is not to be used: nobody knows when it was made,
        and a newer one would never be shown.
        """
        if "quantity" in self.identity:
            return not self.ahead
        return device in (None, self.device, self.device_type, *self.device_type.split("+"))

    @property
    def finished(self) -> datetime:
        """When it was finished, by its machine's clock."""
        return datetime.fromisoformat(self.provenance["finished"])

    @property
    def ahead(self) -> bool:
        """Whether it was finished in the future: its clock was wrong, so it is never the newest."""
        return self.finished > datetime.now(UTC) + timedelta(days=1)


def write_record(
    job: Run | Measurement,
    results: Mapping,
    history: Mapping,
    provenance: Mapping,
    folder: Path | None = None,
) -> Record:
    """Write a run's or a measurement's record into the user's folder and return it.

    `provenance` has `sessions` at least. The name holds the hash of the content, so that a changed
    digit is found out; what could not be read again is not written.
    """
    stamp = {"finished": datetime.now(UTC).isoformat(timespec="seconds")}
    content = heading(job) | {
        "results": dict(results),
        "history": dict(history),
        "provenance": stamp | dict(provenance),
    }
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    path = Path(folder or runs_folder()) / f"{job.name}-{short_hash(text)}.json"
    record = _parse(path, text.encode)
    write_whole(path, text)
    return record


def heading(job: Run | Measurement) -> dict:
    """Return what a job's record has before there are results; an error if it can have none."""
    labels = {k: getattr(job, k) for k in ("template", "width", "convention")}
    _match(Path(f"{job.name}-{short_hash(canonical(labels))}.json"))
    return {"schema": SCHEMA, "id": job.id, "identity": job.identity, "labels": labels}


def read_record(path: str | PathLike) -> Record:
    """Return the record in `path`, or raise `RecordError` naming the file and what is wrong."""
    path = Path(path)
    try:
        return _parse(path, path.read_bytes)
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from None


def _match(path: Path) -> re.Match:
    if match := _NAME.fullmatch(path.name):
        return match
    raise RecordError(
        "expected a record named <model>-<template>-<run>-<content>.json, the template of a-z and "
        f"_, got {path}: move other files out of the folder of records, or choose such a name"
    )


def _parse(path: Path, read: Callable[[], bytes]) -> Record:
    match = _match(path)
    data = read()  # only now: other files may be huge
    if short_hash(data) != match["content"]:
        raise RecordError(
            f"expected content with hash {match['content']} in {path}, got {short_hash(data)}: "
            "the file was changed or damaged; restore it, or move it away to make it again"
        )
    try:
        content = json.loads(data)
        if check_integer("schema", content["schema"]) != SCHEMA:
            raise OtherSchema(content["schema"], path)
        if (
            content["id"] != match["id"]
            or short_hash(canonical(content["identity"])) != match["id"]
        ):
            raise RecordError(f"expected the identity {match['id']} in {path}, got another one's")
        names = ("id", "identity", "labels", "results", "history", "provenance")
        record = Record(**{name: content[name] for name in names}, path=path)
        _check_content(record)
    except RecordError:
        raise
    except Exception as error:  # whatever content raises that is not a record's
        raise RecordError(
            f"expected a record's fields in {path}, got a file without them ({error!r})"
        ) from None
    return record


def _check_content(record: Record) -> None:
    """Raise an error for values that no run or measurement can have."""
    identity, results, history = record.identity, record.results, record.history
    kind = Run if "recipe" in identity else Measurement
    types = {name: one.type for name, one in kind.__dataclass_fields__.items() if one.compare}
    if set(identity) != set(types):
        raise ValueError(f"an identity of {', '.join(identity)}")
    for name, value in identity.items():
        if not isinstance(value, _IN_JSON.get(types[name], types[name])):
            raise TypeError(f"{value!r} as {name}")
    for name, value in results.items():
        check_number(name, value)
    if not results or record.ahead is None:
        raise ValueError("no results")
    check_sessions(record.provenance["sessions"])
    if kind is Run:
        check_history(history, identity["recipe"]["epochs"])
        if dict(results) != results | summary(history):
            raise ValueError(f"results of {results}, whose history says {summary(history)}")
    else:
        check_choice("method", identity["method"], METHODS[identity["quantity"]])
        for name, values in history.items():
            for value in values:
                check_number(name, value)


def check_sessions(sessions: list[dict]) -> None:
    """Raise an error unless the devices of a run's or a measurement's stretches are named."""
    for one in sessions:
        if not (one["device"] and isinstance(one["device"], str)):
            raise ValueError(f"a device of {one['device']!r}")
        check_choice("kind of device", one["device_type"], ("cpu", "cuda"))
        if not isinstance(one.get("instructions"), str | None):
            raise TypeError(f"instructions of {one['instructions']!r}")
    if not sessions:
        raise ValueError("no sessions")


def check_history(history: Mapping[str, list], epochs: int) -> None:
    """Raise an error for a history that no run of so many epochs has."""
    for name in dict.fromkeys(("loss", "train_top1", "test_top1", "test_top5", *history)):
        if len(history[name]) != epochs:
            raise ValueError(f"{len(history[name])} of {epochs} epochs in {name}")
        for value in history[name]:
            if check_number(name, value) > 100 and name != "loss":
                raise ValueError(f"{name} of {value}%")


def summary(history: Mapping[str, list[float]]) -> dict[str, float]:
    """Return a run's results that its history tells, in percent.

    Examples
    --------
    >>> summary({"test_top1": [50.0, 40.0], "test_top5": [90.0, 80.0]})
    {'top1_last': 40.0, 'top5_last': 80.0, 'top1_best': 50.0}
    """
    top1, found = history["test_top1"], {}
    found |= {"top1_last": top1[-1], "top5_last": history["test_top5"][-1], "top1_best": max(top1)}
    if values := history.get("train_eval_top1"):
        found |= {"train_top1_last": values[-1], "train_top1_best": max(values)}
    return found


class Store:
    """All records at hand: the user's own and the shipped ones.

    Files that cannot be used are named in `problems`, skipped, and the rest goes on. Hidden files
    are nobody's.

    Parameters
    ----------
    folders : path or list of paths, optional
        By default the user's folder and the shipped `results/`. Each is read once.
    """

    def __init__(self, folders: str | PathLike | Iterable[str | PathLike] | None = None):
        named = folders is not None
        folders = folders if named else (runs_folder(), RESULTS)
        folders = [folders] if isinstance(folders, str | PathLike) else folders
        self.problems: list[str] = []
        self._records: dict[str, list[Record]] = {}
        for folder in dict.fromkeys(Path(one).resolve() for one in folders):
            if named and not folder.is_dir():
                self.problems.append(f"expected a folder of records, got {folder}")
            inside = (path for path in folder.glob("[!.]*/*.json") if _NAME.fullmatch(path.name))
            if any(path.parent.name != "unfinished" for path in inside):
                self.problems.append(f"records in folders of {folder} are not read: move them up")
            self._read(folder)

    def _read(self, folder: Path) -> None:
        """Add the records of a folder, and name the files that are none."""
        other = Counter()
        for path in sorted(folder.glob("*.json")):
            if path.name.startswith(".") or not path.is_file():
                continue
            try:
                record = read_record(path)
            except OtherSchema as error:
                other[error.schema] += 1
                continue
            except RecordError as error:
                self.problems.append(str(error))
                continue
            if record.ahead:
                self.problems.append(
                    f"{path} was finished in the future: its clock was wrong. A run counts all "
                    "the same; a measurement is left out: make it again, or move it away"
                )
            self._records.setdefault(record.id, []).append(record)
        self.problems += [
            f"{count} records of schema {schema} in {folder} are left out: another version "
            f"of fredist wrote them, this one writes schema {SCHEMA}"
            for schema, count in other.items()
        ]

    def find(self, job: Run | Measurement, device: str | None = None) -> Record | None:
        """Return a job's record, that of a run on one device if its name or kind is given.

        Of a run's alternatives CUDA before CPU, then the oldest, so that a table does not change
        when another is added, and those that moved last; of a measurement the newest.
        """
        found = [r for r in self._records.get(job.id, ()) if r.counts(device)]
        if isinstance(job, Measurement):
            return max(found, key=lambda r: (r.finished, r.path.name), default=None)
        order = {"cuda": 0, "cpu": 1}
        return min(
            found,
            key=lambda r: (order.get(r.device_type, 2), r.ahead, r.finished, r.path.name),
            default=None,
        )

    def _fingerprints(self, dataset: str) -> Counter[str]:
        runs = [rs[0].identity for rs in self._records.values() if "recipe" in rs[0].identity]
        return Counter(run["fingerprint"] for run in runs if run["dataset"] == dataset)

    def fingerprint(self, dataset: str) -> str | None:
        """Return the fingerprint that most runs of a data set have, None if there are none."""
        known = self._fingerprints(dataset)
        return max(known, key=known.get, default=None)

    def other_copies(self, runs: Iterable[Run], device: str | None = None) -> Counter[str]:
        """Count the runs that have a record on another copy of their data set, by its label."""
        runs, found = list(runs), Counter()
        known = {name: set(self._fingerprints(name)) for name in {run.dataset for run in runs}}
        for run in runs:
            others = known[run.dataset] - {run.fingerprint}
            if any(self.find(replace(run, fingerprint=other), device) for other in others):
                found[DATASETS[run.dataset].label] += 1
        return found

    def devices(self) -> list[str]:
        """Return the names of the devices on which the records were made."""
        return sorted({record.device for records in self._records.values() for record in records})

    def measurements(self) -> list[Record]:
        """Return all records of measurements that count, the newest last."""
        found = [r for rs in self._records.values() for r in rs if "quantity" in r.identity]
        return sorted((r for r in found if r.counts()), key=lambda record: record.finished)
