# ruff: noqa: F401 (a fixture is imported)
"""Several processes that make jobs, which wait for each other, are interrupted, or die."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import filelock
import psutil
import pytest
import torch
from test_jobs import (
    bad,
    computed,
    ended,
    one_at_a_time,
    outcome,
    records,
    straight,
    tiny,
    unfinished,
)
from test_workers import wait_for

from fredist.jobs import Outcome, make
from fredist.records import Store
from fredist.workers import share

# Holds a lock until its input ends, or until it is killed.
HOLDER = """
import sys, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""
# What a command line does, in a terminal of its own if it has one: two runs at a time.
COMMAND = """
import fcntl, os, signal, sys, termios
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
try:
    # An interrupt within these imports can end the process in PyTorch's own C++ code, or be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    import timm, torch
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from test_jobs import tiny
    from fredist.jobs import make
    torch.set_num_threads(2)
    make([tiny(epochs=1000, seed=seed) for seed in (0, 1, 2)], device="cpu")
except KeyboardInterrupt:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("interrupted: the same command continues", flush=True)
    os._exit(130)  # PyTorch's own ending takes seconds on a busy machine
"""


@pytest.fixture
def hold(own_runs):
    """Return a function that starts a process which holds a job's lock."""
    holders = []

    def start(job):
        lock = unfinished(own_runs, job, "lock")
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


def test_a_job_in_other_hands_is_waited_for_at_the_end(own_runs, hold, capsys):
    held, free = tiny(), tiny(template="reverse")
    holder, early = hold(held), []

    def release():
        try:
            wait_for(lambda: Store().find(free))
            time.sleep(0.8)  # during which nothing may happen, but it is said what it waits for
            early.extend(path for path in own_runs.glob("*.json") if held.id in path.name)
        finally:
            holder.kill()

    thread = threading.Thread(target=release)
    thread.start()
    assert make([held, free]) == Outcome(2, 2, 0, {})
    thread.join()
    assert early == []
    shown = capsys.readouterr().out
    assert ended(shown) == [str(free), str(held)]
    assert f"waiting for another process to make {held}\n" in shown
    assert set(records(own_runs)) == {held.id, free.id}


def test_what_another_process_makes_meanwhile_is_taken(
    own_runs,
    hold,
    tmp_path,
    capsys,
):
    jobs = [tiny(), computed()]
    make(jobs)
    shutil.copytree(own_runs, tmp_path / "theirs")
    for path in own_runs.glob("*.json"):
        path.unlink()
    before = records(tmp_path / "theirs")
    ours = unfinished(own_runs, jobs[0], "pt")
    ours.touch()
    holders = [hold(job) for job in jobs]

    def finish():
        wait_for(lambda: "waiting" in capsys.readouterr().out)
        shutil.copytree(tmp_path / "theirs", own_runs, dirs_exist_ok=True)
        for holder in holders:
            holder.kill()

    thread = threading.Thread(target=finish)
    thread.start()
    assert make(jobs) == Outcome(2, 2, 0, {})
    thread.join()
    assert capsys.readouterr().out.count("(made by another process)") == 2
    assert records(own_runs).keys() == before.keys()
    assert ours.exists()  # theirs may be of another kind of device


def test_the_limit_holds_while_waiting(own_runs, hold, capsys):
    run = tiny()
    hold(run)
    start = time.monotonic()
    result = make([run, bad(seed=1)], minutes=4 / 60)
    assert time.monotonic() - start < 5
    assert (result.made, result.left, list(result.failed)) == (0, 1, [str(bad(seed=1))])
    assert "time is up: 1 of 2 left" in capsys.readouterr().out


def test_a_dead_owners_lock_is_taken_over(own_runs, hold):
    run = tiny()
    holder = hold(run)
    holder.kill()
    holder.wait()
    assert unfinished(own_runs, run, "lock").exists()
    assert make([run], minutes=5).made == 1


def make_all(jobs, report):
    torch.set_num_threads(1)
    return make(jobs)


def test_two_processes_share_the_jobs_and_make_each_once(own_runs):
    jobs, theirs = [tiny(seed=seed, epochs=4) for seed in range(5)], []
    thread = threading.Thread(target=lambda: theirs.extend(share([jobs], make_all, 2)))
    thread.start()
    wait_for(lambda: list((own_runs / "unfinished").glob("*.lock")))  # it has begun
    ours = make(jobs)
    thread.join()
    [(_, other)] = theirs
    assert (ours.left, ours.failed, other) == (0, {}, Outcome(5, 5, 0, {}))
    assert set(records(own_runs)) == {job.id for job in jobs}
    assert list((own_runs / "unfinished").iterdir()) == []


# -- one process for each core


def test_on_two_cores_two_are_trained_at_once_and_one_that_dies_fails_alone(
    own_runs,
    capsys,
):
    torch.set_num_threads(2)
    dying = tiny(epochs=16, lr_steps=(12,))  # the longest, hence the first
    good = [tiny(), tiny("mobilenet"), bad(seed=2)]

    def kill():
        wait_for(unfinished(own_runs, dying, "pt").exists)
        os.kill(holder_of(unfinished(own_runs, dying, "lock")), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    result = make([*good, dying], device="cpu")
    thread.join()
    assert (result.asked, result.made, result.left) == (4, 2, 0)
    assert set(result.failed) == {str(dying), str(bad(seed=2))}
    assert "status -9: killed, perhaps because memory ran out" in result.failed[str(dying)]
    first, *lines = capsys.readouterr().out.splitlines()
    assert re.match(r"training 4 runs on .*, 2 at a time, estimated [\d.]+ (s|min)$", first)
    assert [line.split("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    found = records(own_runs)
    assert set(found) == {run.id for run in good[:2]}
    for run in good[:2]:
        assert outcome(found[run.id]) == straight(run)
    failure = json.loads(unfinished(own_runs, bad(seed=2), "failed.json").read_text())
    assert "Diverged: " in failure["traceback"]
    assert make([dying], device="cpu").made == 1  # from where it was killed
    assert outcome(records(own_runs)[dying.id]) == straight(dying)
    left = {path.name for path in (own_runs / "unfinished").iterdir()}
    assert left == {unfinished(own_runs, good[2], end).name for end in ("lock", "failed.json")}


def holder_of(path):
    """Return the process that has a file open, of this one's children."""
    for child in psutil.Process().children(recursive=True):
        if str(path) in [os.path.realpath(f"/proc/{child.pid}/fd/{fd}") for fd in _open(child)]:
            return child.pid
    raise AssertionError(f"nobody holds {path}")


def _open(child):
    return os.listdir(f"/proc/{child.pid}/fd")


# -- interrupted


@pytest.fixture
def command(own_runs):
    """Return a function that starts the command, on a terminal or on pipes."""
    started = []

    def start(terminal):
        variables = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        if terminal:
            variables["FREDIST_PLAIN"] = ""
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", COMMAND],
                stdin=terminal or subprocess.DEVNULL,
                stdout=terminal or subprocess.PIPE,
                stderr=terminal or subprocess.STDOUT,
                env=os.environ | variables,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        for one in (*_workers(process), process):
            one.kill()
        process.wait()


def _workers(process):
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def read_all(terminal, shown):
    with suppress(OSError):  # the other end is closed
        while True:
            shown += os.read(terminal, 65536)


def both_train(folder):
    """Wait until two runs are being trained."""
    wait_for(lambda: len(list((folder / "unfinished").glob("vgg19-*.pt"))) == 2)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_ctrl_c_in_a_terminal_is_one_sentence(own_runs, command, stopped):
    ours, theirs = pty.openpty()
    process = command(theirs)
    os.close(theirs)
    shown = bytearray()
    reader = threading.Thread(target=read_all, args=(ours, shown))
    reader.start()
    both_train(own_runs)
    epochs = rb"epochs: +\d+%\|.*vgg19 base seed \d, \d+ of 1000 epochs"
    wait_for(lambda: re.search(epochs, shown))  # the bar moves
    workers = _workers(process)
    assert len(workers) == 2
    if stopped:
        workers[0].suspend()
    start = time.monotonic()
    for _ in range(1 + stopped):  # the second during the clean-up
        os.write(ours, b"\x03")
    assert process.wait(10) == 130
    assert time.monotonic() - start < 3
    reader.join()
    os.close(ours)
    text = shown.decode()
    assert "Traceback" not in text
    assert "leaked" not in text
    assert text.rstrip().endswith("interrupted: the same command continues")
    assert text.count("\n") < 6
    wait_for(lambda: not any(worker.is_running() for worker in workers), seconds=5)
    for path in (own_runs / "unfinished").glob("*.lock"):
        with filelock.FileLock(path, timeout=0):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent_and_leave_nothing_half_written(
    own_runs,
    command,
    number,
):
    process = command(None)
    both_train(own_runs)
    workers = _workers(process)
    process.send_signal(number)
    assert process.wait(10) == -number
    wait_for(lambda: not any(worker.is_running() for worker in workers), seconds=5)
    text = process.stdout.read().decode()
    assert "Traceback" not in text
    assert text.count("\n") == 1
    for path in (own_runs / "unfinished").glob("*.pt"):
        with filelock.FileLock(path.with_suffix(".lock"), timeout=0):
            digest, _, content = path.read_bytes().partition(b"\n")
            assert len(digest) == 64
            assert content


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.3 * n for n in range(1, 21)])
def test_ctrl_c_at_any_moment_prints_no_traceback(own_runs, command, moment):
    process = command(None)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGINT)
    text = process.communicate(timeout=20)[0].decode()
    assert process.returncode == 130
    assert "Traceback" not in text
