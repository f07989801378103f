"""The eye on the clock: when a session has lasted too long, when a client does not read, when nobody says anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from ..settings import ServerSettings
from .conversation.responses import ResponseQueue
from .input.turns import TurnManager
from .send_queue import SendQueue

_LOOK_S = 0.1


class End(Protocol):
    """Ends the session."""

    def __call__(self, code: int, outcome: str, message: str) -> None: ...


class Timeouts:
    """One session's, which begins when this is made. time_out: what to do after so many seconds of silence."""

    def __init__(
        self,
        settings: ServerSettings,
        send_queue: SendQueue,
        turns: TurnManager,
        responses: ResponseQueue,
        end: End,
        time_out: Callable[[float], None],
    ) -> None:
        self._settings, self._send_queue, self._input_audio, self._responses = settings, send_queue, turns, responses
        self._end, self._time_out = end, time_out
        self._started = self._busy_at = time.monotonic()

    def busy(self) -> None:
        """The client asks for something, or the user speaks."""
        self._busy_at = time.monotonic()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """End the session when a limit has been reached; speak up when the user is silent for too long."""
        settings = self._settings
        quiet, since_word = self._quiet_for(now), now - max(self._busy_at, self._input_audio.heard_at)
        if self._send_queue.overflowed or self._send_queue.stuck_for() > settings.stalled_seconds:
            self._end(1008, "slow", "The client does not read what it is sent.")
        elif now - self._started > settings.max_session_seconds:
            self._end(1008, "expired", f"A session lasts {settings.max_session_seconds:g} s at most.")
        elif quiet is not None and min(quiet, since_word) > settings.idle_seconds:
            self._end(1008, "idle", f"Nothing was said for {settings.idle_seconds:g} s.")
        else:
            self._speak_up(now)

    def _quiet_for(self, now: float) -> float | None:
        """Seconds since the last response was heard to its end; None while something goes on."""
        if self._responses.newest is None:
            return now - self._started
        ended_at = self._responses.ended_at(now)
        if ended_at is None or self._input_audio.speaking:
            return None
        return now - max(ended_at, self._input_audio.heard_at)

    def _speak_up(self, now: float) -> None:
        """`idle_timeout_ms`: it runs from the end of a response's playback."""
        timeout_ms, quiet = self._input_audio.idle_timeout_ms, self._quiet_for(now)
        if timeout_ms is None or self._responses.newest is None or quiet is None:
            return
        if quiet * 1000 >= timeout_ms:
            self._time_out(quiet)
