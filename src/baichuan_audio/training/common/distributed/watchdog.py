"""A process that stands still ends the run: every process prints its stacks and exits.

A collective operation waits for the slowest process, so one that sleeps stops all, and none of them says where.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch.distributed as dist

EXIT_CODE = 75
"""Of a process that the watchdog ended: a temporary failure (sysexits.h), the same command goes on."""
_PATIENT = 10.0  # how many times the limit validation, samples and states may take
_KEY = "baichuan_audio/stalled"


class Watchdog:
    """Ends this process when `beat` was not called for `limit_s`, or when another process says that it stands still.

    Each process watches itself: one thread looks at a clock and at the processes' common store.
    """

    def __init__(self, limit_s: float, rank: int) -> None:
        self._limit, self._rank, self._factor = limit_s, rank, 1.0
        self._last = time.monotonic()
        self._over = threading.Event()
        store = dist.distributed_c10d._get_default_store()
        self._store = store.clone() if hasattr(store, "clone") else store  # a blocked operation must not hold it
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def beat(self) -> None:
        """A step is done."""
        self._last = time.monotonic()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """What goes on in the block may take ten times the limit."""
        self.beat()
        self._factor = _PATIENT
        try:
            yield
        finally:
            self.beat()
            self._factor = 1.0

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._limit / 20)):
            still = time.monotonic() - self._last
            alone = still > self._limit * self._factor
            if alone or self._others_stand_still():
                self._end(still, alone)

    def _others_stand_still(self) -> bool:
        try:
            return bool(self._store.check([_KEY]))
        except RuntimeError:  # the store's process has gone: the collective operation fails by itself
            return False

    def _end(self, still: float, alone: bool) -> None:
        reason = f"no step for {still:.0f} s" if alone else "another process stands still"
        print(f"process {self._rank}: {reason}; the stacks of its threads:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        if alone:
            try:
                self._store.set(_KEY, str(self._rank))
                time.sleep(min(2.0, self._limit / 4))  # the process that ends first must not take the store with it
            except RuntimeError:
                pass
        os._exit(EXIT_CODE)
