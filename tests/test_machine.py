"""Nothing is timed while a run trains on this machine, and nothing trains while one is timed."""

import os
import subprocess
import sys
import time

import filelock
import pytest

from fredist import machine

# Holds a rule until its input ends, or for as long as it is told to, and says since and until when.
HOLDER = """
import select, sys, time
from fredist import machine
with getattr(machine, sys.argv[1])(tell=lambda line: None):
    print(time.monotonic(), flush=True)
    select.select([sys.stdin], [], [], float(sys.argv[2]))
    print(time.monotonic(), flush=True)
"""


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    """Give the tests locks of their own: runs may be training on this machine."""
    folder = tmp_path / "not yet" / "locks"
    monkeypatch.setenv("FREDIST_LOCKS", str(folder))
    return folder


@pytest.fixture
def hold():
    """Return a function that starts a process which holds a rule."""
    holders = []

    def start(rule, seconds=60.0, begun=True):
        command = [sys.executable, "-c", HOLDER, rule, str(seconds)]
        pipe = subprocess.PIPE
        holders.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        if begun:
            holders[-1].began = float(holders[-1].stdout.readline())
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.wait()


def ended(holder):
    return float(holder.communicate(timeout=20)[0].split()[-1])


def test_timing_waits_for_every_training_and_says_so_once(hold, capsys):
    holders = [hold("training", 0.8) for _ in range(2)]  # many at once
    with machine.timing():
        now = time.monotonic()
    assert all(now >= ended(holder) for holder in holders)
    assert capsys.readouterr().out == "waiting for a training run to end before timing\n"


def test_training_waits_for_a_timing_and_tells_who_asks(hold):
    holder, lines = hold("timing", 0.8), []
    with machine.training(tell=lines.append):
        now = time.monotonic()
    assert now >= ended(holder)
    assert lines == ["waiting for a timing to end before training"]


def test_a_waiting_timing_holds_off_new_trainings(hold, locks):
    first = hold("training", 60)
    timed = hold("timing", 0.3, begun=False)
    gate = filelock.FileLock(locks / "timing.lock")
    end = time.monotonic() + 20
    while free(gate):
        assert time.monotonic() < end
        time.sleep(0.01)
    late = hold("training", 0, begun=False)
    time.sleep(0.5)
    first.stdin.close()
    began, stopped = map(float, timed.communicate(timeout=20)[0].split())
    assert float(first.stdout.readline()) <= began
    assert stopped <= float(late.stdout.readline())


def free(lock):
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    lock.release()
    return True


@pytest.mark.parametrize(
    ("held", "wanted"), [("training", "timing"), ("timing", "timing"), ("timing", "training")]
)
@pytest.mark.parametrize("seconds", [0, 0.7])
def test_a_time_limit_holds_while_waiting(hold, capsys, held, wanted, seconds):
    hold(held)
    start = time.monotonic()
    with pytest.raises(filelock.Timeout), getattr(machine, wanted)(start + seconds):
        pass
    assert seconds <= time.monotonic() - start < seconds + 0.4
    assert ("waiting" in capsys.readouterr().out) == (seconds > 0)


@pytest.mark.parametrize("rule", ["training", "timing"])
def test_a_killed_process_holds_up_nobody(hold, locks, rule):
    holder = hold(rule)
    holder.kill()
    holder.wait()
    with machine.timing(0):
        pass
    with machine.training(0):
        pass
    assert [path.name for path in locks.iterdir()] == ["timing.lock"]  # what it left is gone


def test_a_lock_can_be_taken_by_all_who_share_its_folder(tmp_path):
    before = os.umask(0o022)
    try:
        with machine.holding(tmp_path / "shared" / "one.lock"):
            assert (tmp_path / "shared" / "one.lock").stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


def test_nothing_is_left_behind(locks):
    with machine.training(), machine.training():
        assert len(list(locks.glob("training-*"))) == 2
    with pytest.raises(ZeroDivisionError), machine.training():
        1 / 0  # noqa: B018
    assert not list(locks.glob("training-*"))
    assert locks.stat().st_mode & 0o077 == 0
    with machine.timing(0):
        pass
