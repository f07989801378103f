"""The asyncio side of the worker: who has which slot, and the services that dialogues and one-off calls share."""

from __future__ import annotations

import asyncio
import heapq
import os
from collections.abc import AsyncIterator, Callable, Sequence
from random import Random

from torch import Tensor

from ..acceleration.cuda.flow import StaticFlow
from ..audio.voice_activity import Speech
from ..errors import BaichuanAudioError
from ..generation.reply import text_reply
from ..generation.sequence import ReplyProgram, Token, TokenSequence
from ..language_model.prompt import TRANSCRIBE_INSTRUCTION, PromptBuilder
from ..language_model.sampling import Sampling
from ..model import BaichuanAudio, join_texts
from .reply_stream import Reply
from .types import AudioInput, EngineConfig, EngineFull, EngineStopped, ReplyDone, TextDelta, TranscriptDelta
from .worker import ModelWorker

_CONTEXT = 4096  # positions of a slot, where the model could read more
_THREADS = 4
_SOUND_THREADS = 2  # on a CPU: sound costs more there than the rest together
_SOUND_THREADS_SOLVING = 4  # on CUDA, where the chunks of replies that are sampled at once share the solver's batch
_DIALOGUES_PER_SPARE = 4


class SlotAllocator:
    """Slots, and what is asked of the worker for them.

    Behind the slots of dialogues stand spare ones, one for every four, in which transcripts are written.
    """

    def __init__(self, model: BaichuanAudio, config: EngineConfig) -> None:
        self.model, self.config = model, config
        spare = -(-config.max_sessions // _DIALOGUES_PER_SPARE)
        slots = config.max_sessions + spare
        self.capacity = min(model.context, config.max_context or _CONTEXT)
        cores = len(os.sched_getaffinity(0))
        threads = config.threads or max(1, min(_THREADS, cores // 3))
        if model.language_model.norm.weight.device.type == "cpu":
            synthesis_threads = _SOUND_THREADS if cores > 1 else 1
        else:
            synthesis_threads = _SOUND_THREADS_SOLVING if isinstance(model.flow, StaticFlow) else 1
        self.worker = ModelWorker(model, config, slots, self.capacity, threads, synthesis_threads)
        self.running = False
        self.free = list(range(config.max_sessions))  # a heap: the lowest first, so that those in use are neighbours
        self._spare: asyncio.Queue[int] = asyncio.Queue()
        for slot in range(config.max_sessions, slots):
            self._spare.put_nowait(slot)

    def lease(self) -> int:
        """A slot, the caller's until `release`. Raises EngineFull, EngineStopped."""
        self.check_running()
        if not self.free:
            raise EngineFull(f"all {self.config.max_sessions} conversations are taken; try again in a moment.")
        return heapq.heappop(self.free)

    def release(self, slot: int) -> None:
        """Give a slot back. Commands are obeyed in order, so the next who gets it finds it quiet."""
        heapq.heappush(self.free, slot)

    def check_running(self) -> None:
        if not self.running:
            raise EngineStopped("the engine has not been started, or has been stopped.")

    def new_reply(self) -> Reply:
        """A reply to be written by the worker, whose reader is the running loop."""
        worker = self.worker

        def cancelled(reply: Reply, reason: str) -> None:
            worker.post(lambda: worker.cancel(reply, reason))

        return Reply(self.config.buffer_seconds, cancelled, worker.wake)

    def write(
        self,
        slot: int,
        tokens: Sequence[Token],
        program: Callable[[TokenSequence], ReplyProgram],
        seed: int | None,
        spoken: bool,
    ) -> Reply:
        """Have `program` write after the prompt `tokens` in a slot the caller has leased. Raises EngineStopped."""
        self.check_running()
        reply = self.new_reply()
        self.worker.post(lambda: self.worker.write(slot, tokens, program, Random(seed), reply, spoken))
        return reply

    def tokens(self, prompt: PromptBuilder) -> list[Token]:
        """A prompt as the positions of a sequence."""
        built = prompt.build()
        return list(self.model.language_model.tokens(built.ids, built.codes))

    async def encode(self, waveform: Tensor, sample_rate: int) -> list[Tensor]:
        """waveform [S] (or [channels, S]) -> codes [K, T] of each piece of `max_audio_seconds`. Raises AudioError."""
        self.check_running()
        return await self.worker.encode(waveform, sample_rate)

    async def find_speech(self, sound: AudioInput, max_seconds: float | None = None) -> Speech:
        """Where somebody speaks in `sound`; all of it unless that is to be found (`vad`). Raises AudioError."""
        self.check_running()
        speech: Speech = await self.worker.work(
            self.model.find_speech(sound.waveform, sound.sample_rate, sound.vad, max_seconds)
        )
        return speech

    async def transcript(self, pieces: Sequence[Tensor]) -> str:
        """What is said in the pieces, codes [K, T] each, written in a spare slot once there is one."""
        self.check_running()
        slot = await self._spare.get()
        try:
            return "".join([text async for text in self._write_transcript(pieces, slot)])
        finally:
            self._spare.put_nowait(slot)

    async def transcribe(self, sound: AudioInput, slot: int) -> AsyncIterator[TranscriptDelta]:
        """What is said in `sound`, of any length, as it is written in `slot`: segment by segment, so that neither the
        memory nor the time for which others wait grows with the length."""
        speech = await self.find_speech(sound, self.model.tokenizer.config.max_audio_seconds)
        text, rate = "", speech.sample_rate
        for (start, end), piece in zip(speech.segments, speech.pieces(), strict=True):
            codes = await self.encode(piece, rate)
            async for words in self._write_transcript(codes, slot, text):
                text += words
                yield TranscriptDelta(words, start / rate, end / rate)

    async def _write_transcript(self, pieces: Sequence[Tensor], slot: int, said: str = "") -> AsyncIterator[str]:
        """What is said in the pieces, codes [K, T] each, as it is written in `slot`. said: the text before it."""
        for codes in pieces:
            tokens = self.tokens(self.model.prompt_builder().text(TRANSCRIBE_INSTRUCTION).audio(codes))
            most = 32 + 3 * codes.shape[1]  # far more than anyone can say in that time

            def program(sequence: TokenSequence, most: int = most) -> ReplyProgram:
                return text_reply(sequence, self.model.text_tokenizer, Sampling(), most)

            begun, held = False, ""
            async for text in self._texts(self.write(slot, tokens, program, None, spoken=False)):
                held = held + text if begun else (held + text).lstrip()
                words = held.rstrip()  # space at either end of a piece's text is not part of it
                if words:
                    words = words if begun else join_texts([said, words])[len(said) :]
                    begun, held = True, held[len(held.rstrip()) :]
                    said += words
                    yield words

    async def _texts(self, reply: Reply) -> AsyncIterator[str]:
        try:
            async for event in reply:
                if isinstance(event, TextDelta):
                    yield event.text
                elif isinstance(event, ReplyDone):
                    check_done(event)
        finally:
            reply.cancel()


def check_done(done: ReplyDone, whole: bool = False) -> None:
    """Raise what became of a reply that nobody but its caller knows of; `whole`: also where it is incomplete."""
    if done.error is not None:
        raise done.error
    if done.status == "failed":
        raise BaichuanAudioError(done.reason or "the engine failed.")
    if done.reason == "shutdown":
        raise EngineStopped("the engine has been stopped.")
    if whole and done.status == "incomplete":
        raise BaichuanAudioError(f"the text could not be read to its end ({done.reason}); try other words.")
