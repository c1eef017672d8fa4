"""Mapping a function over tasks in a few processes, in order, with bounded memory.

Each worker holds one pipe to its parent and ends when that closes, so none outlives a parent that
was killed (`concurrent.futures` and `multiprocessing.Pool` leave theirs behind).
"""

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from data_pipeline.errors import DataError

AHEAD = 2  # tasks a worker has been given but not answered: one in work, one waiting

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerLostError(DataError):
    """A worker ended by itself, over the oldest task without a result or the next it was given."""


def map_in_order(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int
) -> Iterator[Result]:
    """`map(function, tasks)`, computed by this process (`workers=1`) or by several others.

    The function must survive pickling. Its exceptions end the map with their traceback; a worker
    that ends by itself ends it with a `WorkerLostError`.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    connections = []
    processes = []
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(function, theirs), daemon=True)
            process.start()
            theirs.close()
            connections.append(ours)
            processes.append(process)
        waiting = deque()
        for count, task in enumerate(tasks):
            if len(waiting) == AHEAD * workers:
                yield _answer(waiting.popleft())
            connection = connections[count % workers]
            with suppress(BrokenPipeError, ConnectionResetError):  # `_answer` says so in its turn
                connection.send(task)
            waiting.append(connection)
        while waiting:
            yield _answer(waiting.popleft())
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.join()


def _answer(connection: Connection) -> Any:
    try:
        result, error = connection.recv()
    except (EOFError, ConnectionResetError):
        raise WorkerLostError(
            "a worker process ended by itself (out of memory?); try again with fewer workers"
        ) from None
    if error is not None:
        raise RuntimeError(f"in a worker process:\n{error}")
    return result


def _serve(function: Callable[[object], object], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and closes the pipe
    try:
        while True:
            task = connection.recv()
            try:
                answer = (function(task), None)
            except Exception:  # whatever it is, the parent raises it
                answer = (None, traceback.format_exc())
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
