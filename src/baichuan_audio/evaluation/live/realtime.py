"""A client of any OpenAI-compatible Realtime address: streams a recording in real time and plays what comes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AudioError, needed_library
from ..results import EvaluationError
from ..systems.base import ItemFailure, encode_pcm
from .timeline import RATE, Cut, Playback

CHUNK_S = 0.02
_ANSWER_S = 20.0  # for the greeting and the answer to the settings
_REPLY_S = 60.0  # from the end of a question to the end of its reply
_GRACE_S = 1.0  # within which a reply must have begun to be played after it was written
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # between tries while the server is full
_SPEECH_STARTED = "input_audio_buffer.speech_started"
_SOUND, _DONE = "response.output_audio.delta", "response.done"
_TRANSCRIPT = ("response.output_audio_transcript.delta", "response.output_text.delta")
_KEPT = {_SPEECH_STARTED, "input_audio_buffer.speech_stopped", "response.created", _DONE}


class _ServerFull(Exception):
    """All places of the server are taken, perhaps by sessions that are about to end."""


@dataclass
class LiveRecord:
    """One recording and what came of it, in seconds since its first sample was sent.

    waveform: what was played [S] at RATE, as long as the recording. words: begin and text of each piece of transcript
    whose sound was played. cuts: replies that were broken off. events: turns and responses. errors: messages of the
    server that did not end the session. lag_s: how far sending fell behind the clock at worst; above some tens of
    milliseconds the machine was too busy to measure latencies.
    """

    waveform: np.ndarray
    words: list[tuple[float, str]]
    cuts: list[Cut]
    events: list[tuple[float, str]]
    errors: list[str]
    lag_s: float


@dataclass(frozen=True)
class LiveClient:
    """A Realtime address such as ws://127.0.0.1:8000/v1/realtime, our server's or a peer's.

    model: sent as the query ?model=. voice, instructions: of the session, where not "". silence_ms: of server_vad.
    key_variable: the environment variable with the key. weights: hash of a checkpoint that was served for this run on a
    port of its own; it stands for the address. Every item has a session of its own.
    """

    url: str
    model: str = "default"
    voice: str = ""
    instructions: str = ""
    silence_ms: int = 500
    key_variable: str = "OPENAI_API_KEY"
    weights: str = ""

    def __post_init__(self) -> None:
        if not self.url.startswith(("ws://", "wss://")):
            raise EvaluationError(
                f"'{self.url}' is no Realtime address; give one like ws://127.0.0.1:8000/v1/realtime."
            )

    def provenance(self) -> dict[str, Any]:
        return {
            "kind": "realtime",
            **({"weights": self.weights} if self.weights else {"address": self.url}),
            "model": self.model,
            "voice": self.voice,
            "instructions": self.instructions,
            "turn_detection": {"type": "server_vad", "silence_duration_ms": self.silence_ms},
        }

    async def converse(self, recording: np.ndarray, to_the_end: bool = False) -> LiveRecord:
        """Stream samples [S] at RATE in real time, one frame of 20 ms after the other.

        to_the_end: then send silence until the reply was played; else what comes after the recording is not heard, as
        in benchmarks whose outputs are as long as their inputs. Raises ItemFailure for a session that the server ends
        or refuses, EvaluationError where nobody answers.
        """
        with needed_library("a Realtime address needs websockets: pip install 'baichuan-audio[eval]'."):
            from websockets.asyncio.client import connect
            from websockets.exceptions import ConnectionClosed, InvalidHandshake
        for pause_s in _PAUSES_S:
            try:
                return await self._session(connect, recording, to_the_end)
            except _ServerFull:
                await asyncio.sleep(pause_s)
            except ConnectionClosed as error:
                raise ItemFailure(f"the server closed the connection ({error}).") from error
            except asyncio.TimeoutError as error:
                raise ItemFailure("the server sent nothing in time.") from error
            except (OSError, InvalidHandshake) as error:
                raise EvaluationError(f"{self.url} does not answer ({error}); start it and run this again.") from error
        raise EvaluationError(f"{self.url} is full; measure with fewer sessions at once, or run this again later.")

    async def _session(self, connect: Any, recording: np.ndarray, to_the_end: bool) -> LiveRecord:
        key = os.environ.get(self.key_variable) or "none"
        separator = "&" if "?" in self.url else "?"
        async with connect(
            f"{self.url}{separator}model={self.model}",
            additional_headers={"Authorization": f"Bearer {key}"},
            max_size=None,
            open_timeout=_ANSWER_S,
            ping_interval=None,  # a busy machine answers late; that is measured, not cut off
        ) as socket:
            return await _Session(socket, recording, to_the_end).run(self._settings())

    def _settings(self) -> dict[str, Any]:
        pcm = {"type": "audio/pcm", "rate": RATE}
        turns = {"type": "server_vad", "silence_duration_ms": self.silence_ms}
        output = {"format": pcm, "voice": self.voice} if self.voice else {"format": pcm}
        settings = {"type": "realtime", "output_modalities": ["audio"]}
        texts = {"instructions": self.instructions} if self.instructions else {}
        return {**settings, **texts, "audio": {"input": {"format": pcm, "turn_detection": turns}, "output": output}}


@dataclass
class _Session:
    """One session under way. `started`: the clock's time of the first sample."""

    socket: Any
    recording: np.ndarray
    to_the_end: bool
    playback: Playback = field(default_factory=Playback)
    events: list[tuple[float, str]] = field(default_factory=list)
    started: float = 0.0
    lag_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    open_responses: set[str] = field(default_factory=set)
    responses: int = 0

    async def run(self, settings: dict[str, Any]) -> LiveRecord:
        await asyncio.wait_for(self._until("session.created"), _ANSWER_S)
        await self._send("session.update", session=settings)
        await asyncio.wait_for(self._until("session.updated"), _ANSWER_S)
        self.started = time.monotonic()
        streaming, receiving = asyncio.create_task(self._stream()), asyncio.create_task(self._receive())
        try:
            done, _ = await asyncio.wait({streaming, receiving}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if streaming not in done:
                raise ItemFailure(f"the server closed the connection{self._last_error()}.")
        finally:
            for task in (streaming, receiving):
                task.cancel()
            await asyncio.gather(streaming, receiving, return_exceptions=True)
        return self._record()

    def _record(self) -> LiveRecord:
        length = None if self.to_the_end else len(self.recording) / RATE
        words = [(round(at, 3), text) for at, text in self.playback.words if length is None or at < length]
        cuts = [Cut(round(cut.at_s, 3), round(cut.lost_s, 3)) for cut in self.playback.cuts]
        return LiveRecord(self.playback.waveform(length), words, cuts, self.events, self.errors, self.lag_s)

    def _last_error(self) -> str:
        return f" after an error: {self.errors[-1]}" if self.errors else ""

    async def _stream(self) -> None:
        size = round(CHUNK_S * RATE)
        sent = 0
        while sent < len(self.recording) or (self.to_the_end and self._awaits_reply(sent / RATE)):
            chunk = np.pad(self.recording[sent : sent + size], (0, max(0, sent + size - len(self.recording))))[:size]
            due = self.started + (sent + size) / RATE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.lag_s = max(self.lag_s, time.monotonic() - due)
            await self._send("input_audio_buffer.append", audio=encode_pcm(chunk))
            sent += size

    def _awaits_reply(self, now_s: float) -> bool:
        """Whether a reply to the recording may still come, is being written, or is being played."""
        beyond = now_s - len(self.recording) / RATE
        if beyond > _REPLY_S:
            return False
        if self.open_responses or self.playback.playing(now_s):
            return True
        return not self.responses or self.playback.end_s + _GRACE_S > now_s

    async def _receive(self) -> None:
        async for frame in self.socket:
            now_s = time.monotonic() - self.started
            cut = self._take(json.loads(frame), now_s)
            if cut is not None:
                item, played_ms = cut
                await self._send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=played_ms)

    def _take(self, event: dict[str, Any], now_s: float) -> tuple[str, int] | None:
        """Act on an event; the item that it cut and how much of it was played."""
        kind = str(event.get("type"))
        if kind in _KEPT:
            self.events.append((round(now_s, 3), kind))
        if kind == "error":
            self.errors.append(_message(event))
        elif kind == _SOUND:
            self.playback.receive(str(event.get("item_id")), decode_pcm(str(event["delta"])), now_s)
        elif kind in _TRANSCRIPT:
            self.playback.receive_text(str(event["delta"]), now_s)
        elif kind == _SPEECH_STARTED:
            return self.playback.interrupt(now_s)
        elif kind == "response.created":
            self.responses += 1
            self.open_responses.add(str(event["response"]["id"]))
        elif kind == _DONE:
            self.open_responses.discard(str(event["response"]["id"]))
        return None

    async def _until(self, kind: str) -> None:
        while True:
            event = json.loads(await self.socket.recv())
            if event.get("type") == kind:
                return
            if event.get("type") == "error":
                if (event.get("error") or {}).get("code") == "server_full":
                    raise _ServerFull
                raise ItemFailure(f"the server refused the session: {_message(event)}")

    async def _send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))


def _message(event: dict[str, Any]) -> str:
    return str((event.get("error") or {}).get("message", "no message"))


def read_recording(path: Path | None) -> np.ndarray:
    """A file as samples [S] at RATE. Raises ItemFailure where it cannot be read."""
    from ...audio.reading import read_audio

    if path is None:
        raise ItemFailure("this item has no audio.")
    try:
        waveform, _ = read_audio(path, RATE)
    except AudioError as error:
        raise ItemFailure(f"this sound cannot be read ({error}).") from error
    return np.asarray(waveform, np.float32)


def decode_pcm(text: str) -> np.ndarray:
    """16-bit PCM in base64 -> samples [S]."""
    content = base64.b64decode(text)
    return np.frombuffer(content[: len(content) // 2 * 2], "<i2").astype(np.float32) / 32768
