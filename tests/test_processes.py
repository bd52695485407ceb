"""Several processes that train, which wait for each other, are interrupted, or die."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest
import torch
from sweeping import outcome, records, straight, trained, unfinished

from fredist.__main__ import main
from fredist.data import load
from fredist.runs import Store, write_record
from fredist.sweep import TrainingFailed, describe, train_missing

ROOT = Path(__file__).parents[1]
# Holds a lock until its input ends, or until it is killed.
HOLDER = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


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


def test_the_limit_holds_while_waiting(tiny, own_runs, hold, capsys):
    run, bad = tiny(), tiny(lr=1e6)
    hold(run)
    assert train_missing([run], minutes=0.05) == 1
    assert not records(own_runs)
    shown = capsys.readouterr().out
    assert "time is up: 1 of 1 runs left" in shown
    assert "none will be" not in shown  # who has it may well finish it
    with pytest.raises(TrainingFailed, match="1 of 2 runs failed"):
        train_missing([run, bad], minutes=0.1)
    assert "time is up: 1 of 2 runs left" in capsys.readouterr().out


def test_what_a_kill_has_left_half_written_is_removed(tiny, own_runs):
    run, other = tiny(epochs=1, lr_steps=()), tiny(seed=1)
    torn, not_ours = (unfinished(own_runs, r, "pt.0123.tmp") for r in (run, other))
    torn.parent.mkdir(parents=True)
    for path in (torn, not_ours):
        path.write_bytes(b"half a checkpoint")
    train_missing([run])
    assert not torn.exists()
    assert not_ours.exists()  # another process may be writing it


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


# -- one process for each core


@pytest.fixture
def two_cores():
    """Let two runs be trained at once, whatever the machine has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_on_two_cores_two_are_trained_at_once_and_give_the_same(
    tiny, digits, own_runs, two_cores, capsys
):
    bad = tiny(lr=1e6, epochs=40)  # the longest by the estimate, hence the first
    good = [tiny(), tiny("mobilenet")]
    with pytest.raises(TrainingFailed, match=rf"1 of 3 runs failed; .*{bad.name}\.failed\.json"):
        train_missing([*good, bad])
    first, *lines = capsys.readouterr().out.splitlines()
    assert re.match(r"training 3 runs on .*, 2 at a time, estimated [\d.]+ (s|min)$", first)
    assert [line.split("]")[0] for line in lines] == ["[1/3", "[2/3", "[3/3"]
    assert sorted(line.split("] ")[1].split(": ")[0] for line in lines) == sorted(
        describe(run) for run in (bad, *good)
    )
    found = records(own_runs)
    assert set(found) == {run.id for run in good}
    for run in good:
        assert outcome(found[run.id]) == straight(run, digits)
        assert found[run.id].provenance["threads"] == 1
    failure = json.loads(unfinished(own_runs, bad, "failed.json").read_text())
    assert "in train_epoch" in failure["traceback"]
    assert "Diverged: the loss of epoch 1 is" in failure["traceback"]
    left = {path.suffix for path in (own_runs / "unfinished").iterdir()}
    assert left <= {".lock", ".json"}


def train_on_two_cores(runs):
    torch.set_num_threads(2)
    return train_missing(runs)


@pytest.mark.slow
def test_a_killed_parent_leaves_no_lock_held(tiny, own_runs, process, wait_for):
    runs = [tiny(epochs=1000, seed=seed) for seed in (0, 1)]
    child = process(train_on_two_cores, runs)
    kept = [unfinished(own_runs, run, "pt") for run in runs]
    wait_for(lambda: all(path.exists() for path in kept))
    child.kill()
    child.join()
    for path in kept:
        with filelock.FileLock(path.with_suffix(".lock"), timeout=20):
            last = path.stat().st_mtime_ns
            time.sleep(0.3)
            assert path.stat().st_mtime_ns == last  # nobody trains it any more


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
