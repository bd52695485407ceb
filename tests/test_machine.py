"""Nothing is timed while a run trains on this machine, and nothing trains while one is timed."""

import os
import time

import pytest

from fredist import machine


@pytest.fixture(autouse=True)
def own_machine(tmp_path, monkeypatch):
    """Give the tests locks of their own: runs may be training on this machine."""
    monkeypatch.setenv("FREDIST_LOCKS", str(tmp_path / "locks"))
    return tmp_path


def hold(rule, place, mark, seconds):
    """Hold a rule in another process, which says in files when it began and ended."""
    os.environ["FREDIST_LOCKS"] = str(place / "locks")
    with getattr(machine, rule)():
        (place / f"{mark}.began").write_text(str(time.time()))
        time.sleep(seconds)
        (place / f"{mark}.ended").write_text(str(time.time()))


def said(place, what):
    return float((place / what).read_text())


def test_timing_waits_for_every_training_and_says_so(own_machine, process, wait_for, capsys):
    for mark in "ab":
        process(hold, "training", own_machine, mark, 0.6)
    wait_for(lambda: len(list(own_machine.glob("*.began"))) == 2)  # many at once
    assert not list(own_machine.glob("*.ended"))
    with machine.timing():
        assert len(list(own_machine.glob("*.ended"))) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert set(lines) == {"waiting for a training run to end before timing"}


def test_training_waits_for_a_timing(own_machine, process, wait_for, capsys):
    process(hold, "timing", own_machine, "timing", 0.6)
    wait_for((own_machine / "timing.began").exists)
    with machine.training():
        assert time.time() >= said(own_machine, "timing.ended")
    assert capsys.readouterr().out == "waiting for a timing to end before training\n"


def test_a_waiting_timing_holds_off_new_trainings(own_machine, process, wait_for):
    process(hold, "training", own_machine, "first", 1.0)
    wait_for((own_machine / "first.began").exists)
    timed = process(hold, "timing", own_machine, "timing", 0.5)
    gate = machine._gate()
    wait_for(lambda: not free(gate))
    late = process(hold, "training", own_machine, "late", 0)
    for child in (timed, late):
        child.join()
        assert child.exitcode == 0
    assert said(own_machine, "first.ended") <= said(own_machine, "timing.began")
    assert said(own_machine, "timing.ended") <= said(own_machine, "late.began")


def free(lock):
    try:
        lock.acquire(timeout=0)
    except machine.filelock.Timeout:
        return False
    lock.release()
    return True


@pytest.mark.parametrize("rule", ["training", "timing"])
def test_a_killed_process_holds_nothing(own_machine, process, wait_for, capsys, rule):
    child = process(hold, rule, own_machine, "killed", 600)
    wait_for((own_machine / "killed.began").exists)
    child.kill()
    child.join()
    with machine.timing():
        pass
    with machine.training():
        pass
    assert capsys.readouterr().out == ""


def test_nothing_is_left_behind(own_machine):
    for _ in range(2):
        with machine.training(), machine.training():
            pass
        with machine.timing():
            pass
    with pytest.raises(ZeroDivisionError), machine.training():
        1 / 0  # noqa: B018
    folder = own_machine / "locks"
    assert not list(folder.glob("training-*"))
    assert folder.stat().st_mode & 0o077 == 0
    with machine.timing():
        pass
