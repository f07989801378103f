"""From the worker threads to asyncio: a reply's events for its reader, results for those who wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from .types import AudioDelta, ReplyDone, ReplyEvent, TextDelta

_MOST_CHARACTERS = 20000  # of text that may lie unread


class Reply:
    """One reply: an async iterator over TextDelta, AudioDelta and, always and last, ReplyDone.

    Text and sound keep their order, the text of a segment right before its sound. What lies unread is bounded: a reply
    that is more than `buffer_seconds` of sound ahead of its reader waits for him, while the others go on.
    """

    def __init__(self, buffer_seconds: float, on_cancel: Callable[[Reply, str], None], wake: Callable[[], None]):
        self._loop = asyncio.get_running_loop()
        self._buffer_seconds, self._on_cancel, self._wake = buffer_seconds, on_cancel, wake
        self._events: deque[ReplyEvent] = deque()
        self._arrived = asyncio.Event()
        self._cancelled: str | None = None
        self._done = False  # ReplyDone has come
        self._ended = False  # and has been read
        self._paused = False
        self._read_characters, self._sent_seconds = 0, 0.0
        self.sent_text = ""
        """Text that has been given out, read or not."""
        self.heard_seconds = 0.0
        """Sound that has been read."""
        self.read_text = ""
        """Text that has been read."""
        self.abandoned = False
        """Nobody can read this reply any more: its event loop is gone."""

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> ReplyEvent:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        event = self._events.popleft()
        if isinstance(event, TextDelta):
            self.read_text += event.text
            self._read_characters += len(event.text)
        elif isinstance(event, AudioDelta):
            self.heard_seconds += event.waveform.shape[0] / event.sample_rate
        else:
            self._ended = True
        if self._paused:
            self._paused = False
            self._wake()
        return event

    @property
    def over(self) -> bool:
        """Nothing more is written: it has come to its end, or has been cancelled."""
        return self._done or self._cancelled is not None

    @property
    def cancelled(self) -> bool:
        """Its reader wants no more of it."""
        return self._cancelled is not None

    @property
    def settled(self) -> bool:
        """Its reader has had it all, or wants no more of it."""
        return self._ended or self._cancelled is not None

    def cancel(self, reason: str = "client_cancelled") -> None:
        """End the reply: returns at once, what lies unread is dropped, writing stops within one step.

        What was not read leaves the dialogue's history as well. Without effect once ReplyDone has been read.
        """
        if self._cancelled is not None or self._ended:
            return
        self._cancelled = reason
        last = self._events[-1] if self._events else None
        self._events.clear()
        if isinstance(last, ReplyDone):
            self._events.append(ReplyDone("cancelled", reason, self.read_text, last.usage))
        self._on_cancel(self, reason)

    # -- the worker threads' side ---------------------------------------------------------------------------------

    def deliver(self, event: ReplyEvent) -> None:
        """Hand an event to the reader, from any thread; what comes after the end is dropped."""
        if isinstance(event, TextDelta):
            self.sent_text += event.text
        elif isinstance(event, AudioDelta):
            self._sent_seconds += event.waveform.shape[0] / event.sample_rate
        try:
            self._loop.call_soon_threadsafe(self._arrive, event)
        except RuntimeError:  # the loop has been closed
            self.abandoned = True

    def must_wait(self) -> bool:
        """Whether so much lies unread that writing should pause; if so the reader will wake the worker."""
        self._paused = True  # first, so that who reads between the two lines below wakes the worker
        unread = len(self.sent_text) - self._read_characters
        self._paused = self._sent_seconds - self.heard_seconds > self._buffer_seconds or unread > _MOST_CHARACTERS
        return self._paused

    def _arrive(self, event: ReplyEvent) -> None:
        if self._done or (self._cancelled is not None and not isinstance(event, ReplyDone)):
            return
        if isinstance(event, ReplyDone):
            self._done = True
            if self._cancelled is not None and event.status != "cancelled":
                event = ReplyDone("cancelled", self._cancelled, self.read_text, event.usage)
        self._events.append(event)
        self._arrived.set()


class ThreadsafeFuture:
    """A result that a worker thread will give to the asyncio task that awaits `future`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def resolve(self, value: Any, error: Exception | None = None) -> None:
        """Give the result, or raise `error` there; from any thread, the first time counts."""
        try:
            self._loop.call_soon_threadsafe(self._settle, value, error)
        except RuntimeError:  # the loop has been closed: nobody waits
            return

    def _settle(self, value: Any, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)
