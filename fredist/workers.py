"""Work shared by several processes: how a CPU's cores train several runs at once.

Pools were weighed: in that of `concurrent.futures`, and loky's and joblib's on top of it, one
death fails every task under way, and nothing is heard of a task before its end; `multiprocessing`
first runs the user's script again in each process, which then has to guard against that.

A page's slow work is in a process, too, not in a thread: a thread cannot be ended while PyTorch
traces a network, and would keep the page waiting for the interpreter.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from .checks import check_integer

_STOP = b"stop"  # not a pickle, so it is never taken for work


@dataclass(frozen=True)
class Failure:
    """An exception in another process, or that process's death."""

    error: str
    traceback: str


def share(
    tasks: Iterable, work: Callable, processes: int, tell: Callable = lambda task, news: None
) -> Iterator[tuple[object, object]]:
    """Yield (task, what `work(task, report)` returned or the `Failure`), in order of completion.

    Tasks are begun in their order; `work` is of an importable module, like its arguments picklable.
    What it passes to `report` reaches `tell(task, news)` here. Close the generator to end the
    processes at once; they also end with this process, however it ends. Ctrl-C is this process's
    alone. One process is this one.

    Examples
    --------
    >>> list(share(["a"], lambda task, report: task.upper(), processes=1))
    [('a', 'A')]
    """
    waiting, processes = deque(tasks), check_integer("processes", processes)
    while waiting and processes == 1:
        task, told = waiting.popleft(), []

        def report(news, task=task, told=told):
            try:
                tell(task, news)
            except Exception as error:
                told.append(error)  # the listener's own, and no failure of the task
                raise

        outcome = attempt(work, task, report)
        if told:
            raise told[0]
        yield task, outcome
    started: dict[Connection, subprocess.Popen] = {}
    busy: dict[Connection, object] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < processes:
                idle = (connection for connection in started if connection not in busy)
                connection = next(idle, None) or _start(started)
                busy[connection] = waiting.popleft()
                with suppress(OSError):  # it has just died, which reading from it will show
                    connection.send((work, busy[connection]))
            for connection in wait(list(busy)):
                kind, content = _receive(connection, started)
                if kind == "news":
                    tell(busy[connection], content)
                else:
                    yield busy.pop(connection), content
    finally:
        # At once, which a stopped process heeds too: whatever a task writes, it writes whole.
        for process in started.values():
            process.kill()
        for process in started.values():
            process.wait()


class Stopped(Exception):
    """Raised in work that is to end, by its next `report`."""


class Worker:
    """A process for a page's slow work, of which only the newest matters.

    Work is as in `share`: `work(task, report)` of an importable module. `start` returns at once;
    what is reported and returned reaches `tell("news" or "result", content)` in a thread. Work that
    was stopped or replaced tells nothing more. It ends at its next `report`, whose argument may be
    left out, or after `GRACE` seconds with its process, which is replaced.
    """

    GRACE = 1.0

    def __init__(self):
        self._started: dict[Connection, subprocess.Popen] = {}
        self._turn, self._stop = threading.Lock(), threading.Event()

    def start(self, work: Callable, task, tell: Callable, *, patient: bool = False) -> None:
        """Begin work in place of what is under way; what follows `patient` work waits for it."""
        self.stop()
        stop = threading.Event()
        if not patient:
            self._stop = stop
        threading.Thread(target=self._do, args=((work, task), tell, stop), daemon=True).start()

    def stop(self) -> None:
        """End what is under way."""
        self._stop.set()

    def close(self) -> None:
        """End the process too, at once."""
        self.stop()
        for process in list(self._started.values()):
            process.kill()

    def _do(self, message, tell: Callable, stop: threading.Event) -> None:
        with self._turn:
            if stop.is_set():
                return
            failed = attempt(self._follow, message, tell, stop)
            if failed is not None:  # of a process that cannot be started, or of its pickles
                while self._started:
                    self._started.popitem()[1].kill()
                if not stop.is_set():
                    tell("result", failed)

    def _follow(self, message, tell: Callable, stop: threading.Event) -> None:
        """Let the process do one piece of work, and tell what it does, until its result or end."""
        # What it prints, of its troubles for one, would stand on the page.
        quiet = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)
        (connection,) = self._started or (_start(self._started, **quiet),)
        with suppress(OSError):  # it has died, which reading from it will show
            connection.send(message)
        kind, deadline = "news", inf
        while kind == "news":
            if stop.is_set() and deadline == inf:
                deadline = time.monotonic() + self.GRACE
                with suppress(OSError):
                    connection.send_bytes(_STOP)
            if time.monotonic() > deadline:
                self._started[connection].kill()
            if connection.poll(0.02):
                kind, content = _receive(connection, self._started)
                if not stop.is_set():
                    tell(kind, content)


def attempt(work: Callable, *arguments):
    """Return what `work` returns, or the `Failure` that it ends in."""
    try:
        return work(*arguments)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


def _receive(connection: Connection, started: dict[Connection, subprocess.Popen]) -> tuple:
    """Return ("news" or "result", content) from a process; its death is a result, a `Failure`."""
    try:
        return connection.recv()
    except (EOFError, OSError):  # OSError: it has died in the middle of a message
        process = started.pop(connection)
    error = f"its process ended with status {process.wait()}"
    if process.returncode == -signal.SIGKILL:
        error += ": killed, perhaps because memory ran out"
    return "result", Failure(error, error + "; what it has printed may say more\n")


def _start(started: dict[Connection, subprocess.Popen], **options) -> Connection:
    """Start a process, add it to those `started` and return the connection to it."""
    ours, theirs = Pipe()
    serve = f"from {__name__} import _serve; _serve({theirs.fileno()})"
    places = [place for place in sys.path if isinstance(place, str)]  # as Python's import does
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {places!r}; {serve}"]
    # A Ctrl-C reaches every process of a terminal; this one decides what becomes of the others,
    # which have it blocked from their first instruction on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        options |= {"stdin": subprocess.DEVNULL, "pass_fds": [theirs.fileno()]}
        started[ours] = subprocess.Popen(command, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours


def _serve(descriptor: int) -> None:
    connection, inbox = Connection(descriptor), queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    while True:
        message, stop = inbox.get()

        def report(news=None, stop=stop):
            if stop.is_set():
                raise Stopped
            if news is not None:
                connection.send(("news", news))

        with suppress(OSError):  # nobody listens any more: the thread ends this process
            result = attempt(_work, message, report)
            connection.send(("result", result))


def _work(message: bytes, report: Callable):
    work, task = pickle.loads(message)
    return work(task, report)


def _listen(connection: Connection, inbox: queue.SimpleQueue) -> None:
    """Put what arrives into `inbox`, and end this process when the other end is closed or dead."""
    stop = threading.Event()
    with suppress(EOFError, OSError):
        while True:
            if (message := connection.recv_bytes()) == _STOP:
                stop.set()  # of the message before
            else:
                stop = threading.Event()
                inbox.put((message, stop))
    os._exit(1)
