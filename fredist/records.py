"""Records of runs and measurements: one JSON file each, found by hash, and the store of them.

A record adds to its run the result and where it came from; several records of one run (another
device, another machine) are alternatives.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path

from .paths import RESULTS, runs_folder, write_whole
from .runs import Measurement, Run, canonical, short_hash

SCHEMA = 2
_NAME = re.compile(
    r"(?P<model>[a-z0-9]+)-(?P<label>[a-z_]+)-(?P<id>[0-9a-f]{12})-(?P<content>[0-9a-f]{12})\.json"
)


class RecordError(ValueError):
    """A file in a folder of records is not a record that can be used; says why."""


class OtherSchema(RecordError):
    """A record of another version of fredist, of which there are seldom few."""

    def __init__(self, schema: object, path: Path):
        super().__init__(f"{path} is of schema {schema!r}: another version of fredist wrote it")
        self.schema = schema


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
        """cpu or cuda: of a run that moved, where it ended."""
        return self.provenance["sessions"][-1]["device_type"]

    @property
    def finished(self) -> datetime:
        """When it was finished, by its machine's clock."""
        return datetime.fromisoformat(self.provenance["finished"])

    @property
    def ahead(self) -> bool:
        """Whether it was finished in the future: its clock was wrong, and it is newest of none."""
        return self.finished > datetime.now(UTC) + timedelta(days=1)


def write_record(
    job: Run | Measurement,
    results: Mapping,
    history: Mapping,
    provenance: Mapping,
    folder: Path | None = None,
) -> Path:
    """Write a run's or a measurement's record into the user's folder and return its path.

    `provenance` has `sessions` at least. The name holds the hash of the content, so that a changed
    digit is found out; what could not be read again is not written.
    """
    stamp = {"finished": datetime.now(UTC).isoformat(timespec="seconds")}
    content = {
        "schema": SCHEMA,
        "id": job.id,
        "identity": job.identity,
        "labels": {k: getattr(job, k) for k in ("template", "width", "convention")},
        "results": dict(results),
        "history": dict(history),
        "provenance": stamp | dict(provenance),
    }
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    path = (folder or runs_folder()) / f"{job.name}-{short_hash(text)}.json"
    _parse(path, text.encode())
    write_whole(path, text)
    return path


def read_record(path: Path) -> Record:
    """Return the record in `path`, or raise `RecordError` naming the file and what is wrong."""
    try:
        return _parse(path, path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from None


def _parse(path: Path, data: bytes) -> Record:
    match = _NAME.fullmatch(path.name)
    if not match:
        raise RecordError(
            f"expected a record named <model>-<template>-<run>-<content>.json, got {path}: "
            "move other files out of the folder of records"
        )
    if short_hash(data) != match["content"]:
        raise RecordError(
            f"expected content with hash {match['content']} in {path}, got {short_hash(data)}: "
            "the file was changed or damaged; restore it, or move it away to make it again"
        )
    try:
        content = json.loads(data)
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise OtherSchema(schema, path)
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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(
            f"expected a record's fields in {path}, got a file without them ({error!r})"
        ) from None
    return record


def _check_content(record: Record) -> None:
    """Raise an error for values that no run or measurement can have."""
    numbers = [v for v in record.results.values() if isinstance(v, int | float)]
    lists = list(record.history.values())
    for value in (*numbers, *(v for values in lists for v in values)):
        if not isfinite(value) or value < 0:
            raise ValueError(f"a result of {value!r}")
    if not record.results or not record.device or not record.device_type or record.ahead is None:
        raise ValueError("no results")
    if "recipe" not in record.identity:
        record.identity["quantity"], record.identity["device"]
        return
    epochs = record.identity["recipe"]["epochs"]
    for name in ("loss", "train_top1", "test_top1", "test_top5"):
        if len(record.history[name]) != epochs:
            raise ValueError(f"{len(record.history[name])} of {epochs} epochs in {name}")
    for name, values in record.history.items():
        if name != "loss" and max(values) > 100:
            raise ValueError(f"{name} of {max(values)}%")


class Store:
    """All records at hand: the user's own and the shipped ones.

    Files that cannot be used are named in `problems`, skipped, and the rest goes on. Hidden files
    are nobody's.

    Parameters
    ----------
    folders : list of Path, optional
        By default the user's folder and the shipped `results/`. Each is read once.
    """

    def __init__(self, folders: Iterable[Path] | None = None):
        folders = (runs_folder(), RESULTS) if folders is None else folders
        self.problems: list[str] = []
        self._records: dict[str, list[Record]] = {}
        for folder in dict.fromkeys(Path(one).resolve() for one in folders):
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
                    self.problems.append(f"{path} was finished in the future: its clock was wrong")
                self._records.setdefault(record.id, []).append(record)
            self.problems += [
                f"{count} records of schema {schema!r} in {folder} are left out: another version "
                f"of fredist wrote them, this one writes schema {SCHEMA}"
                for schema, count in other.items()
            ]

    def __len__(self) -> int:
        return len(self._records)

    def find(self, job: Run | Measurement, device: str | None = None) -> Record | None:
        """Return a run's or a measurement's record, of one device if its name or kind is given.

        Of a run's alternatives CUDA before CPU, then the oldest, so that a table does not change
        when another is added; of a measurement the newest whose clock was right.
        """
        found = self._records.get(job.id, ())
        found = [r for r in found if device in (None, r.device_type, r.device)]
        if isinstance(job, Measurement):
            return max(found, key=lambda r: (not r.ahead, r.finished, r.path.name), default=None)
        order = {"cuda": 0, "cpu": 1}
        return min(
            found,
            key=lambda r: (order.get(r.device_type, 2), r.ahead, r.finished, r.path.name),
            default=None,
        )

    def fingerprint(self, dataset: str) -> str | None:
        """Return the fingerprint that most runs of a data set have, None if there are none."""
        runs = [rs[0].identity for rs in self._records.values() if "recipe" in rs[0].identity]
        known = Counter(run["fingerprint"] for run in runs if run["dataset"] == dataset)
        return max(known, key=known.get, default=None)

    def devices(self) -> list[str]:
        """Return the names of the devices on which the records were made."""
        return sorted({record.device for records in self._records.values() for record in records})

    def measurements(self) -> list[Record]:
        """Return all records of measurements."""
        return [r for rs in self._records.values() for r in rs if "quantity" in r.identity]
