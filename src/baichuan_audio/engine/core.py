"""The engine: many live dialogues on one model, each step of the model for all of them together (docs/engine.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from torch import Tensor

from ..audio.voice_activity import Speech
from ..errors import PromptTooLongError
from ..generation.context import prompt_room
from ..generation.reply import ReplySampling, read_aloud
from ..generation.sequence import ReplyProgram, TokenSequence
from ..model import BaichuanAudio
from ..text.normalization import normalize_for_speech
from .dialogue import Dialogue
from .slot_allocator import SlotAllocator, check_done
from .types import AudioDelta, AudioInput, EngineConfig, EngineStats, EngineStopped, ReplyDone, TranscriptDelta


class Engine:
    """Many dialogues on one model.

        engine = Engine(model)
        engine.start()
        dialogue = engine.open(voice="Ada")
        await dialogue.add_user(["What is seven plus five?"])
        async for event in dialogue.reply(): ...
        await dialogue.close()
        await engine.stop()

    Public methods are for one asyncio loop; the model itself runs on threads of the engine, and nobody else may use it
    meanwhile. An engine that has been stopped stays so.
    """

    def __init__(self, model: BaichuanAudio, config: EngineConfig | None = None) -> None:
        self.model, self.config = model, config or EngineConfig()
        self._desk = SlotAllocator(model, self.config)

    @property
    def voices(self) -> tuple[str, ...]:
        """The voices known by name, the default first."""
        return self.model.voices

    @property
    def sample_rate(self) -> int:
        """Of all it says, in Hz."""
        return self.model.sample_rate

    @property
    def longest_turn_seconds(self) -> float:
        """Sound that one turn of the user may have; a tenth of the room is for the system text."""
        return 0.9 * prompt_room(self._desk.capacity) / self.model.tokenizer.frame_rate

    def start(self) -> None:
        """Begin to work. Raises EngineStopped for an engine that has run before."""
        if self._desk.running or self._desk.worker.closed:
            raise EngineStopped("an engine can be started once; make a new one.")
        self._desk.running = True
        self._desk.worker.start()

    async def stop(self, timeout: float = 10.0) -> None:
        """End all: every reply ends with "cancelled" and the reason "shutdown", who waits gets EngineStopped.

        Returns once the threads have ended, or after `timeout` seconds.
        """
        if self._desk.running:
            self._desk.running = False
            await asyncio.to_thread(self._desk.worker.stop, timeout)

    def open(self, system: str | None = None, voice: str | None = None, seed: int | None = None) -> Dialogue:
        """Begin a dialogue in a slot of its own, until its `close`.

        system: replaces the default system text, which only chooses the voice. voice: one of `voices`. seed: makes
        its replies repeatable, whoever else is being answered. Raises EngineFull, EngineStopped, PromptError.
        """
        self.model.system_text(system, voice)
        return Dialogue(self._desk, self._desk.lease(), system, voice, seed)

    async def transcribe(self, waveform: Tensor, sample_rate: int, vad: bool = True) -> AsyncIterator[TranscriptDelta]:
        """What is said in waveform [S] (or [channels, S]) at `sample_rate`, of any length, as it is written.

        Each segment of speech between pauses is written by itself; nothing where nobody speaks. vad=False: all of it
        is one segment. Takes a slot meanwhile. Raises EngineFull, EngineStopped, AudioError.
        """
        desk = self._desk
        slot = desk.lease()
        try:
            async for delta in desk.transcribe(AudioInput(waveform, sample_rate, vad), slot):
                yield delta
        finally:
            desk.release(slot)

    async def find_speech(self, sound: AudioInput) -> Speech:
        """Where somebody speaks in `sound`: what `transcribe` and `Dialogue.add_user` look for. Raises AudioError."""
        return await self._desk.find_speech(sound)

    async def speak(self, text: str, voice: str | None = None, seed: int | None = None) -> AsyncIterator[AudioDelta]:
        """Read `text` aloud, as `normalize_for_speech` writes it and as its sound is made. Takes a slot meanwhile.

        Raises EngineFull, EngineStopped, PromptError for a text without words or an unknown voice, and
        BaichuanAudioError, perhaps after some of the sound, where the text cannot be read to its end.
        """
        desk, model = self._desk, self.model
        system = model.system_text(None, voice)
        clauses = model.clauses_to_speak(normalize_for_speech(text))
        prompt = desk.tokens(model.prompt_builder().system(system).reply(spoken=True))
        sampling = ReplySampling.from_config(model.config)
        longest = max(len(segment) for clause in clauses for segment in clause)
        if len(prompt) + longest >= desk.capacity // 2:
            raise PromptTooLongError(
                f"a clause is {longest} tokens long; this engine reads at most {desk.capacity // 2}."
            )

        def program(sequence: TokenSequence) -> ReplyProgram:
            return read_aloud(sequence, model.text_tokenizer, clauses, sampling, desk.capacity)

        slot = desk.lease()
        reply = desk.write(slot, prompt, program, seed, spoken=True)
        try:
            async for event in reply:
                if isinstance(event, AudioDelta):
                    yield event
                elif isinstance(event, ReplyDone):
                    check_done(event, whole=True)
        finally:
            reply.cancel()
            desk.release(slot)

    def stats(self) -> EngineStats:
        """Figures of this moment, from any thread."""
        worker = self._desk.worker
        free = len(self._desk.free)
        return EngineStats(
            active_sessions=self.config.max_sessions - free,
            slots_free=free,
            active_replies=len(worker.rows),
            waiting_jobs=worker.sound.waiting,
            last_batch_size=worker.last_batch if worker.rows else 0,
            steps=worker.steps,
            text_tokens=worker.text_tokens,
            audio_frames=worker.audio_frames,
            runaways=dict(worker.runaways),
        )
