"""Making what is missing: once each, in order, and whatever fails on the way."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import filelock
import pytest
import torch
from test_train import rewrite

from fredist import jobs, machine
from fredist.data import load
from fredist.device import device_name
from fredist.estimate import estimate
from fredist.jobs import Outcome, _size, clean, make
from fredist.measure import wanted
from fredist.networks import make_network
from fredist.recipes import Recipe, Setting
from fredist.records import Store, read_record, write_record
from fredist.runs import make_run
from fredist.steps import OutOfTime
from fredist.train import train

CPU = torch.device("cpu")
MODELS = ("vgg19", "resnet50", "inception", "mobilenet")


@pytest.fixture(autouse=True)
def one_at_a_time(tmp_path, monkeypatch):
    """Train one run at a time, whatever the machine has; nothing is shipped."""
    monkeypatch.setattr("fredist.records.RESULTS", tmp_path / "results")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(model="vgg19", template="base", *, seed=0, width=1.0, train_images=60, **changed):
    """Return a run on the digits that takes a second or less."""
    recipe = {"epochs": 2, "lr_steps": (), "batch_size": 20, "lr": 0.05} | changed
    setting = Setting(
        Recipe(**recipe),
        width_factors=dict.fromkeys(MODELS, 0.05),
        train_images=train_images,
        test_images=20,
    )
    return make_run(setting, "digits", model, template, seed=seed, width=width)


def bad(**changed):
    """Return a run that diverges in its first epoch."""
    return tiny(lr=1e6, **changed)


def computed(model="vgg19"):
    """Return a measurement of memory, which is computed."""
    return wanted(make_network(model, width=0.05), device="cpu", quantities=["memory"])[0]


def timed(model="vgg19"):
    [found] = wanted(make_network(model, width=0.05), device="cpu", quantities=["time"])
    return found


def records(folder):
    """Return the records in a folder by id; more than one for a job is an error."""
    found = [read_record(path) for path in sorted(folder.glob("*.json"))]
    assert len({record.id for record in found}) == len(found)
    return {record.id: record for record in found}


def outcome(record):
    """Return what must be equal however a run came about."""
    return {k: v for k, v in record.results.items() if k != "seconds"}, record.history


def straight(run):
    """Return that of a run that nothing interrupts."""
    results, history, _ = train(run, load("digits"), CPU)
    return {k: v for k, v in results.items() if k != "seconds"}, history


def unfinished(folder, job, ending):
    return folder / "unfinished" / f"{job.network.model}-{job.id}.{ending}"


def ended(shown):
    """Return the jobs named in the lines that were printed, in order."""
    return re.findall(r"^\[\d+/\d+\] (.*?): ", shown, re.MULTILINE)


# -- only what is missing


def test_each_job_gets_one_record_and_the_second_call_makes_nothing(own_runs, capsys):
    runs = [tiny(), tiny("mobilenet", seed=1)]
    jobs = [*runs, runs[0], computed(), timed()]
    assert make(jobs, device="cpu", how="a test") == Outcome(4, 4, 0, {})
    found = records(own_runs)
    assert set(found) == {job.id for job in jobs}
    assert outcome(found[runs[0].id]) == straight(runs[0])
    for run in runs:
        record = found[run.id]
        assert (record.device, record.provenance["how"]) == (device_name(CPU), "a test")
    assert found[computed().id].results["tensor_peak_bytes"] > 0
    assert found[timed().id].provenance["sessions"][0]["device_type"] == "cpu"
    assert list((own_runs / "unfinished").iterdir()) == []  # neither checkpoints nor locks
    said = capsys.readouterr().out
    for job, name in ((computed(), "tensor_peak_bytes"), (timed(), "median_ms")):
        assert f"{job}: {name.replace('_', ' ')} {found[job.id].results[name]:,.5g}" in said
    assert make(jobs) == Outcome(4, 0, 0, {})
    assert capsys.readouterr().out == ""
    assert records(own_runs) == found


def test_deleting_or_damaging_one_record_makes_just_that_one(own_runs, capsys):
    runs = [tiny(), tiny(template="reverse")]
    make(runs)
    before = records(own_runs)
    before[runs[1].id].path.unlink()
    damaged = before[runs[0].id].path
    damaged.write_text(damaged.read_text().replace("0", "1", 1))
    capsys.readouterr()
    assert make(runs) == Outcome(2, 2, 0, {})
    assert sorted(ended(capsys.readouterr().out)) == sorted(map(str, runs))
    damaged.unlink(missing_ok=True)
    assert {i: outcome(r) for i, r in records(own_runs).items()}.keys() == before.keys()


def test_shipped_and_copied_records_are_not_made_again(own_runs, tmp_path, capsys):
    runs = [tiny(), tiny(seed=1)]
    make(runs)
    (tmp_path / "results").mkdir()
    path = records(own_runs)[runs[0].id].path
    path.rename(tmp_path / "results" / path.name)
    capsys.readouterr()
    assert make(runs) == Outcome(2, 0, 0, {})
    assert capsys.readouterr().out == ""


def test_measurements_are_made_again_when_asked(own_runs):
    job = computed()
    assert make([job, tiny()]).made == 2
    assert make([job, tiny()], remeasure=True) == Outcome(2, 1, 0, {})
    assert len(list(own_runs.glob(f"{job.name}-*.json"))) in (1, 2)  # 1: within one second


# -- in which order, and for how long


def test_measurements_then_seeds_in_order_and_the_longest_first(capsys):
    order = [tiny(seed=seed, epochs=epochs) for seed in (0, 1) for epochs in (3, 1)]
    make([*order[::-1], timed(), computed()])
    lines = capsys.readouterr().out.splitlines()
    name = re.escape(device_name(CPU))
    assert re.fullmatch(rf"training 4 runs on {name}, estimated [\d.]+ (s|min|h)", lines.pop(0))
    assert [line.split("]")[0] for line in lines] == [f"[{n}/6" for n in range(1, 7)]
    assert [line.split("] ")[1].split(":")[0] for line in lines[:2]] == ["vgg19 base"] * 2
    assert "time" in lines[1]  # last, for it is measured
    found = Store()
    times = [found.find(run).path.stat().st_mtime_ns for run in order]
    assert times == sorted(times)


def test_larger_and_longer_runs_are_estimated_longer():
    small, middle, large = (tiny(width=width) for width in (1, 4, 16))
    longer, more, other = tiny(epochs=20), tiny(train_images=1200), tiny("mobilenet")
    sizes = {run: run.network.macs(32) * run.recipe.epochs * (3 * run.train_images + 20)
             for run in (middle, large, small, longer, more, other)}  # fmt: skip
    before = torch.get_rng_state()
    seconds = estimate(list(sizes), sizes, CPU)
    assert torch.equal(before, torch.get_rng_state())
    assert set(seconds) == set(sizes)
    assert all(value > 0 for value in seconds.values())
    assert seconds[small] < seconds[middle] < seconds[large]
    assert seconds[longer] == pytest.approx(10 * seconds[small])
    assert seconds[more] == pytest.approx((3 * 1200 + 20) / 200 * seconds[small])
    with machine.timing():  # by another, as if it were
        assert estimate([small], sizes, CPU) == {}


def test_a_limit_stops_in_time_and_the_next_call_finishes(own_runs, capsys):
    run = tiny(epochs=10, lr_steps=(8,))
    assert make([run], minutes=1e-6) == Outcome(1, 0, 1, {})
    assert "time is up: 1 of 1 left; call again" in capsys.readouterr().out
    minutes, calls = 0.3 / 60, 1
    while make([run], minutes=minutes).left:  # each time from where it stopped
        minutes, calls = 1.5 * minutes, calls + 1
    assert calls > 1
    record = records(own_runs)[run.id]
    assert outcome(record) == straight(run)


@pytest.mark.parametrize("held", ["timing", "training"])
def test_a_limit_holds_while_another_is_timed_or_trained(own_runs, capsys, held):
    jobs = [tiny(), timed()]
    make(jobs, minutes=1e-6)  # imports what takes seconds on a busy machine
    with getattr(machine, held)():
        start = time.monotonic()
        assert make(jobs, minutes=3 / 60) == Outcome(2, 0, 2, {})
        assert time.monotonic() - start < 3.7
    assert "waiting for" in capsys.readouterr().out


class Terminal(io.StringIO):
    """A standard output that a person watches."""

    encoding = "utf-8"

    def isatty(self):
        return True


def test_the_bar_says_what_it_counts_never_goes_back_and_ends_full(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.delenv("FREDIST_PLAIN")
    make([tiny(epochs=12), bad(epochs=12)])
    text = shown.getvalue()
    percents = [int(number) for number in re.findall(r"epochs: +(\d+)%\|", text)]
    assert percents[0] == 0
    assert percents == sorted(percents)
    assert percents[-1] == 100  # a failed run is over, too
    assert len(set(percents)) > 5  # it moves with the epochs
    assert f"{tiny()}, 7 of 12 epochs" in text
    assert "[2/2] " in text


def test_a_log_of_long_runs_is_not_silent(monkeypatch, capsys):
    monkeypatch.setattr("fredist.jobs._QUIET", 0)
    make([tiny(epochs=3)])
    said = [f"{tiny()}, {epoch} of 3 epochs" for epoch in (1, 2, 3)]
    assert capsys.readouterr().out.splitlines()[1:4] == said


# -- failures


def test_one_bad_job_is_named_recorded_and_counted_and_the_others_are_made(
    own_runs, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path / "data"))
    good, diverging, measured = tiny(), bad(seed=1), computed()
    unfit = replace(measured, image_size=8)
    absent = [replace(tiny(), dataset="cifar10", fingerprint=f) for f in ("a", None)]
    foreign = replace(timed(), device="a GPU elsewhere")
    locked = tiny(seed=2)
    unfinished(own_runs, locked, "lock").mkdir(parents=True)  # a damaged lock
    failing = [diverging, unfit, *absent, foreign, locked]
    result = make([*failing, good, measured])
    assert (result.asked, result.made, result.left) == (8, 2, 0)
    words = {job: str(job) for job in failing} | {job: f"{job} ({job.id})" for job in absent}
    assert set(result.failed) == set(words.values())
    assert set(records(own_runs)) == {good.id, measured.id}
    shown = capsys.readouterr().out
    for job in failing:
        said = result.failed[words[job]]
        assert f"{job}: {said}\n" in shown
        if job is locked:
            assert "traceback was not kept" in said
            continue
        if job is absent[1]:  # with its data it will be another run, which cleans up after itself
            assert "traceback" not in said
            continue
        path = Path(said.partition("its traceback: ")[2])
        assert path == unfinished(Path("runs"), job, "failed.json")  # found from here
        assert json.loads(path.read_text())["job"] == str(job)
        assert "Traceback (most recent call last)" in json.loads(path.read_text())["traceback"]
    assert "failed with Diverged: " in result.failed[words[diverging]]
    assert (
        "DataNotFound: expected CIFAR-10 in one of these places" in result.failed[words[absent[0]]]
    )
    assert shown.count("`make data`") == 1  # the ways to get a set, once a set
    assert "16x16" in result.failed[words[unfit]]
    assert "a GPU elsewhere" in result.failed[words[foreign]]


@pytest.mark.parametrize("device", ["", 0, "gpu"])
def test_a_wrong_device_is_an_error_before_anything_else(device):
    for asked in ([], [tiny()]):
        with pytest.raises(ValueError, match="expected cpu, cuda or cuda:1 as device, got"):
            make(asked, device=device)


@pytest.mark.parametrize("variable", ["FREDIST_RUNS", "FREDIST_LOCKS"])
def test_folders_that_cannot_be_used_are_an_error_before_training(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match=f"as {variable}, got .*file.*: let {variable} name"):
        make([tiny()])


def test_a_device_that_is_lost_ends_the_sweep_and_the_others_stay_to_be_made(own_runs, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    calls = iter([None])

    def conv2d(image, kernel):
        if next(calls, "lost") == "lost":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return image

    monkeypatch.setattr("fredist.device.conv2d", conv2d)
    with pytest.raises(RuntimeError, match=r"was lost; what is done is kept.*: .* illegal memory"):
        make([bad(), tiny(seed=1)], device="cpu")
    assert unfinished(own_runs, bad(), "failed.json").exists()
    assert not unfinished(own_runs, tiny(seed=1), "failed.json").exists()


def test_a_device_that_others_fill_fails_the_run_alone(monkeypatch):
    def conv2d(image, kernel):
        raise torch.OutOfMemoryError("CUDA out of memory. Process 7 has 78 GiB in use.")

    made, real = [], jobs.train

    def train(run, *rest, **options):
        if made:
            return real(run, *rest, **options)
        made.append(run)
        with monkeypatch.context() as patch:
            patch.setattr("fredist.device.conv2d", conv2d)
            jobs._check("cpu", "failed")  # as the sweep asks after a failure
            return real(run, *rest, **options)

    monkeypatch.setattr(jobs, "train", train)
    result = make([tiny(), tiny(seed=1)], device="cpu")
    assert (result.made, list(result.failed)) == (1, [str(made[0])])
    assert "memory on cpu, got CUDA out of memory" in result.failed[str(made[0])]


def test_a_full_disk_ends_the_sweep_before_the_next_run(own_runs, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("fredist.train.write_whole", full)
    with pytest.raises(RuntimeError, match=r"disk is full; what is done is kept.*Errno 28.*\.pt"):
        make([tiny(), tiny(seed=1)], device="cpu")
    assert len(list((own_runs / "unfinished").glob("*.failed.json"))) == 1
    monkeypatch.setattr(jobs, "write_whole", full)
    monkeypatch.setattr(jobs, "train", None)  # it is seen before an epoch is trained
    with pytest.raises(RuntimeError, match=r"disk is full.*Errno 28.*failed\.json"):
        make([tiny(seed=2)], device="cpu")


# Makes a measurement, during which its process is killed, and a run.
KILLED = """
import os, signal
from fredist import jobs
from test_jobs import computed, tiny
jobs.measure = lambda job, device: os.kill(os.getpid(), signal.SIGKILL)
jobs.make([computed(), tiny()], device="cpu")
"""


def test_what_kills_its_process_is_last_the_next_time(own_runs):
    for count in (0, 1):
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        ended = subprocess.run([sys.executable, "-c", KILLED], env=env, capture_output=True)
        assert ended.returncode == -signal.SIGKILL
        assert len(records(own_runs)) == count
        assert unfinished(own_runs, computed(), "failed.json").exists()
    assert set(records(own_runs)) == {tiny().id}
    assert make([computed(), tiny()]).made == 1
    assert list((own_runs / "unfinished").iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OutOfTime, BrokenPipeError])
def test_what_is_stopped_has_not_failed(own_runs, monkeypatch, stop):
    there = []

    def train(run, *rest, on_epoch, **options):
        there.append(unfinished(own_runs, run, "failed.json").exists())
        if stop is not BrokenPipeError:
            raise stop
        on_epoch(1)

    def say(*line):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(jobs, "train", train)
    monkeypatch.setattr(jobs, "_QUIET", 0)
    monkeypatch.setattr(jobs, "say", say)
    with nullcontext() if stop is OutOfTime else pytest.raises(stop):
        assert make([tiny()], device="cpu").left == 1
    assert set(there) == {True}
    assert not list((own_runs / "unfinished").glob("*.failed.json"))


@pytest.mark.filterwarnings("ignore:flock not supported")  # filelock's own way out
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_folders_without_locks_are_an_error_before_training(monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(RuntimeError, match=r"made and locked as FREDIST_RUNS, got .*no locks"):
        make([tiny()])


def test_what_no_record_can_have_fails_before_it_is_trained(own_runs, capsys):
    odd = [replace(tiny(seed=1), template="my own/2"), replace(tiny(seed=2), width=float("nan"))]
    result = make([*odd, tiny()])
    assert (result.made, set(result.failed)) == (1, set(map(str, odd)))
    assert "expected a record named <model>-<template>" in result.failed[str(odd[0])]
    assert not list(own_runs.rglob("*.pt"))
    assert "training 1 run on" in capsys.readouterr().out


def test_what_has_failed_is_tried_again_last_and_leaves_nothing_once_made(own_runs, capsys):
    first, second, third = (tiny(seed=seed) for seed in range(3))
    failure = unfinished(own_runs, first, "failed.json")
    failure.parent.mkdir(parents=True)
    failure.write_text("{}")
    assert make([first, second, third]).made == 3
    assert ended(capsys.readouterr().out) == [str(second), str(third), str(first)]
    assert list(failure.parent.iterdir()) == []


def test_a_step_that_fails_is_done_without(monkeypatch):
    """Out of memory, say: the batch of `huge` takes 50 TB."""
    huge, small = tiny(batch_size=2**32, train_images=160), tiny(width=2)
    sizes = {huge: 10**6, small: 10**6}
    seconds = estimate([huge, small], sizes, CPU)
    assert seconds[small] > 0
    assert set(seconds) == {huge, small}
    assert estimate([huge], sizes, CPU) == {}


# -- leftovers


def test_leftovers_are_removed_where_that_is_safe(own_runs):
    done, live, left = tiny(), tiny(seed=1), tiny(seed=2)
    make([done, live])
    folder = own_runs / "unfinished"
    endings = ("pt", "pt.damaged", "failed.json", "lock")
    for job in (done, live, left):
        for ending in endings:
            unfinished(own_runs, job, ending).touch()
        (folder / f".{unfinished(own_runs, job, 'pt').name}.0123.tmp").touch()
        (own_runs / f".{job.name}-0123456789ab.json.0123.tmp").touch()
    (folder / "notes.txt").touch()  # somebody's
    (own_runs / ".notes.tmp").touch()
    with filelock.FileLock(unfinished(own_runs, live, "lock")):  # it is being made again elsewhere
        before = {path.name for path in folder.iterdir() if live.id in path.name}
        clean()
        assert {path.name for path in folder.iterdir() if live.id in path.name} == before
        assert (own_runs / f".{live.name}-0123456789ab.json.0123.tmp").exists()
    kept = {path.name for path in folder.iterdir() if live.id not in path.name}
    assert kept == {"notes.txt", *(unfinished(own_runs, left, end).name for end in endings)}
    make([done])
    assert {path.name for path in folder.iterdir()} == kept  # live's are nobody's any more
    hidden = [path.name for path in own_runs.iterdir() if path.name.startswith(".")]
    assert hidden == [".notes.tmp"]


def test_a_run_on_another_kind_of_device_is_still_missing_on_the_named_one(tiny, written, own_runs):
    run = tiny(epochs=1, lr_steps=())
    written(run, device_type="cuda")
    assert make([run]).made == 0
    assert make([run], device="cpu").made == 1
    assert Store().find(run, "cpu")
    assert make([run], device="cpu").made == 0


class Stop(Exception):
    """The test stops the run here."""


def begun(folder, run, epochs, kind="cpu"):
    """Train so many epochs of a run, as on some kind of device, and return its checkpoint."""
    path = unfinished(folder, run, "pt")

    def stop(epoch):
        if epoch == epochs:
            raise Stop

    with pytest.raises(Stop):
        train(run, load("digits"), CPU, checkpoint=path, on_epoch=stop)
    rewrite(path, lambda state: state["sessions"][0].update(device_type=kind, device=f"a {kind}"))
    return path


def test_a_record_of_another_kind_of_device_costs_no_checkpoint(written, own_runs):
    run = tiny(epochs=3)
    checkpoint = begun(own_runs, run, 2)
    os.utime(checkpoint, (0, 0))  # older than what is copied now
    written(run, device_type="cuda")
    assert make([run]).made == 0  # any record will do
    assert checkpoint.exists()
    assert make([run], device="cpu") == Outcome(1, 1, 0, {})  # where it stopped
    session = Store().find(run, "cpu").provenance["sessions"][0]
    assert (session["device"], session["epochs"]) == ("a cpu", [1, 2])
    assert not checkpoint.exists()
    begun(own_runs, run, 1)
    clean()  # there is one of its kind
    assert not checkpoint.exists()


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_moved_is_of_each_of_its_kinds_and_made_once(own_runs, epochs):
    run = tiny()
    begun(own_runs, run, epochs, "cuda")
    assert make([run], device="cpu") == Outcome(1, 1, 0, {})
    kinds = sorted(read_record(path).device_type for path in own_runs.glob("*.json"))
    assert kinds == (["cuda+cpu"] if epochs == 1 else ["cpu", "cuda"])  # the whole one stays so
    for device in ("cpu", "cuda", None):
        assert Store().find(run, device)
        assert make([run], device=device) == Outcome(1, 0, 0, {})
    assert list((own_runs / "unfinished").iterdir()) == []


def test_one_run_with_two_labels_has_one_lock_and_one_checkpoint(own_runs):
    one, other = tiny(epochs=3), replace(tiny(epochs=3), template="uniform")
    assert one.id == other.id
    before = _size(one)
    begun(own_runs, one, 2)
    assert _size(other) == before // 3  # what is left of it
    with filelock.FileLock(unfinished(own_runs, one, "lock")):
        assert make([other], minutes=0.5 / 60).left == 1
    assert make([other]).made == 1
    assert Store().find(one).provenance["sessions"][0]["device"] == "a cpu"
    assert list((own_runs / "unfinished").iterdir()) == []


def test_a_measurement_from_the_future_is_made_again_once(own_runs):
    job = computed()
    ahead = (datetime.now(UTC) + timedelta(days=400)).isoformat()
    session = {"device": "a device", "device_type": "cpu"}
    write_record(job, {"tensor_peak_bytes": 1}, {}, {"sessions": [session], "finished": ahead})
    assert "left out: make it again" in Store().problems[0]
    assert make([job]).made == 1
    assert Store().find(job).results["tensor_peak_bytes"] > 1
    assert make([job]).made == 0
