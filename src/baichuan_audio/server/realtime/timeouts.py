"""The time limits of a session: its length, a client that does not read, nobody who speaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from ..settings import ServerSettings
from .conversation.responses import ResponseQueue
from .input.input_audio import InputAudio
from .send_queue import SendQueue

_CHECK_INTERVAL_S = 0.1


class EndSession(Protocol):
    """Ends the session."""

    def __call__(self, code: int, outcome: str, message: str) -> None: ...


class Timeouts:
    """Of one session, which begins when this is made.

    on_silence: called with the seconds of silence after which the model shall respond (`idle_timeout_ms`).
    """

    def __init__(
        self,
        settings: ServerSettings,
        send_queue: SendQueue,
        input_audio: InputAudio,
        responses: ResponseQueue,
        end: EndSession,
        on_silence: Callable[[float], None],
    ) -> None:
        self._settings, self._send_queue = settings, send_queue
        self._input_audio, self._responses = input_audio, responses
        self._end, self._on_silence = end, on_silence
        self._started_at = self._busy_at = time.monotonic()

    def busy(self) -> None:
        """The client has sent an event other than audio."""
        self._busy_at = time.monotonic()

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_INTERVAL_S)
            self.check(time.monotonic())

    def check(self, now: float) -> None:
        """End the session when a limit has been reached; have the model respond to a user who is silent for too long.

        now: on the monotonic clock.
        """
        settings = self._settings
        quiet_s, inactive_s = self._quiet_s(now), now - max(self._busy_at, self._input_audio.last_speech_at)
        if self._send_queue.overflowed or self._send_queue.stalled_s() > settings.stalled_seconds:
            self._end(1008, "slow", "The client does not read what it is sent.")
        elif now - self._started_at > settings.max_session_seconds:
            self._end(1008, "expired", f"A session lasts {settings.max_session_seconds:g} s at most.")
        elif quiet_s is not None and min(quiet_s, inactive_s) > settings.idle_seconds:
            self._end(1008, "idle", f"Nobody spoke for {settings.idle_seconds:g} s.")
        elif quiet_s is not None and self._responses.newest is not None:
            timeout_ms = self._input_audio.idle_timeout_ms
            if timeout_ms is not None and quiet_s * 1000 >= timeout_ms:
                self._on_silence(quiet_s)

    def _quiet_s(self, now: float) -> float | None:
        """Seconds since the playback of the last response ended; None while anybody speaks."""
        if self._responses.newest is None:
            return now - self._started_at
        ended_at = self._responses.ended_at(now)
        if ended_at is None or self._input_audio.speaking:
            return None
        return now - max(ended_at, self._input_audio.last_speech_at)
