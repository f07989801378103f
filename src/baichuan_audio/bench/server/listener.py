"""A Realtime WebSocket client that talks to a server, plays the replies, and records when events arrive."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import BaichuanAudioError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

RATE = 24000
SILENCE_MS = 500
"""`silence_duration_ms` of turn detection."""
_SECOND = RATE * 2  # bytes
_CHUNK_S = 0.02  # of a microphone
_LISTEN_S = 0.5  # of a reply, before it is interrupted
_TIMEOUT_S = 300.0
_GAP_S = 0.02  # shortest silence within a reply that counts as an underrun

STARTED, STOPPED = "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"
DELTA, DONE = "response.output_audio.delta", "response.done"


class Player:
    """Plays audio from the moment it arrives. All times in seconds on one clock.

    requested: when the reply was requested. first: time from there to the first audio. silence: how long there was
    nothing to play in the middle of the reply. audio: duration received.
    """

    def __init__(self, requested: float) -> None:
        self.requested = self.last = self._plays_until = requested
        self.first: float | None = None
        self.silence = self.audio = 0.0

    def receive(self, seconds: float, now: float) -> None:
        self.last = now
        if self.first is None:
            self.first, self._plays_until = now - self.requested, now
        self.silence += max(0.0, now - self._plays_until)
        self._plays_until = max(now, self._plays_until) + seconds
        self.audio += seconds


@dataclass(frozen=True)
class _Stamped:
    at: float
    event: dict[str, Any]


@dataclass
class Measurements:
    """Measured by the listeners: one list entry per reply, cancellation, interruption or spoken turn; in seconds.

    first_audio: from the commit to the first audio. rtf: from the commit to the last audio, divided by its duration.
    cancel: from `response.cancel` to the end of the reply. barge_in: from the start of speech until `speech_started`
    has come and the reply's audio has ended. endpoint: from the end of speech to `speech_stopped`.
    """

    first_audio: list[float] = field(default_factory=list)
    rtf: list[float] = field(default_factory=list)
    silence: list[float] = field(default_factory=list)
    cancel: list[float] = field(default_factory=list)
    barge_in: list[float] = field(default_factory=list)
    endpoint: list[float] = field(default_factory=list)
    audio_seconds: float = 0.0
    tokens: int = 0
    cached: int = 0

    def add_reply(self, player: Player, usage: Mapping[str, Any]) -> None:
        """Record a complete reply; one without audio is not counted."""
        if player.first is None:
            return
        self.first_audio.append(player.first)
        self.rtf.append((player.last - player.requested) / player.audio)
        self.silence.append(player.silence)
        self.audio_seconds += player.audio
        self.tokens += usage["input_tokens"]
        self.cached += usage["input_token_details"]["cached_tokens"]

    @property
    def underruns(self) -> int:
        """Number of replies with a gap in their audio."""
        return sum(silence > _GAP_S for silence in self.silence)


class Listener:
    """One dialogue. A separate task stamps events with the time of their arrival."""

    def __init__(self, socket: ClientConnection, measured: Measurements) -> None:
        self.measured = measured
        self._socket = socket
        self._player = Player(0.0)  # of the newest reply
        self._arrived: asyncio.Queue[_Stamped] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Close the connection."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._socket.close()

    async def ask(self, question: bytes, max_output_tokens: int) -> None:
        """Commit a question and receive its whole reply. question: 16-bit PCM at 24 kHz."""
        await self._begin_reply(question, max_output_tokens)
        response = (await self._until(DONE))[DONE].event["response"]
        if response["status"] not in ("completed", "incomplete"):
            raise BaichuanAudioError(f"a reply ended as {response['status']}: {response['status_details']}.")
        self.measured.add_reply(self._player, response["usage"])

    async def cancel_a_reply(self, question: bytes) -> None:
        """Start to receive a long reply, and cancel it."""
        await self._begin_reply(question, "inf")
        await self._until(DELTA)
        await asyncio.sleep(_LISTEN_S)
        cancelled = time.perf_counter()
        await self._send("response.cancel")
        self.measured.cancel.append((await self._until(DONE))[DONE].at - cancelled)

    async def talk(self, speech: bytes) -> None:
        """Speak, start to receive the reply, and interrupt it by speaking again, all in real time.

        speech: 16-bit PCM at 24 kHz, without silence at either end.
        """
        length = len(speech) / _SECOND
        await self._detect_turns(True)
        begun, events = await self._speak(speech, STOPPED)
        self.measured.endpoint.append(events[STOPPED].at - begun - length)
        await self._until(DELTA)
        await asyncio.sleep(_LISTEN_S)
        begun, events = await self._speak(speech, STARTED, DONE, STOPPED)
        if events[DONE].event["response"]["status"] != "cancelled":
            raise BaichuanAudioError("a reply ended before it was interrupted.")
        self.measured.barge_in.append(max(events[STARTED].at, self._player.last) - begun)
        self.measured.endpoint.append(events[STOPPED].at - begun - length)

    async def _begin_reply(self, question: bytes, max_output_tokens: int | str) -> None:
        await self._detect_turns(False)
        for start in range(0, len(question), _SECOND):
            await self._append(question[start : start + _SECOND])
        await self._detect_turns(False)  # acknowledged when all audio before it has been processed
        self._player = Player(time.perf_counter())
        await self._send("input_audio_buffer.commit")
        await self._send("response.create", response={"max_output_tokens": max_output_tokens})

    async def _detect_turns(self, enabled: bool) -> None:
        detection = {"type": "server_vad", "silence_duration_ms": SILENCE_MS} if enabled else None
        audio = {"input": {"turn_detection": detection}}
        await self._send("session.update", session={"type": "realtime", "audio": audio})
        await self._until("session.updated")

    async def _speak(self, speech: bytes, *kinds: str) -> tuple[float, dict[str, _Stamped]]:
        """Send speech and then silence until events of these kinds have come -> start time, and these events.

        Each chunk is sent when its last sample has been spoken.
        """
        begun = time.perf_counter()

        async def stream() -> None:
            size = int(_CHUNK_S * _SECOND)
            for number in itertools.count():
                await asyncio.sleep(max(0.0, begun + (number + 1) * _CHUNK_S - time.perf_counter()))
                await self._append(speech[number * size : (number + 1) * size].ljust(size, b"\0"))

        streaming = asyncio.create_task(stream())
        try:
            return begun, await self._until(*kinds)
        finally:
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)

    async def _append(self, pcm: bytes) -> None:
        await self._send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    async def _send(self, kind: str, **fields: object) -> None:
        await self._socket.send(json.dumps({"type": kind, **fields}))

    async def _read(self) -> None:
        try:
            async for frame in self._socket:
                self._arrived.put_nowait(_Stamped(time.perf_counter(), json.loads(frame)))
        finally:
            self._arrived.put_nowait(_Stamped(time.perf_counter(), {"type": "closed"}))

    async def _until(self, *kinds: str) -> dict[str, _Stamped]:
        """The next event of each kind; audio that arrives is played. Raises BaichuanAudioError for an error event."""
        events: dict[str, _Stamped] = {}
        while len(events) < len(kinds):
            try:
                stamped = await asyncio.wait_for(self._arrived.get(), _TIMEOUT_S)
            except asyncio.TimeoutError:
                raise BaichuanAudioError(f"the server sent nothing for {_TIMEOUT_S:g} s.") from None
            kind = stamped.event["type"]
            if kind == DELTA:
                self._player.receive(len(base64.b64decode(stamped.event["delta"])) / _SECOND, stamped.at)
            if kind in kinds:
                events.setdefault(kind, stamped)
            elif kind in ("error", "closed"):
                raise BaichuanAudioError(f"the connection failed: {stamped.event}.")
        return events
