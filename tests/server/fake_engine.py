"""An engine without a model, for tests of the server: answers "You said ..." with a sine.

It keeps the promises of `baichuan_audio.engine`: slots, order of events, one reply at a time, cancelling, stopping.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from baichuan_audio.audio.voice_activity import Speech, find_speech
from baichuan_audio.engine import (
    AudioDelta,
    AudioInput,
    EngineConfig,
    EngineFull,
    EngineStats,
    EngineStopped,
    ReplyDone,
    TextDelta,
    TranscriptDelta,
    Usage,
)
from baichuan_audio.errors import NoSpeechError, PromptError, PromptTooLongError

SAMPLE_RATE = 24000
SECONDS_A_WORD = 0.2
CHUNK_S = 0.1
HEARD = "hello world"


class FakeEngine:
    """delay: seconds of real time before each event (0: as fast as the reader reads). answer: the words of every
    reply, instead of "You said ...". vad: whether sound needs a voice in it; else all of it counts as speech. fail:
    every reply fails after its first sound. too_long: every dialogue is more than can be read."""

    def __init__(
        self,
        max_sessions: int = 8,
        delay: float = 0.0,
        answer: str | None = None,
        transcript: str = HEARD,
        vad: bool = False,
        fail: bool = False,
        too_long: bool = False,
    ) -> None:
        self.config = EngineConfig(max_sessions=max_sessions)
        self.delay, self.answer, self.transcript, self.fail = delay, answer, transcript, fail
        self.vad, self.too_long = vad, too_long
        self.ending: tuple[Any, str | None] = ("completed", None)  # status and reason of replies that come to their end
        self.model: Any = SimpleNamespace(
            config={}, sample_rate=SAMPLE_RATE, voices=self.voices, text_tokenizer=SimpleNamespace(encode=_words)
        )
        self.dialogues: list[FakeDialogue] = []  # every one that was ever opened
        self.spoken: list[tuple[str, str | None, int | None]] = []
        self.adapted: list[str | None] = []  # the adapter of every `speak` and `transcribe`
        self.running = False
        self._taken = 0
        self._steps = 0

    voices = ("Ada", "邻家女声")
    adapters: tuple[str, ...] = ()
    sample_rate = SAMPLE_RATE
    max_turn_seconds = 600.0

    def start(self) -> None:
        self.running = True

    async def stop(self, timeout: float = 10.0) -> None:
        self.running = False
        for dialogue in self.dialogues:
            if dialogue.current is not None:
                dialogue.current.cancel("shutdown")

    def open(
        self,
        system: str | None = None,
        voice: str | None = None,
        seed: int | None = None,
        adapter: str | None = None,
    ) -> FakeDialogue:
        self._check_voice(voice)
        self._take_slot()
        dialogue = FakeDialogue(self, system, voice, seed, adapter)
        self.dialogues.append(dialogue)
        return dialogue

    async def find_speech(self, sound: AudioInput, max_seconds: float | None = None) -> Speech:
        if sound.vad and self.vad:
            return find_speech(sound.waveform, sound.sample_rate, max_seconds)
        return Speech.whole(sound.waveform, sound.sample_rate)

    async def transcribe(
        self, waveform: Tensor, sample_rate: int, vad: bool = True, adapter: str | None = None
    ) -> AsyncIterator[TranscriptDelta]:
        self._take_slot()
        self.adapted.append(adapter)
        try:
            speech = await self.find_speech(AudioInput(waveform, sample_rate, vad), 30)
            for number, (start, end) in enumerate(speech.segments):
                for word in _words((" " if number else "") + self.transcript):
                    await self.pause()
                    yield TranscriptDelta(word, start / sample_rate, end / sample_rate)
        finally:
            self._taken -= 1

    async def speak(
        self, text: str, voice: str | None = None, seed: int | None = None, adapter: str | None = None
    ) -> AsyncIterator[AudioDelta]:
        self.adapted.append(adapter)
        self._check_voice(voice)
        if not text.strip():
            raise PromptError("there is no text to speak.")
        self._take_slot()
        self.spoken.append((text, voice, seed))
        try:
            for chunk in _sine(text).split(int(CHUNK_S * SAMPLE_RATE)):
                await self.pause()
                yield AudioDelta(chunk, SAMPLE_RATE)
        finally:
            self._taken -= 1

    def stats(self) -> EngineStats:
        free = self.config.max_sessions - self._taken
        return EngineStats(
            active_sessions=self._taken,
            slots_free=free,
            last_batch_size=self._taken,
            steps=self._steps,
            runaways={"repetition": 3},
        )

    async def pause(self) -> None:
        self._steps += 1
        await asyncio.sleep(self.delay)

    def release(self) -> None:
        self._taken -= 1

    def _take_slot(self) -> None:
        if not self.running:
            raise EngineStopped("the engine has not been started, or has been stopped.")
        if self._taken >= self.config.max_sessions:
            raise EngineFull(f"all {self.config.max_sessions} conversations are taken; try again in a moment.")
        self._taken += 1

    def _check_voice(self, voice: str | None) -> None:
        if voice is not None and voice not in self.voices:
            raise PromptError(f"there is no voice '{voice}'; this model has {', '.join(self.voices)}.")


class FakeDialogue:
    """`items` holds [id, role, parts or text] in order."""

    def __init__(
        self,
        engine: FakeEngine,
        system: str | None,
        voice: str | None,
        seed: int | None,
        adapter: str | None = None,
    ) -> None:
        self.engine, self.system, self.voice, self.seed, self.adapter = engine, system, voice, seed, adapter
        self.items: list[list[Any]] = []
        self.truncated: list[tuple[str, float]] = []
        self.asked: dict[str, Any] = {}  # what the last reply was asked with
        self.current: FakeReply | None = None
        self.closed = False
        self._count = 0

    async def add_user(
        self, parts: list[str | AudioInput], item_id: str | None = None, after: str | None = None
    ) -> str:
        if not parts:
            raise PromptError("a message has no content; give a text or an audio file.")
        for part in list(parts):
            if isinstance(part, AudioInput) and not (await self.engine.find_speech(part)).segments:
                parts.remove(part)
        if not parts:
            raise NoSpeechError("no speech was found in the audio of this message.")
        return self.insert("user", list(parts), item_id, after)

    async def add_assistant(self, text: str, item_id: str | None = None) -> str:
        return self.insert("assistant", text, item_id)

    async def add_system(self, text: str, item_id: str | None = None) -> str:
        return self.insert("system", text, item_id)

    async def delete(self, item_id: str) -> None:
        del self.items[self._index(item_id)]

    async def truncate(self, item_id: str, played_seconds: float) -> str:
        item = self.items[self._index(item_id)]
        if item[1] != "assistant":
            raise PromptError("only the assistant's items can be cut.")
        item[2] = "".join(_words(item[2])[: int(played_seconds / SECONDS_A_WORD)])
        self.truncated.append((item_id, played_seconds))
        return str(item[2])

    def configure(self, system: str | None = None, voice: str | None = None) -> None:
        self.engine._check_voice(voice)
        self.system = self.system if system is None else system
        self.voice = self.voice if voice is None else voice

    def reply(
        self,
        speak: bool = True,
        sampling: Any = None,
        max_tokens: int | None = None,
        instructions: str | None = None,
        item_id: str | None = None,
        remember: bool = True,
    ) -> FakeReply:
        if self.closed:
            raise PromptError("the dialogue is closed.")
        if self.current is not None:
            raise PromptError("a reply is being made; cancel it or wait for its end.")
        self.asked = {"speak": speak, "sampling": sampling, "max_tokens": max_tokens, "instructions": instructions}
        self.current = FakeReply(self, self._answer(), speak, max_tokens, item_id, remember)
        return self.current

    async def transcript(self, waveform: Tensor, sample_rate: int) -> str:
        await self.engine.pause()
        return self.engine.transcript

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.current is not None:
            self.current.cancel("closed")
        self.engine.release()

    def insert(self, role: str, content: Any, item_id: str | None = None, after: str | None = None) -> str:
        self._count += 1
        item_id = item_id or f"item_{self._count}"
        index = len(self.items) if after is None else self._index(after) + 1
        self.items.insert(index, [item_id, role, content])
        return item_id

    def _answer(self) -> str:
        if self.engine.answer is not None:
            return self.engine.answer
        text_parts = next((item[2] for item in reversed(self.items) if item[1] == "user"), [])
        return (
            "You said "
            + " ".join(part if isinstance(part, str) else self.engine.transcript for part in text_parts)
            + "."
        )

    def _index(self, item_id: str) -> int:
        for index, item in enumerate(self.items):
            if item[0] == item_id:
                return index
        raise PromptError(f"there is no item '{item_id}'.")


class FakeReply:
    """Text word by word, each word's sound after it, a clause at a time; ReplyDone last, always."""

    def __init__(
        self,
        dialogue: FakeDialogue,
        answer: str,
        speak: bool,
        max_tokens: int | None,
        item_id: str | None,
        remember: bool,
    ) -> None:
        self._dialogue, self._answer, self._speak, self._max_tokens = dialogue, answer, speak, max_tokens
        self._item_id, self._remember = item_id, remember
        self._cancelled: str | None = None
        self._events = self._write()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._events

    async def __anext__(self) -> Any:
        return await self._events.__anext__()

    def cancel(self, reason: str = "client_cancelled") -> None:
        self._cancelled = self._cancelled or reason

    async def _write(self) -> AsyncIterator[Any]:
        text_parts, frames, (status, reason) = "", 0, self._dialogue.engine.ending
        words = _words(self._answer)
        engine = self._dialogue.engine
        if engine.too_long:
            self._dialogue.current = None
            error = PromptTooLongError("system text and message are 99 tokens long.")
            yield ReplyDone("failed", str(error), "", Usage(), error=error)
            return
        for number, word in enumerate(words):
            if self._max_tokens is not None and number >= self._max_tokens:
                status, reason = "incomplete", "max_output_tokens"
                break
            await engine.pause()
            if self._cancelled:
                break
            text_parts += word
            yield TextDelta(word)
            if not self._speak:
                continue
            for chunk in _sine(word).split(int(CHUNK_S * SAMPLE_RATE)):
                await engine.pause()
                if self._cancelled:
                    break
                frames += 1
                yield AudioDelta(chunk, SAMPLE_RATE)
                if engine.fail:
                    status, reason = "failed", "the model made no sense"
            if status == "failed":
                break
        if self._cancelled:
            status, reason = "cancelled", self._cancelled
        self._dialogue.current = None
        if self._remember:
            self._dialogue.insert("assistant", text_parts, self._item_id)
        usage = Usage(len(self._dialogue.items), 0, 0, len(_words(text_parts)), frames)
        yield ReplyDone(status, reason, text_parts, usage)


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


def _sine(text: str) -> Tensor:
    """A tone as long as the words would take to say."""
    samples = int(max(1, len(_words(text))) * SECONDS_A_WORD * SAMPLE_RATE)
    return 0.3 * torch.sin(torch.arange(samples) * (2 * torch.pi * 220 / SAMPLE_RATE))
