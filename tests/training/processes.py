"""Several processes as torchrun would start them, forked from the test: nothing is imported again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baichuan_audio.training.common.distributed.world import processes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Processes:
    """`count` processes that run `function(rank)`; what they write to stderr goes to files.

    tensor: how many of them compute the same samples together.
    """

    def __init__(self, count: int, function: Callable[[int], Any], tensor: int = 1) -> None:
        self._tensor = tensor
        self._folder = Path(tempfile.mkdtemp())
        port, context = free_port(), multiprocessing.get_context("fork")
        self.workers = [
            context.Process(target=self._run, args=(rank, count, port, function), daemon=True) for rank in range(count)
        ]
        for worker in self.workers:
            worker.start()

    def _run(self, rank: int, count: int, port: int, function: Callable[[int], Any]) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        output = os.open(self._folder / f"{rank}.err", os.O_CREAT | os.O_WRONLY)
        os.dup2(output, 2)
        sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1)
        try:
            with processes("cpu", tensor=self._tensor):
                result = function(rank)
            (self._folder / f"{rank}.result").write_bytes(pickle.dumps(result))
        except SystemExit:
            raise
        except BaseException:
            traceback.print_exc()
            raise SystemExit(1) from None

    def join(self, seconds: float = 600.0) -> list[int]:
        """Wait for all -> their exit codes."""
        for worker in self.workers:
            worker.join(seconds)
        if any(worker.exitcode is None for worker in self.workers):
            for worker in self.workers:
                worker.kill()
            raise AssertionError("a process did not end:\n" + "\n".join(map(self.errors, range(len(self.workers)))))
        return [worker.exitcode or 0 for worker in self.workers]

    def errors(self, rank: int) -> str:
        return (self._folder / f"{rank}.err").read_text(encoding="utf-8")

    def results(self) -> list[Any]:
        """What the functions returned; all must have ended well."""
        codes = self.join()
        assert codes == [0] * len(codes), "\n".join(self.errors(rank) for rank in range(len(codes)))
        return [pickle.loads((self._folder / f"{rank}.result").read_bytes()) for rank in range(len(codes))]


def run_in(count: int, function: Callable[[int], Any], tensor: int = 1) -> list[Any]:
    """`function(rank)` in `count` processes -> what it returned in each."""
    return Processes(count, function, tensor).results()
