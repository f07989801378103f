"""Events that wait to be sent to one client: bounded, so that a client that does not read delays nobody else."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .protocol.server_events import Event, new_id

_HIGH_WATER = 256 * 1024  # bytes above which a response waits: about four seconds of audio
_LIMIT = 8 * 1024 * 1024  # bytes at which the session ends


@dataclass(frozen=True)
class _Frame:
    text: str
    stream: str | None
    on_sent: Callable[[], None] | None


class SendQueue:
    """Frames in their order, sent one after the other by `run`.

    send: sends one frame, and waits while the connection takes no more.
    """

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        self._send = send
        self._frames: deque[_Frame] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._sending_since: float | None = None
        self.overflowed = False

    def put(self, event: Event, stream: str | None = None, on_sent: Callable[[], None] | None = None) -> None:
        """Queue an event. stream: frames that `drop` may take back; on_sent: called when it has gone out."""
        frame = _Frame(json.dumps({"event_id": new_id("event"), **event}, separators=(",", ":")), stream, on_sent)
        if self._size + len(frame.text) > _LIMIT:
            self.overflowed = True  # the session ends; what is dropped is not missed
            return
        self._frames.append(frame)
        self._size += len(frame.text)
        self._filled.set()

    def drop(self, stream: str) -> None:
        """Take back what has not been sent of one stream."""
        self._frames = deque(frame for frame in self._frames if frame.stream != stream)
        self._size = sum(len(frame.text) for frame in self._frames)
        self._emptied.set()

    async def room(self) -> None:
        """Wait until there is room for more audio."""
        while self._size > _HIGH_WATER:
            self._emptied.clear()
            await self._emptied.wait()

    def stalled_s(self) -> float:
        """Seconds for which the client has not taken the frame that is being sent."""
        return 0.0 if self._sending_since is None else time.monotonic() - self._sending_since

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            while self._frames:
                frame = self._frames.popleft()
                self._size -= len(frame.text)
                self._sending_since = time.monotonic()
                await self._send(frame.text)
                self._sending_since = None
                if frame.on_sent is not None:
                    frame.on_sent()
                self._emptied.set()
            self._filled.clear()
            await self._filled.wait()

    async def flushed(self) -> None:
        """Wait until everything has been sent."""
        while self._frames or self._sending_since is not None:
            self._emptied.clear()
            await self._emptied.wait()
