"""Commands for the worker's thread, and results for the asyncio tasks that wait for them."""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import Callable
from typing import Any

from ..types import EngineStopped

_log = logging.getLogger(__name__)


class ThreadsafeFuture:
    """A result that a worker thread gives to the asyncio task that awaits `future`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def resolve(self, value: Any, error: Exception | None = None) -> None:
        """Set the result, or raise `error` in the task; from any thread, only the first call has an effect."""
        try:
            self._loop.call_soon_threadsafe(self._settle, value, error)
        except RuntimeError:  # the loop is closed: no task waits
            return

    def _settle(self, value: Any, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)


class CommandQueue:
    """Commands that one thread runs in order. All methods but `run` may be called from any thread."""

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._futures: set[ThreadsafeFuture] = set()
        self.closed = False

    def post(self, command: Callable[[], None]) -> None:
        """Run `command` on the thread, before its next step."""
        self._commands.put(command)

    def wake(self) -> None:
        """Let the thread check for work."""
        self.post(_no_command)

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run `function` on the thread -> what it returns; raises what it raises, and EngineStopped."""
        future = self.new_future()

        def command() -> None:
            try:
                self.resolve(future, function())
            except Exception as error:
                self.resolve(future, None, error)

        self.post(command)
        return await future.future

    def run(self, wait: bool) -> None:
        """Run the commands that are queued; wait: block until there is at least one."""
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return
            wait = False
            try:
                command()
            except Exception:
                _log.exception("a command of the engine failed")

    def new_future(self) -> ThreadsafeFuture:
        """A future that `fail_all` reaches until it is resolved. Raises EngineStopped."""
        if self.closed:
            raise EngineStopped("the engine has been stopped.")
        future = ThreadsafeFuture()
        self._futures.add(future)
        return future

    def resolve(self, future: ThreadsafeFuture, value: Any, error: Exception | None = None) -> None:
        """Give a future its result or error."""
        self._futures.discard(future)
        future.resolve(value, error)

    def fail_all(self, error: Exception) -> None:
        """Give `error` to all that wait."""
        for future in list(self._futures):
            self.resolve(future, None, error)


def _no_command() -> None:
    """A command that only wakes the thread."""
