"""The asyncio side of the worker: allocation of slots, and the services that dialogues and single calls share."""

from __future__ import annotations

import asyncio
import heapq
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from random import Random

from torch import Tensor

from ..acceleration.cuda.flow import StaticFlow
from ..audio.voice_activity import Speech
from ..errors import BaichuanAudioError, PromptError
from ..generation.events import TextDelta
from ..generation.runner import ReplyProgram
from ..generation.sequence import Token, TokenSequence
from ..generation.transcription import TranscriptAssembler, transcription, transcription_prompt
from ..language_model.prompt import Prompt, PromptBuilder
from ..model import BaichuanAudio
from .reply_stream import ReplyStream
from .types import AudioInput, EngineConfig, EngineFull, EngineStopped, ReplyDone, TranscriptDelta
from .worker import ModelWorker

_DEFAULT_CONTEXT = 4096  # positions of a slot, where the model can encode more
_MAX_THREADS = 4
_SYNTHESIS_THREADS = 2  # on a CPU, where synthesis costs more than the rest together
_SYNTHESIS_THREADS_STATIC = 4  # on CUDA, where chunks that are sampled at once share the solver's batch
_DIALOGUES_PER_SPARE_SLOT = 4


class SlotAllocator:
    """Slots, and requests to the worker.

    Beside the slots of dialogues there is a spare one for every four, for transcripts.
    """

    def __init__(self, model: BaichuanAudio, config: EngineConfig, adapters: Mapping[str, BaichuanAudio]) -> None:
        self.model, self.config, self.adapters = model, config, tuple(adapters)
        spare = -(-config.max_sessions // _DIALOGUES_PER_SPARE_SLOT)
        slots = config.max_sessions + spare
        self.capacity = min(model.context, config.max_context or _DEFAULT_CONTEXT)
        cores = len(os.sched_getaffinity(0))
        threads = config.threads or max(1, min(_MAX_THREADS, cores // 3))
        if model.language_model.norm.weight.device.type == "cpu":
            synthesis_threads = _SYNTHESIS_THREADS if cores > 1 else 1
        else:
            synthesis_threads = _SYNTHESIS_THREADS_STATIC if isinstance(model.flow, StaticFlow) else 1
        self.worker = ModelWorker(model, adapters, config, slots, self.capacity, threads, synthesis_threads)
        self.running = False
        self.free = list(range(config.max_sessions))  # a heap: the lowest first, so that slots in use are adjacent
        self._spare: asyncio.Queue[int] = asyncio.Queue()
        for slot in range(config.max_sessions, slots):
            self._spare.put_nowait(slot)

    def lease(self) -> int:
        """Take a slot until `release`. Raises EngineFull, EngineStopped."""
        self.check_running()
        if not self.free:
            raise EngineFull(f"all {self.config.max_sessions} conversations are taken; try again in a moment.")
        return heapq.heappop(self.free)

    def release(self, slot: int) -> None:
        """Give a slot back. Commands run in order, so the next owner gets it idle."""
        heapq.heappush(self.free, slot)

    def check_adapter(self, name: str | None) -> None:
        """Raise PromptError for a name that no adapter has; None is the base."""
        if name is not None and name not in self.adapters:
            raise PromptError(f"there is no adapter '{name}'; there are {', '.join(self.adapters) or 'none'}.")

    def check_running(self) -> None:
        if not self.running:
            raise EngineStopped("the engine has not been started, or has been stopped.")

    def new_reply(self) -> ReplyStream:
        """A stream that the worker will fill and the running loop reads."""
        commands, replies = self.worker.commands, self.worker.replies

        def cancelled(stream: ReplyStream, reason: str) -> None:
            commands.post(lambda: replies.cancel(stream, reason))

        return ReplyStream(self.config.buffer_seconds, cancelled, commands.wake)

    def begin(
        self,
        slot: int,
        tokens: Sequence[Token],
        program: Callable[[TokenSequence], ReplyProgram],
        seed: int | None,
        spoken: bool,
        background: bool = False,
        adapter: str | None = None,
    ) -> ReplyStream:
        """Run `program` after the prompt `tokens` in a slot that the caller has leased. Raises EngineStopped."""
        self.check_running()
        stream, replies = self.new_reply(), self.worker.replies
        self.worker.commands.post(
            lambda: replies.begin(
                slot, tokens, program, Random(seed), stream, spoken, background=background, adapter=adapter
            )
        )
        return stream

    def tokens(self, prompt: PromptBuilder | Prompt) -> list[Token]:
        """A prompt as the tokens of a sequence."""
        built = prompt.build() if isinstance(prompt, PromptBuilder) else prompt
        return list(self.model.language_model.tokens(built.ids, built.codes))

    async def encode(self, waveform: Tensor, sample_rate: int, background: bool = False) -> list[Tensor]:
        """waveform [S] (or [channels, S]) -> codes [K, T] of each piece of `max_audio_seconds`. Raises AudioError."""
        self.check_running()
        return await self.worker.encode(waveform, sample_rate, background)

    async def find_speech(
        self, audio: AudioInput, max_seconds: float | None = None, background: bool = False
    ) -> Speech:
        """Voice activity in `audio`; all of it is one segment unless `audio.vad`. Raises AudioError."""
        self.check_running()
        steps = self.model.find_speech(audio.waveform, audio.sample_rate, audio.vad, max_seconds)
        speech: Speech = await self.worker.run_job(steps, background)
        return speech

    async def transcribe_codes(self, pieces: Sequence[Tensor], adapter: str | None = None) -> str:
        """Transcribe pieces of speech, codes [K, T] each, in a spare slot once there is one."""
        self.check_running()
        slot = await self._spare.get()
        try:
            return "".join([text async for text in self._transcribe(pieces, slot, TranscriptAssembler(), adapter)])
        finally:
            self._spare.put_nowait(slot)

    async def transcribe(
        self, audio: AudioInput, slot: int, adapter: str | None = None
    ) -> AsyncIterator[TranscriptDelta]:
        """Transcribe `audio` of any length in `slot`, streamed: segment by segment, so that neither the memory nor the
        delay of others grows with the length. Dialogues go first."""
        speech = await self.find_speech(audio, self.model.tokenizer.config.max_audio_seconds, background=True)
        transcript, rate = TranscriptAssembler(), speech.sample_rate
        for (start, end), segment in zip(speech.segments, speech.pieces(), strict=True):
            codes = await self.encode(segment, rate, background=True)
            async for text in self._transcribe(codes, slot, transcript, adapter):
                yield TranscriptDelta(text, start / rate, end / rate)

    async def _transcribe(
        self, pieces: Sequence[Tensor], slot: int, transcript: TranscriptAssembler, adapter: str | None
    ) -> AsyncIterator[str]:
        """Transcribe pieces of speech, codes [K, T] each, in `slot` -> the texts that they add to `transcript`."""
        for codes in pieces:

            def program(sequence: TokenSequence, codes: Tensor = codes) -> ReplyProgram:
                return transcription(sequence, self.model.text_tokenizer, codes)

            tokens = self.tokens(transcription_prompt(self.model.prompt_builder(), codes))
            transcript.begin_piece()
            reply = self.begin(slot, tokens, program, None, spoken=False, background=True, adapter=adapter)
            async for text in self._texts(reply):
                if added := transcript.push(text):
                    yield added

    async def _texts(self, reply: ReplyStream) -> AsyncIterator[str]:
        try:
            async for event in reply:
                if isinstance(event, TextDelta):
                    yield event.text
                elif isinstance(event, ReplyDone):
                    check_done(event)
        finally:
            reply.cancel()


def check_done(done: ReplyDone, whole: bool = False) -> None:
    """Raise the error of a reply that has failed or was stopped; `whole`: also of one that is incomplete."""
    if done.error is not None:
        raise done.error
    if done.status == "failed":
        raise BaichuanAudioError(done.reason or "the engine failed.")
    if done.reason == "shutdown":
        raise EngineStopped("the engine has been stopped.")
    if whole and done.status == "incomplete":
        raise BaichuanAudioError(f"the text could not be read to its end ({done.reason}); try other words.")
