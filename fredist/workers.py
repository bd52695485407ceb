"""Work shared by several processes: how a CPU's cores train several runs at once.

Pools were weighed: in that of `concurrent.futures`, and loky's and joblib's on top of it, one
death fails every task under way, and nothing is heard of a task before its end; `multiprocessing`
first runs the user's script again in each process, which then has to guard against that.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait


@dataclass(frozen=True)
class Failure:
    """An exception in another process, or that process's death."""

    error: str
    traceback: str


def share(
    tasks: Iterable, work: Callable, processes: int, tell: Callable = lambda task, news: None
) -> Iterator[tuple[object, object]]:
    """Yield (task, what `work(task, report)` returned or the `Failure`), in order of completion.

    Tasks are begun in their order. What `work` passes to `report` reaches `tell(task, news)` here.
    Close the generator to end the processes at once; they also end with this process, however it
    ends. Ctrl-C is this process's alone. One process is this one.

    Parameters
    ----------
    tasks : iterable
    work : callable
        Of an importable module, like its arguments picklable.
    processes : int
    tell : callable

    Examples
    --------
    >>> list(share(["a"], lambda task, report: task.upper(), processes=1))
    [('a', 'A')]
    """
    waiting = deque(tasks)
    while waiting and processes == 1:
        task = waiting.popleft()
        yield task, attempt(work, task, partial(tell, task))
    started: dict[Connection, subprocess.Popen] = {}
    busy: dict[Connection, object] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < processes:
                idle = [connection for connection in started if connection not in busy]
                connection = idle[0] if idle else _start(started)
                busy[connection] = waiting.popleft()
                with suppress(OSError):  # it has just died, which reading from it will show
                    connection.send((work, busy[connection]))
            for connection in wait(list(busy)):
                try:
                    kind, content = connection.recv()
                except (EOFError, OSError):  # OSError: it has died in the middle of a message
                    kind, content = "death", _death(started.pop(connection))
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


def attempt(work: Callable, *arguments):
    """Return what `work` returns, or the `Failure` that it ends in."""
    try:
        return work(*arguments)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


def _death(process: subprocess.Popen) -> Failure:
    error = f"its process ended with status {process.wait()}"
    if process.returncode == -signal.SIGKILL:
        error += ": killed, perhaps because memory ran out"
    return Failure(error, error + "; what it has printed may say more\n")


def _start(started: dict[Connection, subprocess.Popen]) -> Connection:
    """Start a process, add it to those `started` and return the connection to it."""
    ours, theirs = Pipe()
    serve = f"from {__name__} import _serve; _serve({theirs.fileno()})"
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {serve}"]
    # A Ctrl-C reaches every process of a terminal; this one decides what becomes of the others,
    # which have it blocked from their first instruction on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        started[ours] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours


def _serve(descriptor: int) -> None:
    connection, inbox = Connection(descriptor), queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    while True:
        message = inbox.get()
        with suppress(OSError):  # nobody listens any more: the thread ends this process
            result = attempt(_work, message, lambda news: connection.send(("news", news)))
            connection.send(("result", result))


def _work(message: bytes, report: Callable):
    work, task = pickle.loads(message)
    return work(task, report)


def _listen(connection: Connection, inbox: queue.SimpleQueue) -> None:
    """Put what arrives into `inbox`, and end this process when the other end is closed or dead."""
    with suppress(EOFError, OSError):
        while True:
            inbox.put(connection.recv_bytes())
    os._exit(1)
