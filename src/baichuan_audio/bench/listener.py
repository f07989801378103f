"""Somebody who talks to a server over its Realtime WebSocket, and notes when they hear what."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import BaichuanAudioError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

RATE = 24000
SILENCE_MS = 500
"""`silence_duration_ms` of turn detection."""
_SECOND = RATE * 2  # bytes
_CHUNK_S = 0.02  # of a microphone
_LISTEN_S = 0.5  # of a reply, before it is interrupted
_PATIENCE_S = 300.0
_GAP_S = 0.02  # of silence in a reply that count as one

STARTED, STOPPED = "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"
DELTA, DONE = "response.output_audio.delta", "response.done"


class Player:
    """Plays what arrives from the moment it arrives. Times in seconds, of one clock.

    asked: when the reply was asked for. first: how long until the first sound. silence: how long it had nothing to play
    in the midst of the reply.
    """

    def __init__(self, asked: float) -> None:
        self.asked = self.last = self._plays_until = asked
        self.first: float | None = None
        self.silence = self.audio = 0.0

    def receive(self, seconds: float, now: float) -> None:
        self.last = now
        if self.first is None:
            self.first, self._plays_until = now - self.asked, now
        self.silence += max(0.0, now - self._plays_until)
        self._plays_until = max(now, self._plays_until) + seconds
        self.audio += seconds


@dataclass(frozen=True)
class _Stamped:
    at: float
    event: dict[str, Any]


@dataclass
class Heard:
    """What the listeners noticed: a list entry for every reply, cancel, interruption by voice and spoken turn.

    first_audio: s from the commit to the first sound. rtf: s from the commit to the last sound, by the sound's length.
    cancel: s from `response.cancel` to the reply's end. barge_in: s from the voice's first sound until the client is
    told of it and no more of the reply comes. endpoint: s from the voice's last sound to `speech_stopped`.
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
        """A reply that was heard to its end; one without sound leaves no trace."""
        if player.first is None:
            return
        self.first_audio.append(player.first)
        self.rtf.append((player.last - player.asked) / player.audio)
        self.silence.append(player.silence)
        self.audio_seconds += player.audio
        self.tokens += usage["input_tokens"]
        self.cached += usage["input_token_details"]["cached_tokens"]

    @property
    def gaps(self) -> int:
        """Replies that were not heard in one piece."""
        return sum(silence > _GAP_S for silence in self.silence)


class Listener:
    """One conversation. Events are stamped when they arrive, by a task of its own, whatever is being done meanwhile."""

    def __init__(self, socket: ClientConnection, heard: Heard) -> None:
        self.heard = heard
        self._socket = socket
        self._player = Player(0.0)  # of the newest reply
        self._arrived: asyncio.Queue[_Stamped] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Leave."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._socket.close()

    async def ask(self, question: bytes, max_output_tokens: int) -> None:
        """A committed question, and its reply to the end. question: pcm at 24 kHz."""
        await self._begin_reply(question, max_output_tokens)
        response = (await self._until(DONE))[DONE].event["response"]
        if response["status"] not in ("completed", "incomplete"):
            raise BaichuanAudioError(f"a reply has {response['status']}: {response['status_details']}")
        self.heard.add_reply(self._player, response["usage"])

    async def cancel_a_reply(self, question: bytes) -> None:
        """Begin to listen to a long reply, and cancel it."""
        await self._begin_reply(question, "inf")
        await self._until(DELTA)
        await asyncio.sleep(_LISTEN_S)
        cancelled = time.perf_counter()
        await self._send("response.cancel")
        self.heard.cancel.append((await self._until(DONE))[DONE].at - cancelled)

    async def talk(self, speech: bytes) -> None:
        """Say something, begin to listen to the reply, and interrupt it by saying it again, all in real time.

        speech: pcm at 24 kHz without silence at either end.
        """
        length = len(speech) / _SECOND
        await self._detect_turns(True)
        begun, events = await self._say(speech, STOPPED)
        self.heard.endpoint.append(events[STOPPED].at - begun - length)
        await self._until(DELTA)
        await asyncio.sleep(_LISTEN_S)
        begun, events = await self._say(speech, STARTED, DONE, STOPPED)
        if events[DONE].event["response"]["status"] != "cancelled":
            raise BaichuanAudioError("a reply was over before it was interrupted.")
        self.heard.barge_in.append(max(events[STARTED].at, self._player.last) - begun)
        self.heard.endpoint.append(events[STOPPED].at - begun - length)

    async def _begin_reply(self, question: bytes, max_output_tokens: int | str) -> None:
        await self._detect_turns(False)
        for start in range(0, len(question), _SECOND):
            await self._append(question[start : start + _SECOND])
        await self._detect_turns(False)  # answered when the sound before it has been taken in
        self._player = Player(time.perf_counter())
        await self._send("input_audio_buffer.commit")
        await self._send("response.create", response={"max_output_tokens": max_output_tokens})

    async def _detect_turns(self, wanted: bool) -> None:
        detection = {"type": "server_vad", "silence_duration_ms": SILENCE_MS} if wanted else None
        audio = {"input": {"turn_detection": detection}}
        await self._send("session.update", session={"type": "realtime", "audio": audio})
        await self._until("session.updated")

    async def _say(self, speech: bytes, *kinds: str) -> tuple[float, dict[str, _Stamped]]:
        """Speak, then be silent until events of these kinds have come -> when it began, and what `_until` says.

        A chunk is sent when its last sample has been spoken.
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

    async def _append(self, sound: bytes) -> None:
        await self._send("input_audio_buffer.append", audio=base64.b64encode(sound).decode())

    async def _send(self, kind: str, **fields: object) -> None:
        await self._socket.send(json.dumps({"type": kind, **fields}))

    async def _read(self) -> None:
        try:
            async for frame in self._socket:
                self._arrived.put_nowait(_Stamped(time.perf_counter(), json.loads(frame)))
        finally:
            self._arrived.put_nowait(_Stamped(time.perf_counter(), {"type": "closed"}))

    async def _until(self, *kinds: str) -> dict[str, _Stamped]:
        """The next event of each kind; sound among what comes is played. Raises BaichuanAudioError for an error."""
        found: dict[str, _Stamped] = {}
        while len(found) < len(kinds):
            try:
                stamped = await asyncio.wait_for(self._arrived.get(), _PATIENCE_S)
            except asyncio.TimeoutError:
                raise BaichuanAudioError(f"the server has said nothing for {_PATIENCE_S:g} s.") from None
            kind = stamped.event["type"]
            if kind == DELTA:
                self._player.receive(len(base64.b64decode(stamped.event["delta"])) / _SECOND, stamped.at)
            if kind in kinds:
                found.setdefault(kind, stamped)
            elif kind in ("error", "closed"):
                raise BaichuanAudioError(f"the conversation broke off: {stamped.event}")
        return found
