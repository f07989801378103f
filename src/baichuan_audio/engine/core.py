"""The engine: many live dialogues on one model, batched in every step (docs/engine.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from torch import Tensor

from ..audio.voice_activity import Speech
from ..errors import PromptTooLongError
from ..generation.context import prompt_budget
from ..generation.events import AudioDelta
from ..generation.reply import ReplySampling, read_aloud
from ..generation.runner import ReplyProgram
from ..generation.sequence import TokenSequence
from ..model import BaichuanAudio
from .dialogue import Dialogue
from .slot_allocator import SlotAllocator, check_done
from .types import AudioInput, EngineConfig, EngineStats, EngineStopped, ReplyDone, TranscriptDelta


class Engine:
    """Many dialogues on one model.

        engine = Engine(model)
        engine.start()
        dialogue = engine.open(voice="Ada")
        await dialogue.add_user(["What is seven plus five?"])
        async for event in dialogue.reply(): ...
        await dialogue.close()
        await engine.stop()

    Public methods are for one asyncio loop; the model runs on threads of the engine and must not be used otherwise
    meanwhile. An engine cannot be started again.
    """

    def __init__(
        self,
        model: BaichuanAudio,
        config: EngineConfig | None = None,
        adapters: Mapping[str, BaichuanAudio] | None = None,
    ) -> None:
        """adapters: names, and `model` with these adapters merged (`adapters.merged_with`); backbone and audio head are
        theirs, all else is that of `model`."""
        self.model, self.config = model, config or EngineConfig()
        self._allocator = SlotAllocator(model, self.config, adapters or {})

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that `open`, `speak` and `transcribe` take."""
        return self._allocator.adapters

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices, the default first."""
        return self.model.voices

    @property
    def sample_rate(self) -> int:
        """Of the audio it generates, in Hz."""
        return self.model.sample_rate

    @property
    def max_turn_seconds(self) -> float:
        """Longest audio of one user turn; a tenth of the prompt budget is for the system text."""
        return 0.9 * prompt_budget(self._allocator.capacity) / self.model.tokenizer.frame_rate

    def start(self) -> None:
        """Start the threads. Raises EngineStopped for an engine that has run before."""
        if self._allocator.running or self._allocator.worker.commands.closed:
            raise EngineStopped("an engine can be started once; make a new one.")
        self._allocator.running = True
        self._allocator.worker.start()

    async def stop(self, timeout: float = 10.0) -> None:
        """End all: every reply ends with "cancelled" and the reason "shutdown", waiting callers get EngineStopped.

        Returns once the threads have ended, or after `timeout` seconds.
        """
        if self._allocator.running:
            self._allocator.running = False
            await asyncio.to_thread(self._allocator.worker.stop, timeout)

    def open(
        self,
        system: str | None = None,
        voice: str | None = None,
        seed: int | None = None,
        adapter: str | None = None,
    ) -> Dialogue:
        """Begin a dialogue in a slot of its own, until its `close`.

        system: replaces the default system text, which only chooses the voice. voice: one of `voices`. seed: makes
        its replies repeatable, independent of other dialogues. adapter: one of `adapters`, which answers throughout;
        None: the base. Raises EngineFull, EngineStopped, PromptError.
        """
        self.model.system_text(system, voice)
        self._allocator.check_adapter(adapter)
        return Dialogue(self._allocator, self._allocator.lease(), system, voice, seed, adapter)

    async def transcribe(
        self, waveform: Tensor, sample_rate: int, vad: bool = True, adapter: str | None = None
    ) -> AsyncIterator[TranscriptDelta]:
        """Transcribe waveform [S] (or [channels, S]) at `sample_rate`, of any length, streamed.

        Each segment of speech between pauses is transcribed by itself; nothing where nobody speaks. vad=False: all of
        it is one segment. Takes a slot meanwhile. Raises EngineFull, EngineStopped, AudioError.
        """
        allocator = self._allocator
        allocator.check_adapter(adapter)
        slot = allocator.lease()
        try:
            async for delta in allocator.transcribe(AudioInput(waveform, sample_rate, vad), slot, adapter):
                yield delta
        finally:
            allocator.release(slot)

    async def find_speech(self, audio: AudioInput) -> Speech:
        """Voice activity in `audio`, as `transcribe` and `Dialogue.add_user` use it. Raises AudioError."""
        return await self._allocator.find_speech(audio)

    async def speak(
        self, text: str, voice: str | None = None, seed: int | None = None, adapter: str | None = None
    ) -> AsyncIterator[AudioDelta]:
        """Read `text` aloud as `BaichuanAudio.speak` does; the audio is streamed. Takes a slot meanwhile.

        Raises EngineFull, EngineStopped, PromptError for a text without words or an unknown voice, and
        BaichuanAudioError, perhaps after some audio, where the model fails to read the text to its end.
        """
        allocator, model = self._allocator, self.model
        system = model.system_text(None, voice)
        allocator.check_adapter(adapter)
        clauses = model.clauses_to_speak(text)
        prompt = allocator.tokens(model.prompt_builder().system(system).reply(spoken=True))
        sampling = ReplySampling.from_config(model.config)
        max_tokens = max(len(segment) for clause in clauses for segment in clause)
        if len(prompt) + max_tokens >= allocator.capacity // 2:
            raise PromptTooLongError(
                f"a clause is {max_tokens} tokens long; this engine reads at most {allocator.capacity // 2}."
            )

        def program(sequence: TokenSequence) -> ReplyProgram:
            return read_aloud(sequence, model.text_tokenizer, clauses, sampling, allocator.capacity)

        slot = allocator.lease()
        reply = allocator.begin(slot, prompt, program, seed, spoken=True, adapter=adapter)
        try:
            async for event in reply:
                if isinstance(event, AudioDelta):
                    yield event
                elif isinstance(event, ReplyDone):
                    check_done(event, whole=True)
        finally:
            reply.cancel()
            allocator.release(slot)

    def stats(self) -> EngineStats:
        """Statistics of this moment, from any thread."""
        worker, replies = self._allocator.worker, self._allocator.worker.replies
        free = len(self._allocator.free)
        return EngineStats(
            active_sessions=self.config.max_sessions - free,
            slots_free=free,
            active_replies=len(replies.rows),
            waiting_jobs=worker.synthesis.waiting,
            last_batch_size=worker.last_batch if replies.rows else 0,
            steps=worker.steps,
            text_tokens=replies.text_tokens,
            audio_frames=replies.audio_frames,
            runaways=dict(replies.runaways),
        )
