"""Records: what is written, what is refused by name, and which of several is taken."""

import errno
import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from fredist.paper import choose
from fredist.paths import write_whole
from fredist.records import RecordError, Store, read_record, write_record
from fredist.results import collect
from fredist.runs import Measurement, canonical, short_hash

# What `written` writes for three epochs and 50%.
HISTORY = {"loss": [1.0] * 3, "train_top1": [40.0] * 3, "test_top1": [51.0, 51.0, 50.0]}
HISTORY |= {"test_top5": [99.0] * 3}
OLD, NEW = "2026-03-01T12:00:00+00:00", "2026-03-02T09:00:00+00:00"
MADE = {"device": "a", "device_type": "cpu"}


def resealed(path, **changes):
    """Write a record's content changed and with a right hash, as another program would."""
    content = json.loads(path.read_text()) | changes
    text = json.dumps(content, indent=1, sort_keys=True)
    other = path.with_name(f"{path.stem[:-12]}{short_hash(text)}.json")
    other.write_text(text)
    return other


def test_a_record_gives_back_what_was_written(tiny, written):
    run = tiny()
    record = read_record(written(run, 51.25))
    assert record.results["top1_last"] == 51.25
    assert record.id == run.id
    assert record.labels == {"template": "base", "width": 1.0, "convention": "published"}
    assert Store().find(run) == record


def test_a_changed_digit_is_found_out(tiny, written, own_runs):
    path = written(tiny(), 51.25)
    path.write_text(path.read_text().replace("51.25", "61.25"))
    with pytest.raises(RecordError, match=f"{path.name}.*changed or damaged"):
        read_record(path)
    store = Store()
    assert store.find(tiny()) is None
    assert len(store.problems) == 1
    assert path.name in store.problems[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"results": {}},
        {"results": {"top1_last": float("nan")}},
        {"results": {"top1_last": -1.0}},
        {"history": {}},
        {"history": {"loss": [1.0], "train_top1": [1.0], "test_top1": [1.0], "test_top5": [1.0]}},
        {"history": {k: [1, 2, 101] for k in ("loss", "train_top1", "test_top1", "test_top5")}},
        {"provenance": {}},
        {
            "provenance": {
                "finished": "yesterday",
                "sessions": [{"device": "a", "device_type": "b"}],
            }
        },
        {"provenance": {"finished": OLD, "sessions": []}},
        {"schema": 1},
        {"schema": 99},
        {"schema": [3]},
        {"schema": {"v": 3}},
        {"results": {"top1_last": 10**400}},
        {"results": {"top1_last": "50.0"}},
        {"results": {"seconds": 1.0}},
        {"results": {"top1_last": 250.0, "top5_last": 99.0, "top1_best": 250.0}},
        {"results": {"top1_last": 49.0, "top5_last": 99.0, "top1_best": 51.0}},  # not the last
        {"history": HISTORY | {"more": [1.0]}},
        {"history": HISTORY | {"loss": [10**400] * 3}},
        {"history": HISTORY | {"train_top1": [101.0] * 3}},
        {"provenance": {"finished": OLD, "sessions": [MADE | {"device_type": "tpu"}]}},
        {"provenance": {"finished": OLD, "sessions": [MADE | {"instructions": ["avx2"]}]}},
        {"identity": {"recipe": {}}},
        {"labels": None, "results": None},
    ],
)
def test_a_hash_that_fits_is_not_enough(tiny, written, changes):
    path = resealed(written(tiny()), **changes)
    with pytest.raises(RecordError, match=path.name):
        read_record(path)


def of_identity(path, **changes):
    """Give a record another identity, and all the hashes that fit it."""
    identity = {**json.loads(path.read_text())["identity"], **changes}
    identity = {name: value for name, value in identity.items() if value is not ...}
    own = short_hash(canonical(identity))
    name = path.name.replace(path.name.split("-")[2], own)
    return resealed(path.rename(path.with_name(name)), identity=identity, id=own)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "backward"},
        {"quantity": "taste"},
        {"version": ...},
        {"device": 0},  # would be sorted among names
        {"torch": ["2.11"]},
        {"threads": "one"},
        {"network": "vgg19"},
    ],
)
def test_a_measurement_that_nobody_makes_is_named(own_runs, changes):
    path = write_record(measurement(), {"median_ms": 1.0}, {}, {"sessions": [MADE]}, own_runs).path
    with pytest.raises(RecordError, match="expected a record's fields in"):
        read_record(of_identity(path, **changes))


@pytest.mark.parametrize("changes", [{"fingerprint": ["a"]}, {"seed": None}, {"dataset": {}}])
def test_a_run_that_nobody_makes_is_named(tiny, written, changes):
    with pytest.raises(RecordError, match="expected a record's fields in"):
        read_record(of_identity(written(tiny()), **changes))


def test_other_files_are_named_without_being_read(tmp_path):
    with open(tmp_path / "dump.json", "wb") as file:
        file.truncate(10**13)
    [problem] = Store(str(tmp_path)).problems
    assert "dump.json: move other files out of the folder of records" in problem


def test_one_bad_file_is_named_and_the_rest_goes_on(tiny, written, own_runs):
    good = written(tiny())
    (own_runs / "notes.json").write_text("{}")
    shutil.copy(good, own_runs / f"{good.stem} (1).json")
    (own_runs / f"._{good.name}").write_bytes(b"\0mac")
    (own_runs / good.name.replace("vgg19", "empty", 1)).touch()
    (own_runs / "folder.json").mkdir()
    foreign = b"[1, 2]"
    (own_runs / f"vgg19-base-{'0' * 12}-{short_hash(foreign)}.json").write_bytes(foreign)
    for number in range(3):
        resealed(good, schema=1, labels=number)
    store = Store()
    assert store.find(tiny()).path == good.resolve()
    assert len(store.problems) == 5  # hidden files and folders are nobody's
    frame = collect(choose("table1", "smoke", datasets="cifar10"), store)
    assert frame.attrs["said"] == store.problems
    assert "3 records of schema 1" in " ".join(store.problems)  # one sentence for all of them


def test_cuda_goes_before_cpu_then_the_oldest(tiny, written):
    run = tiny()
    newer = written(run, 1, finished=NEW)
    assert Store().find(run).path.name == newer.name
    written(run, 2, finished=OLD)
    assert Store().find(run).results["top1_last"] == 2
    written(run, 3, device_type="cuda", finished=NEW)
    assert Store().find(run).results["top1_last"] == 3
    assert Store().find(run, "cpu").results["top1_last"] == 2


def measurement():
    network = choose("table3", "smoke").network(choose("table3", "smoke").cells()[0])
    return Measurement(network, 32, "time", "synchronised", 16, "a device", 1, "2.15")


def test_of_a_measurement_the_newest_counts_unless_its_clock_was_ahead(own_runs):
    session = {"device": "a device", "device_type": "cpu"}
    ahead = (datetime.now(UTC) + timedelta(days=400)).isoformat()
    for value, finished in ((1.0, OLD), (2.0, NEW), (3.0, ahead)):
        provenance = {"sessions": [session], "finished": finished}
        write_record(measurement(), {"median_ms": value}, {}, provenance, own_runs)
    store = Store()
    assert store.find(measurement()).results["median_ms"] == 2.0
    assert "clock was wrong" in store.problems[0]
    for path in own_runs.glob("*.json"):
        if read_record(path).finished.year == 2026:
            path.unlink()
    assert Store().find(measurement()) is None


def test_what_cannot_be_read_again_is_not_written(tiny, own_runs):
    with pytest.raises((RecordError, ValueError)):
        write_record(tiny(), {}, {}, {"sessions": []}, own_runs)
    assert not list(own_runs.glob("*")) if own_runs.exists() else True


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch, number):
    path = tmp_path / "deep" / "file"
    write_whole(path, "before")

    def full(*args):
        raise OSError(number, "No space left on device")

    monkeypatch.setattr("fredist.paths.os.fsync", full)
    with pytest.raises(OSError, match=r"make room on the disk.*file"):
        write_whole(path, "after")
    assert path.read_text() == "before"
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def test_a_folder_that_is_none_and_records_that_are_not_read_are_said(tmp_path, tiny, written):
    assert Store(tmp_path / "none").problems == [
        f"expected a folder of records, got {tmp_path / 'none'}"
    ]
    path = written(tiny(), folder=tmp_path / "runs" / "theirs")
    assert "expected a folder" in Store(path).problems[0]
    [said] = Store(tmp_path / "runs").problems
    assert said == f"records in folders of {tmp_path / 'runs'} are not read: move them up"
    path.parent.rename(path.parent.with_name(".ipynb_checkpoints"))
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "notes" / "settings.json").touch()  # no record
    assert Store(tmp_path / "runs").problems == []
