"""Runs tasks on this machine, in this process or in worker processes that may die."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
MOST_TRIES = 2
"""A task that ends so many workers is given up."""


class Executor(Protocol):
    """Runs a function over tasks, in any order.

    Yields (task, result); the result is None where the task ended its worker twice. An exception of the function is
    raised here.
    """

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R | None]]: ...


@dataclass(frozen=True)
class LocalExecutor:
    """`workers` processes with one thread each; 0 runs everything in this process."""

    workers: int = 1

    def map(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R | None]]:
        if self.workers == 0:
            for task in tasks:
                yield task, function(task)
            return
        pool = _Pool(function, min(self.workers, len(tasks)))
        try:
            yield from pool.run(tasks)
        finally:
            pool.close()


@dataclass
class _Worker(Generic[T]):
    process: Any
    connection: Connection
    task: T | None = None


@dataclass
class _Pool(Generic[T, R]):
    function: Callable[[T], R]
    count: int
    workers: list[_Worker[T]] = field(default_factory=list)

    def run(self, tasks: Sequence[T]) -> Iterator[tuple[T, R | None]]:
        waiting = deque((task, 1) for task in tasks)
        tries: dict[int, int] = {}
        self.workers = [self._start() for _ in range(self.count)]
        while waiting or any(worker.task is not None for worker in self.workers):
            for worker in self.workers:
                if worker.task is None and waiting:
                    worker.task, tries[id(worker)] = waiting.popleft()
                    _send(worker, worker.task)
            busy = {worker.connection: worker for worker in self.workers if worker.task is not None}
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                task = worker.task
                assert task is not None
                try:
                    failed, value = worker.connection.recv()
                except (EOFError, OSError):  # it died
                    tried = tries[id(worker)]
                    self._replace(worker)
                    if tried >= MOST_TRIES:
                        yield task, None
                    else:
                        waiting.append((task, tried + 1))
                    continue
                worker.task = None
                if failed:
                    raise value
                yield task, value

    def _start(self) -> _Worker[T]:
        context = _context()
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        worker: _Worker[T] = _Worker(process, ours)
        _send(worker, self.function)
        return worker

    def _replace(self, dead: _Worker[T]) -> None:
        dead.connection.close()
        dead.process.join()
        self.workers[self.workers.index(dead)] = self._start()

    def close(self) -> None:
        for worker in self.workers:
            worker.connection.close()
            worker.process.join(timeout=0.1 if worker.task is not None else 5)
            if worker.process.is_alive():
                worker.process.kill()


def _context() -> Any:
    """A server process imports torch once and forks the workers, so that a new one is there at once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["baichuan_audio.data.pipeline.recipe"])
    # The server shall import what this process does (Python 3.11 does not hand it sys.path), on one thread.
    ours = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


def _send(worker: _Worker[T], value: Any) -> None:
    with contextlib.suppress(OSError):  # it died; `recv` will see it
        worker.connection.send(value)


def _work(connection: Connection) -> None:
    """A worker's life: the function, then tasks until the other side has gone."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of what is imported from here on
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    try:
        function = connection.recv()
        while True:
            task = connection.recv()
            try:
                answer = (False, function(task))
            except Exception as error:
                answer = (True, error)
            connection.send(answer)
    except (EOFError, OSError):
        return
