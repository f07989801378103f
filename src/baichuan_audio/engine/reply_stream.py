"""From the worker threads to asyncio: the events of a reply for its reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ..generation.events import AudioDelta, TextDelta
from .types import ReplyDone, ReplyEvent

_MAX_UNREAD_CHARACTERS = 20000


class ReplyStream:
    """One reply: an async iterator over TextDelta, AudioDelta and, always and last, ReplyDone.

    Text and audio keep their order, the text of a segment right before its audio. The unread part is bounded: a reply
    that is more than `buffer_seconds` of audio ahead of its reader pauses, while the others continue.
    """

    def __init__(self, buffer_seconds: float, on_cancel: Callable[[ReplyStream, str], None], wake: Callable[[], None]):
        self._loop = asyncio.get_running_loop()
        self._buffer_seconds, self._on_cancel, self._wake = buffer_seconds, on_cancel, wake
        self._events: deque[ReplyEvent] = deque()
        self._arrived = asyncio.Event()
        self._cancelled: str | None = None
        self._done = False  # ReplyDone has arrived
        self._ended = False  # and has been read
        self._paused = False
        self._read_characters, self._sent_seconds = 0, 0.0
        self.sent_text = ""
        """Text delivered, read or not."""
        self.read_seconds = 0.0
        """Audio that has been read."""
        self.read_text = ""
        """Text that has been read."""
        self.abandoned = False
        """The reply can no longer be read: its event loop is closed."""

    def __aiter__(self) -> ReplyStream:
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
            self.read_seconds += event.waveform.shape[0] / event.sample_rate
        else:
            self._ended = True
        if self._paused:
            self._paused = False
            self._wake()
        return event

    @property
    def over(self) -> bool:
        """Generation has ended: it is complete, or has been cancelled."""
        return self._done or self._cancelled is not None

    @property
    def cancelled(self) -> bool:
        """Its reader has cancelled it."""
        return self._cancelled is not None

    @property
    def settled(self) -> bool:
        """Its reader has read it all, or has cancelled it."""
        return self._ended or self._cancelled is not None

    def cancel(self, reason: str = "client_cancelled") -> None:
        """End the reply: returns at once, unread events are dropped, generation stops within one step.

        The unread part is removed from the dialogue's history as well. No effect once ReplyDone has been read.
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
        """Pass an event to the reader, from any thread; events after the end are dropped."""
        if isinstance(event, TextDelta):
            self.sent_text += event.text
        elif isinstance(event, AudioDelta):
            self._sent_seconds += event.waveform.shape[0] / event.sample_rate
        try:
            self._loop.call_soon_threadsafe(self._arrive, event)
        except RuntimeError:  # the loop is closed
            self.abandoned = True

    def must_wait(self) -> bool:
        """Whether so much is unread that generation should pause; if so the reader will wake the worker."""
        self._paused = True  # first, so that a read between the two lines below wakes the worker
        unread = len(self.sent_text) - self._read_characters
        self._paused = self._sent_seconds - self.read_seconds > self._buffer_seconds or unread > _MAX_UNREAD_CHARACTERS
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
