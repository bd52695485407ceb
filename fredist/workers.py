"""Work shared by several processes: how a CPU's cores train several runs at once."""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
    Close the generator to end the processes at once; they end with this process too, even if it
    is killed. One process is this one. A script calls it under `if __name__ == "__main__"`.

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
    tasks = list(tasks)[::-1]
    if processes == 1:
        while tasks:
            task = tasks.pop()
            yield task, _attempt(work, task, lambda news, task=task: tell(task, news))
        return
    busy: dict[Connection, tuple] = {}
    started: list[multiprocessing.Process] = []

    def begin(connection, process):
        busy[connection] = process, tasks.pop()
        with contextlib.suppress(OSError):  # it has just died, which reading from it will show
            connection.send(busy[connection][1])

    def start():
        connection, process = _start(work)
        started.append(process)
        begin(connection, process)

    try:
        while tasks and len(busy) < processes:
            start()
        while busy:
            for connection in wait(list(busy)):
                process, task = busy[connection]
                try:
                    kind, content = connection.recv()
                except (EOFError, OSError):  # OSError: it has died in the middle of a message
                    kind, content = "death", _death(process)
                if kind == "news":
                    tell(task, content)
                    continue
                del busy[connection]
                if tasks and kind == "result":
                    begin(connection, process)
                else:
                    connection.close()  # which ends the process
                    if tasks:
                        start()
                yield task, content
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join()
        for connection in busy:
            connection.close()


def _attempt(work: Callable, task, report: Callable):
    try:
        return work(task, report)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


def _death(process: multiprocessing.Process) -> Failure:
    process.join()
    error = f"its process ended with status {process.exitcode}"
    if process.exitcode == -signal.SIGKILL:
        error += ": killed, perhaps because memory ran out"
    return Failure(error, error + "; what it has printed may say more\n")


def _start(work: Callable) -> tuple[Connection, multiprocessing.Process]:
    context = multiprocessing.get_context("spawn")  # PyTorch's threads do not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs), daemon=True)
    # Ctrl-C reaches every process of a terminal; this one decides what becomes of the others.
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        process.start()
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
    theirs.close()
    return ours, process


def _serve(work: Callable, connection: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while True:
            task = connection.recv()
            result = _attempt(work, task, lambda news: connection.send(("news", news)))
            connection.send(("result", result))
    except (EOFError, OSError):
        pass  # no more tasks


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
