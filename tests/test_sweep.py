"""Training what is missing: once each, in order, and whatever happens on the way."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest
import torch

from fredist.__main__ import main
from fredist.data import load
from fredist.recipes import Reduction
from fredist.runs import Store, read_record, write_record
from fredist.sweep import TrainingFailed, describe, device_name, estimate, train_missing
from fredist.train import train

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
# Holds a lock until its input ends, or until it is killed.
HOLDER = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def records(folder):
    """Return the records in a folder by run; more than one for a run is an error."""
    found = [read_record(path) for path in sorted(folder.glob("*.json"))]
    assert len({record.run_id for record in found}) == len(found)
    return {record.run_id: record for record in found}


def outcome(record):
    return record.results, record.history


def straight(run, digits):
    """Return what a run gives that nothing interrupts."""
    results, progress = train(run, digits)
    return results, progress.history


def unfinished(folder, run, ending):
    return folder / "unfinished" / f"{run.name}.{ending}"


def trained(shown):
    """Return the runs named in the lines that were printed, in order."""
    return re.findall(r"^\[\d+/\d+\] (.*?): ", shown, re.MULTILINE)


@pytest.fixture
def hold(own_runs):
    """Return a function that starts a process which holds a run's lock."""
    holders = []

    def start(run):
        lock = unfinished(own_runs, run, "lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", HOLDER, str(lock)]
        pipe = subprocess.PIPE
        holders.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        assert holders[-1].stdout.readline() == "held\n"
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


# -- only what is missing


def test_each_run_gets_one_record_and_the_second_call_trains_nothing(
    tiny, digits, own_runs, capsys
):
    runs = [tiny(), tiny(template="reverse"), tiny(seed=1)]
    assert train_missing([*runs, runs[0]], device="cpu", how="a test") == 0
    found = records(own_runs)
    assert set(found) == {run.id for run in runs}
    for run in runs:
        assert outcome(found[run.id]) == straight(run, digits)
        provenance = found[run.id].provenance
        assert (provenance["device_type"], provenance["how"]) == ("cpu", "a test")
        assert (provenance["compiled"], provenance["packed"]) == (False, 1)
        assert provenance["sessions"] == 1
        assert provenance["seconds"] > 0
        assert provenance["torch"] == torch.__version__
    left = {path.suffix for path in (own_runs / "unfinished").iterdir()}
    assert left <= {".lock"}  # neither checkpoints nor failures
    files = {path: path.stat().st_mtime_ns for path in own_runs.glob("*.json")}
    capsys.readouterr()
    assert train_missing(runs) == 0
    assert capsys.readouterr().out == ""
    assert {path: path.stat().st_mtime_ns for path in own_runs.glob("*.json")} == files


def test_deleting_one_record_trains_just_that_one(tiny, own_runs, capsys):
    runs = [tiny(), tiny(template="reverse")]
    train_missing(runs)
    before = records(own_runs)
    before[runs[1].id].path.unlink()
    capsys.readouterr()
    assert train_missing(runs) == 0
    assert trained(capsys.readouterr().out) == [describe(runs[1])]
    after = records(own_runs)
    assert after[runs[0].id] == before[runs[0].id]
    assert outcome(after[runs[1].id]) == outcome(before[runs[1].id])


def test_shipped_and_copied_records_are_not_trained_again(
    tiny, own_runs, tmp_path, monkeypatch, capsys
):
    shipped, copied = tiny(), tiny(seed=1)
    provenance = {"device_type": "cuda", "finished": "2026-03-01T12:00:00+00:00"}
    monkeypatch.setattr("fredist.runs.RESULTS", tmp_path / "results")
    write_record(shipped, {"test_top1": 50.0}, {}, provenance, tmp_path / "results")
    own_runs.mkdir()
    shutil.copy(write_record(copied, {"test_top1": 5.0}, {}, provenance, tmp_path / "x"), own_runs)
    assert train_missing([shipped, copied]) == 0
    assert capsys.readouterr().out == ""
    assert len(Store().collect([shipped, copied])) == 2


# -- in which order, and for how long


def test_seeds_in_order_and_the_longest_first_after_an_estimate(tiny, capsys):
    short, long = {"epochs": 1, "lr_steps": ()}, {"epochs": 3, "lr_steps": ()}
    order = [tiny(seed=seed, **length) for seed in (0, 1) for length in (long, short)]
    train_missing(order[::-1])
    first, *lines = capsys.readouterr().out.splitlines()
    name = re.escape(device_name(CPU, torch.get_num_threads()))
    assert re.fullmatch(rf"training 4 runs on {name}, estimated [\d.]+ (s|min|h)", first)
    assert [line.split("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    times = [Store().find(run).path.stat().st_mtime_ns for run in order]
    assert times == sorted(times)


def test_larger_and_longer_runs_are_estimated_longer(tiny):
    small, middle, large = (tiny(width=width) for width in (1, 4, 16))
    longer = tiny(epochs=30)
    more = tiny(reduction=Reduction(0.05, 1280, 100))
    other = tiny("mobilenet")
    seconds = estimate([middle, large, small, longer, more, other], CPU)
    assert set(seconds) == {small, middle, large, longer, more, other}
    assert all(value > 0 for value in seconds.values())
    assert seconds[small] < seconds[middle] < seconds[large]
    assert seconds[longer] == pytest.approx(10 * seconds[small])
    assert seconds[more] == pytest.approx(8 * seconds[small])


@pytest.mark.parametrize(
    ("changed", "words"),
    [({}, ""), ({"width": 0.5}, " width 0.5"), ({"seed": 3, "template": "uniform"}, "")],
)
def test_a_run_in_words(tiny, changed, words):
    run = tiny(**changed)
    assert describe(run) == f"digits vgg19 {run.template}{words} seed {run.seed}"


def test_a_limit_stops_in_time_and_the_next_call_finishes(tiny, digits, own_runs, capsys):
    runs = [tiny(epochs=8, lr_steps=(5, 7)), tiny("mobilenet")]
    assert train_missing(runs, minutes=1e-6) == 2
    assert "time is up: 2 of 2 runs left; call again" in capsys.readouterr().out
    assert not records(own_runs)
    minutes = 0.005
    while train_missing(runs, minutes=minutes):  # each time from where it stopped
        minutes *= 1.5
        assert minutes < 5
    found = records(own_runs)
    assert [outcome(found[run.id]) for run in runs] == [straight(run, digits) for run in runs]


# -- failures


def test_a_failure_is_recorded_and_the_others_are_done(tiny, own_runs, capsys):
    bad, good = tiny(lr=1e6, epochs=4), tiny(template="reverse", epochs=1, lr_steps=())
    with pytest.raises(TrainingFailed, match=rf"1 of 2 runs failed; .*{bad.name}\.failed\.json"):
        train_missing([bad, good])
    assert trained(capsys.readouterr().out) == [describe(bad), describe(good)]
    assert set(records(own_runs)) == {good.id}
    failure = json.loads(unfinished(own_runs, bad, "failed.json").read_text())
    assert failure["run"] == describe(bad)
    assert "Diverged: the loss of epoch 1 is" in failure["traceback"]
    with filelock.FileLock(unfinished(own_runs, bad, "lock"), timeout=0):
        pass  # is free again
    with pytest.raises(TrainingFailed, match="1 of 1 runs failed"):
        train_missing([bad, good])


def test_after_its_cause_is_mended_a_failure_is_gone(tiny, digits, own_runs):
    run = tiny()
    checkpoint, failure = (unfinished(own_runs, run, kind) for kind in ("pt", "failed.json"))
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"damaged")
    with pytest.raises(TrainingFailed, match=re.escape(failure.name)):
        train_missing([run])
    assert "delete it to start the run anew" in failure.read_text()
    assert not records(own_runs)
    checkpoint.unlink()
    assert train_missing([run]) == 0
    assert not failure.exists()
    assert outcome(records(own_runs)[run.id]) == straight(run, digits)


# -- several processes


def test_a_run_in_other_hands_is_waited_for_at_the_end(tiny, own_runs, hold, wait_for, capsys):
    held, free = tiny(), tiny(template="reverse", epochs=1, lr_steps=())
    holder, early = hold(held), []

    def release():
        try:
            wait_for(lambda: Store().find(free))
            time.sleep(0.3)  # during which nothing may happen
            early.extend(path for path in own_runs.glob("*.json") if held.id in path.name)
        finally:
            holder.kill()

    thread = threading.Thread(target=release)
    thread.start()
    assert train_missing([held, free]) == 0
    thread.join()
    assert early == []
    assert trained(capsys.readouterr().out) == [describe(free), describe(held)]
    assert set(records(own_runs)) == {held.id, free.id}


def test_what_another_process_finishes_meanwhile_is_taken(tiny, own_runs, hold, wait_for, capsys):
    held, free = tiny(), tiny(template="reverse", epochs=1, lr_steps=())
    holder = hold(held)

    def finish():
        try:
            wait_for(lambda: Store().find(free))
            provenance = {"device_type": "cpu", "finished": "2026-03-01T12:00:00+00:00"}
            write_record(held, {"test_top1": 12.34}, {}, provenance)
        finally:
            holder.kill()

    thread = threading.Thread(target=finish)
    thread.start()
    assert train_missing([held, free]) == 0
    thread.join()
    assert "12.34% (trained by another process)" in capsys.readouterr().out
    assert records(own_runs)[held.id].results == {"test_top1": 12.34}


def test_the_limit_holds_while_waiting(tiny, own_runs, hold):
    run = tiny()
    hold(run)
    assert train_missing([run], minutes=0.05) == 1
    assert not records(own_runs)


def test_a_dead_owners_lock_is_taken_over(tiny, own_runs, hold):
    run = tiny(epochs=1, lr_steps=())
    holder = hold(run)
    holder.kill()
    holder.wait()
    assert unfinished(own_runs, run, "lock").exists()
    assert train_missing([run], minutes=5) == 0
    assert set(records(own_runs)) == {run.id}


def train_at_once(barrier, runs):
    load("digits")
    barrier.wait()
    return train_missing(runs)


def test_two_processes_share_the_runs_and_train_each_once(tiny, own_runs, process):
    runs = [tiny(seed=seed, template=t) for seed in (0, 1) for t in ("base", "reverse")]
    barrier = multiprocessing.get_context("forkserver").Barrier(2)
    children = [process(train_at_once, barrier, runs) for _ in range(2)]
    for child in children:
        child.join(300)
        assert child.exitcode == 0  # none left
    assert set(records(own_runs)) == {run.id for run in runs}


# -- interrupted


def test_killed_and_called_again_it_ends_the_same(tiny, digits, own_runs, process, wait_for):
    run = tiny(epochs=8, lr_steps=(5, 7))
    checkpoint, kept = unfinished(own_runs, run, "pt"), None

    def written():
        return checkpoint.exists() and checkpoint.stat().st_mtime_ns

    for _ in range(2):
        child = process(train_missing, [run])
        wait_for(lambda kept=kept: written() not in (False, kept))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert not records(own_runs)
        kept = written()
    assert train_missing([run]) == 0
    record = records(own_runs)[run.id]
    assert outcome(record) == straight(run, digits)
    assert record.provenance["sessions"] == 3
    assert not checkpoint.exists()


def test_ctrl_c_keeps_the_checkpoint_and_frees_the_lock(own_runs, process, wait_for):
    choice = "train table1 --profile smoke --datasets digits --models vgg19 --templates base"
    child = process(main, [*choice.split(), "--seeds", "71", "--device", "cpu"])
    folder = own_runs / "unfinished"
    wait_for(lambda: list(folder.glob("*.pt")))
    os.kill(child.pid, signal.SIGINT)
    child.join(120)
    assert child.exitcode == 130
    assert not records(own_runs)
    assert {path.suffix for path in folder.iterdir()} <= {".pt", ".lock"}
    (checkpoint,) = folder.glob("*.pt")
    assert torch.load(checkpoint, weights_only=True)["progress"]["epoch"] >= 1
    with filelock.FileLock(checkpoint.with_suffix(".lock"), timeout=0):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_command_continues_after_a_signal(tmp_path, wait_for, number):
    choice = "train table1 --profile smoke --datasets digits --models mobilenet --templates base"
    command = [sys.executable, "-m", "fredist", *choice.split(), "--seeds", "71", "--device", "cpu"]

    def start(folder):
        environment = os.environ | {"FREDIST_RUNS": str(folder)}
        return subprocess.Popen(command, cwd=ROOT, env=environment)

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with start(killed) as child:
        wait_for(lambda: list(killed.glob("unfinished/*.pt")), seconds=600)
        child.send_signal(number)
    assert child.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[number]
    assert not records(killed)
    for folder in (killed, whole):
        with start(folder) as child:
            assert child.wait(600) == 0
    (continued,), (expected,) = records(killed).values(), records(whole).values()
    assert continued.provenance["sessions"] == 2
    assert (continued.run, *outcome(continued)) == (expected.run, *outcome(expected))


def test_training_needs_only_torch_and_timm():
    """The plain command's modules import where no other package of ours is."""
    others = ["pandas", "pyarrow", "seaborn", "matplotlib", "sklearn", "papermill", "nbformat"]
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in [*others, "IPython"])
    code = f"import sys; {blocked}; import fredist.__main__, fredist.sweep"
    subprocess.run([sys.executable, "-c", code], check=True)
