"""Several processes: what they are given, what they say, and how each of them ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from fredist.workers import Failure, Worker, share

# Says which processes two workers are, and then does nothing for a minute. A script without
# `if __name__ == "__main__"`, which its workers must not run again.
PARENT = """
from test_workers import nap, share
try:
    list(share([60, 60], nap, 2, lambda task, pid: print(pid, flush=True)))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def nap(seconds, report):
    report(os.getpid())
    time.sleep(seconds)
    return os.getpid()


def follow(task, report):
    """Wait for the files the task names, report, and return or fail as it says."""
    folder, name, after, end = task
    (folder / name).touch()
    report(f"{name} in {os.getpid()}")
    while not all((folder / other).exists() for other in after):
        time.sleep(0.002)
    if end == "fail":
        raise ValueError(f"{name} cannot be")
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "exit":
        os._exit(3)
    return os.getpid()


class Unreadable:
    """What cannot be understood where it arrives."""

    def __reduce__(self):
        return int, ("not a number",)


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.005)


@pytest.fixture
def parent():
    """Start a process that has two workers, in a group of its own; return it and their ids."""
    started = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    workers = [int(started.stdout.readline()) for _ in range(2)]
    yield started, workers
    for pid in (started.pid, *workers):
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    started.communicate()


def test_tasks_begin_in_order_and_end_as_they_end(tmp_path):
    # a and b begin; b waits for d, so that c and d follow in a's process; e is last.
    after = {"a": "b", "b": "d", "c": "", "d": "", "e": "b"}
    tasks = [(tmp_path, name, others, "") for name, others in after.items()]
    news, ended = [], []
    for task, pid in share(iter(tasks), follow, 2, lambda *said: news.append(said)):
        ended.append((task[1], pid))
    names = "".join(name for name, _ in ended)
    assert names[:2] == "ac"
    assert sorted(names[2:]) == ["b", "d", "e"]
    assert {task: text.split(" in ")[0] for task, text in news} == {t: t[1] for t in tasks}
    assert [text for _, text in sorted(news)] == [f"{name} in {pid}" for name, pid in sorted(ended)]
    process = dict(ended)
    assert process["a"] == process["c"] == process["d"] != process["b"]
    assert not any(is_alive(pid) for pid in process.values())
    assert os.getpid() not in process.values()


def test_a_failure_or_a_death_is_one_tasks_own(tmp_path):
    ends = {"a": "fail", "b": "killed", "c": "", "d": "exit", "e": "", "f": ""}
    tasks = [(tmp_path, name, "", end) for name, end in ends.items()]
    tasks.insert(2, (tmp_path, "unreadable", Unreadable(), ""))
    outcomes = {task[1]: outcome for task, outcome in share(tasks, follow, 2)}
    assert sorted(outcomes) == [*"abcdef", "unreadable"]
    assert outcomes["a"].error == "ValueError: a cannot be"
    assert 'raise ValueError(f"{name} cannot be")' in outcomes["a"].traceback
    assert "status -9: killed, perhaps because memory ran out" in outcomes["b"].error
    assert outcomes["d"].error == "its process ended with status 3"
    assert "invalid literal for int" in outcomes["unreadable"].error
    assert all(isinstance(outcomes[name], Failure) for name in "abd")
    assert all(isinstance(outcomes[name], int) for name in "cef")


def test_one_process_is_this_one(tmp_path):
    ends, news = {"a": "", "b": "fail", "c": ""}, []
    tasks = [(tmp_path, name, "", end) for name, end in ends.items()]
    outcomes = list(share(tasks, follow, 1, lambda *said: news.append(said)))
    assert [task for task, _ in outcomes] == tasks
    assert news == [(task, f"{task[1]} in {os.getpid()}") for task in tasks]
    assert [outcome for _, outcome in outcomes[::2]] == [os.getpid()] * 2
    assert outcomes[1][1].error == "ValueError: b cannot be"
    assert "Traceback" in outcomes[1][1].traceback


def test_an_error_of_the_listener_is_no_failure_of_the_task(tmp_path):
    def tell(task, news):
        raise BrokenPipeError(32, "Broken pipe")

    for end in ("", "fail"):
        with pytest.raises(BrokenPipeError):
            list(share([(tmp_path, "a", "", end)], follow, 1, tell))


def test_a_path_among_the_places_of_modules_kills_no_worker(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
    [(_, pid)] = share([0], nap, 2)
    assert isinstance(pid, int), pid


def test_no_processes_are_an_error_rather_than_a_wait():
    with pytest.raises(ValueError, match="at least 1 as processes, got 0"):
        list(share([0], nap, 0))


def test_no_tasks_need_no_process():
    assert list(share([], nap, 2)) == []


def test_closing_ends_the_processes_at_once_even_a_stopped_one():
    pids = []
    with closing(share([60, 3, 60], nap, 2, lambda task, pid: pids.append(pid))) as outcomes:
        assert next(outcomes)[0] == 3  # by when the other has begun, on a busy machine too
        assert len(set(pids)) == 2
        os.kill(pids[0], signal.SIGSTOP)
        start = time.monotonic()
    assert time.monotonic() - start < 2
    assert not any(is_alive(pid) for pid in pids)


def test_an_error_in_tell_ends_the_processes_too():
    pids = []

    def tell(task, pid):
        pids.append(pid)
        if len(pids) == 2:
            raise KeyError("tell")

    with pytest.raises(KeyError):
        list(share([60, 60], nap, 2, tell))
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_parent(parent, number):
    process, workers = parent
    assert all(is_alive(pid) for pid in workers)
    process.send_signal(number)
    wait_for(lambda: not any(is_alive(pid) for pid in workers), seconds=10)
    assert process.communicate() == ("", "")


@pytest.mark.parametrize("stopped", [False, True])
def test_ctrl_c_is_the_parents_alone(parent, stopped):
    process, workers = parent
    if stopped:
        os.kill(workers[0], signal.SIGSTOP)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=10) == ("interrupted\n", "")
    assert time.monotonic() - start < 2
    assert process.returncode == 0
    assert not any(is_alive(pid) for pid in workers)


def count(task, report):
    """Report numbers until told to stop; `deaf` does not ask."""
    for n in range(10_000):
        if task != "deaf" or not n:
            report((task, n, os.getpid()))
        time.sleep(0.005)


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


@pytest.fixture
def heard(worker):
    """Return a function that starts work and returns the list of what it tells, as it grows."""

    def start(work, task, **options):
        told = []
        worker.start(work, task, lambda *what: told.append(what), **options)
        return told

    return start


def test_a_worker_does_the_newest_work_alone_and_keeps_its_process(heard):
    first = heard(count, "first")
    wait_for(lambda: len(first) > 3)
    second = heard(count, "second")
    length = len(first)
    wait_for(lambda: len(second) > 3)
    third, fourth = heard(nap, 60), heard(nap, 0)  # the third has no time to begin
    wait_for(lambda: len(fourth) == 2)
    assert (len(first), third) == (length, [])
    assert {kind for kind, _ in (*first, *second)} == {"news"}
    assert [kind for kind, _ in fourth] == ["news", "result"]
    assert len({pid for _, (*_, pid) in (*first, *second)} | {fourth[1][1]}) == 1


def test_a_worker_that_does_not_listen_is_replaced_with_its_process(worker, heard):
    deaf = heard(count, "deaf")
    wait_for(lambda: deaf)
    ((_, (*_, pid)),) = deaf
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() - began < 0.1  # nobody waits
    after = heard(nap, 0)
    wait_for(lambda: len(after) == 2)
    assert not is_alive(pid)
    assert after[1] == ("result", after[0][1])
    assert len(deaf) == 1


def test_work_that_cannot_be_sent_is_a_failure_and_the_next_is_done(heard):
    told = heard(nap, threading.Lock())
    wait_for(lambda: told)
    assert [kind for kind, _ in told] == ["result"]
    assert "cannot pickle" in told[0][1].error
    after = heard(nap, 0)
    wait_for(lambda: len(after) == 2)
    assert [kind for kind, _ in after] == ["news", "result"]


def test_patient_work_is_waited_for(heard):
    patient, after = heard(nap, 0.2, patient=True), heard(nap, 0)
    wait_for(lambda: len(after) == 2)
    assert [kind for kind, _ in patient] == ["news", "result"]


def test_a_workers_errors_and_death_are_results_and_it_goes_on(tmp_path, heard):
    for end, words in (("fail", "ValueError: a cannot be"), ("exit", "its process ended with 3")):
        told = heard(follow, (tmp_path, "a", [], end))
        wait_for(lambda told=told: len(told) == 2)
        assert isinstance(told[1][1], Failure)
        assert words.replace("with 3", "with status 3") in told[1][1].error
    told = heard(nap, 0)
    wait_for(lambda: len(told) == 2)
