"""The thread that owns the language model: takes commands, runs one step of all replies, and again (docs/engine.md)."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch

from ..errors import BaichuanAudioError, PromptError, PromptTooLongError
from ..generation.runaway import RUNAWAYS
from ..generation.sequence import (
    DecodeResult,
    FrameRequest,
    ReplyProgram,
    SentenceEnd,
    TextRequest,
    Token,
    TokenSequence,
)
from ..model import BaichuanAudio
from ..synthesis import SpeechStream
from .active_reply import ActiveReply, DialogueState
from .batch import batch_for
from .history import History, Item
from .kv_slots import SlotCache
from .reply_stream import Reply, ThreadsafeFuture
from .synthesis_scheduler import AudioOutput, SynthesisJob, SynthesisPool, encode_in_pieces
from .types import EngineConfig, EngineStopped, ReplyDone, Status, TextDelta, Usage

_log = logging.getLogger(__name__)

_LOW_WATER_S = 1.0  # seconds of sound left, below which a listener may run dry
_HIGH_WATER_S = 3.0  # who has more left rests while another is short
_MARKS = 4  # positions that end a reply: the last id and the marks around audio


class ModelWorker:
    """All model work of one engine: this thread the language model, its `SynthesisPool` the rest.

    `post` and `call` may be used from any thread; the methods that take a Reply or Chat run on the worker's own.
    """

    def __init__(
        self,
        model: BaichuanAudio,
        config: EngineConfig,
        slots: int,
        capacity: int,
        threads: int,
        synthesis_threads: int,
    ) -> None:
        self.model, self.config, self.capacity = model, config, capacity
        self.batch = batch_for(model, SlotCache(model.language_model, slots, capacity))
        self.sound = SynthesisPool(config.first_chunk_frames, config.chunk_frames, synthesis_threads, threads)
        self.rows: list[ActiveReply] = []  # those still being written
        self.runaways = dict.fromkeys(RUNAWAYS, 0)  # replies that were stopped, by reason
        self.steps = self.last_batch = self.text_tokens = self.audio_frames = 0
        self._finished: dict[Reply, ActiveReply] = {}  # written, and perhaps still sounding
        self._held: dict[Reply, DialogueState] = {}  # not begun: audio of the dialogue is being encoded
        self._promises: set[ThreadsafeFuture] = set()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads, self._stopping, self.closed = threads, False, False
        self._thread = threading.Thread(target=self._run, name="baichuan-audio engine", daemon=True)

    # -- from any thread ------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.sound.start()
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End everything: replies are cancelled with "shutdown", those who wait get EngineStopped; blocks."""
        self.closed = True
        self.post(self._stop)
        deadline = time.monotonic() + timeout
        self._thread.join(timeout)
        self.sound.stop(max(0.1, deadline - time.monotonic()))

    def post(self, command: Callable[[], None]) -> None:
        """Run `command` on the worker's thread, before its next step."""
        self._commands.put(command)

    def wake(self) -> None:
        """There may be something to do."""
        self.post(_nothing)

    async def call(self, function: Callable[[], Any]) -> Any:
        """What `function` returns or raises on the worker's thread."""
        future = ThreadsafeFuture()

        def command() -> None:
            try:
                self._settle(future, function())
            except Exception as error:
                self._settle(future, None, error)

        self._expect(future)
        self.post(command)
        return await future.future

    async def work(self, pieces: Any) -> Any:
        """The last value of an iterator that the sound thread goes through piece by piece."""
        future = ThreadsafeFuture()
        job = SynthesisJob(pieces, lambda value, error: self._settle(future, value, error))
        self._expect(future)
        self.sound.add_job(job)
        try:
            return await future.future
        finally:
            job.cancelled = True

    async def encode(self, waveform: torch.Tensor, sample_rate: int) -> list[torch.Tensor]:
        """waveform [S] (or [channels, S]) -> codes [K, T] of each piece; raises AudioError."""
        codes: list[torch.Tensor] = await self.work(encode_in_pieces(self.model.tokenizer, waveform, sample_rate))
        return codes

    # -- replies, on the worker's thread --------------------------------------------------------------------------

    def answer(
        self,
        dialogue_state: DialogueState,
        reply: Reply,
        system: str,
        spoken: bool,
        program: Callable[[TokenSequence], ReplyProgram],
        most_tokens: int | None,
        item: Item | None,
    ) -> None:
        """Begin a reply in a dialogue, once all of the user's audio has been encoded."""

        def begin() -> None:
            self._held.pop(reply, None)
            try:
                tokens = dialogue_state.history.prompt(system, spoken, forget=item is not None)
                if item is not None:
                    dialogue_state.history.add(item)
            except Exception as error:
                self._refuse(reply, error)
                return
            seed = (
                dialogue_state.seed
                if not dialogue_state.replies or dialogue_state.seed is None
                else f"{dialogue_state.seed}.{dialogue_state.replies}"
            )
            dialogue_state.replies += 1
            self.write(
                dialogue_state.slot,
                tokens,
                program,
                Random(seed),
                reply,
                spoken,
                most_tokens,
                dialogue_state.history,
                item,
            )

        if all(each.ready for each in dialogue_state.history.items):
            begin()
        else:
            dialogue_state.waiting = begin
            self._held[reply] = dialogue_state

    def write(
        self,
        slot: int,
        tokens: Sequence[Token],
        program: Callable[[TokenSequence], ReplyProgram],
        random: Random,
        reply: Reply,
        spoken: bool,
        most_tokens: int | None = None,
        history: History | None = None,
        item: Item | None = None,
    ) -> None:
        """Begin to write in `slot` after the prompt `tokens`, by `program`."""
        try:
            if len(tokens) + _MARKS >= self.capacity:
                raise PromptTooLongError(f"the prompt is {len(tokens)} tokens long; this engine reads {self.capacity}.")
            sequence = self._sequence(slot, tokens, random)
            frames = sum(isinstance(token, tuple) for token in tokens)
            rate = self.model.tokenizer.frame_rate
            row = ActiveReply(
                slot=slot, sequence=sequence, program=program(sequence), step=None, reply=reply,
                voice=self._voice(reply) if spoken else None, header=len(tokens) - (2 if spoken else 1),
                history=history, item=item, most_tokens=most_tokens,
                usage=Usage(len(tokens) - frames, frames, sequence.read), frame_seconds=1 / rate,
            )  # fmt: skip
        except Exception as error:
            self._refuse(reply, error)
            return
        self.rows.append(row)
        self._advance(row, None)

    def cancel(self, reply: Reply, reason: str) -> None:
        """End a reply now; what its reader has not had leaves the history."""
        row = self._finished.pop(reply, None) or next((row for row in self.rows if row.reply is reply), None)
        dialogue_state = self._held.pop(reply, None)
        if dialogue_state is not None:
            dialogue_state.waiting = None
        if row is not None:
            self._leave(row)
            self._drop_unplayed(row)
        usage = row.used() if row is not None else Usage()
        text = reply.read_text if reply.cancelled else reply.sent_text
        reply.deliver(ReplyDone("cancelled", reason, text, usage))

    def settle_items(self, dialogue_state: DialogueState) -> None:
        """An item of the dialogue has become ready, or is gone: a reply may have waited for it."""
        if dialogue_state.waiting is not None and all(item.ready for item in dialogue_state.history.items):
            begin, dialogue_state.waiting = dialogue_state.waiting, None
            begin()

    def tidy(self) -> None:
        """Let go of replies that nobody will read on in."""
        self._finished = {reply: row for reply, row in self._finished.items() if not reply.settled}

    # -- inside ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        while not self._stopping:
            due = self._due()
            self._run_commands(wait=not due)
            due = self._due()
            if due and not self._stopping:
                self._step(due)

    def _run_commands(self, wait: bool) -> None:
        """Run the commands that have come; with nothing else to do, sleep until one comes."""
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return
            wait = False
            try:
                command()
            except Exception:
                _log.exception("a command of the engine failed")

    def _due(self) -> list[ActiveReply]:
        """The rows of the next step: all whose reader keeps up, but those far ahead of a listener who is short."""
        for row in [row for row in self.rows if row.reply.abandoned]:
            self.cancel(row.reply, "abandoned")
        due = [row for row in self.rows if not row.must_wait()]
        leads = [row.lead() for row in due]
        if any(lead < _LOW_WATER_S for lead in leads):
            due = [row for row, lead in zip(due, leads, strict=True) if lead <= _HIGH_WATER_S]
        return due

    def _step(self, due: list[ActiveReply]) -> None:
        try:
            answers = self.batch.step(due, self.config.prefill_positions)
        except Exception as error:
            _log.exception("a step of the batch failed")
            for row in due:
                self._fail(row, error)
            return
        self.steps += 1
        self.last_batch = len(due)
        for written, answer in answers:
            assert isinstance(written, ActiveReply)
            self._advance(written, answer)

    def _advance(self, row: ActiveReply, answer: DecodeResult) -> None:
        """Send a row its answer and take what it gives out, up to its next step."""
        try:
            self._count(row, answer)
            while True:
                event = row.program.send(answer)
                if isinstance(event, (TextRequest, FrameRequest)):
                    row.step = event
                    break
                answer = None
                self._give(row, event)
            full = len(row.sequence) + _MARKS >= self.capacity
            if full or (row.most_tokens is not None and row.text_tokens + row.frames >= row.most_tokens):
                row.program.close()
                self._finish(row, "limit")
        except StopIteration as end:
            self._finish(row, end.value)
        except Exception as error:
            _log.exception("a reply failed")
            self._fail(row, error)

    def _count(self, row: ActiveReply, answer: DecodeResult) -> None:
        if isinstance(row.step, TextRequest):
            row.text_tokens += 1
            self.text_tokens += 1
        elif isinstance(answer, tuple):
            row.frames += 1
            self.audio_frames += 1
            assert row.voice is not None
            row.voice.put(answer)
            self.sound.wake(row.voice)

    def _give(self, row: ActiveReply, event: str | torch.Tensor | SentenceEnd) -> None:
        """Text, a sentence's end, or the codes of a finished audio segment, whose frames have gone out one by one."""
        if isinstance(event, str):
            row.said.append(event)
        if row.voice is None:
            assert isinstance(event, str)
            row.reply.deliver(TextDelta(event))
            return
        if not isinstance(event, torch.Tensor):
            row.voice.put(event)
        else:
            row.voice.end_segment()
        self.sound.wake(row.voice)

    def _finish(self, row: ActiveReply, ending: str | None) -> None:
        """The rules have come to their end; the sound may have some way to go."""
        if ending in RUNAWAYS:
            self.runaways[ending] += 1
            if row.item is not None:
                row.item.discarded = True
        self._remember(row)
        self.rows.remove(row)
        status: Status = "completed" if ending is None else "incomplete"
        reason = "max_output_tokens" if ending == "limit" else ending
        done = ReplyDone(status, reason, "".join(row.said), row.used())
        self.tidy()
        self._finished[row.reply] = row
        if row.voice is None:
            row.reply.deliver(done)
        else:
            row.voice.put(done)
            self.sound.wake(row.voice)

    def _fail(self, row: ActiveReply, error: Exception) -> None:
        if row not in self.rows and row.reply not in self._finished:
            return
        self._finished.pop(row.reply, None)
        self._leave(row)
        self._drop_unplayed(row)
        row.reply.deliver(_failure(error, row.reply.sent_text, row.used()))

    def _refuse(self, reply: Reply, error: Exception) -> None:
        """A reply that cannot begin."""
        if not isinstance(error, BaichuanAudioError):
            _log.error("a reply could not begin", exc_info=error)
        reply.deliver(_failure(error, "", Usage()))

    def _leave(self, row: ActiveReply) -> None:
        """Stop writing a row: its sequence is closed by its rules, its sound is dropped."""
        if row in self.rows:
            self.rows.remove(row)
            try:
                row.program.close()
            except Exception:
                _log.exception("a reply could not be closed")
            self._remember(row)
        if row.voice is not None:
            row.voice.drop()

    def _remember(self, row: ActiveReply) -> None:
        if row.item is not None and not row.item.discarded:
            row.item.tokens = row.sequence.tokens[row.header :]

    def _drop_unplayed(self, row: ActiveReply) -> None:
        """Cut the item of a reply that was broken off to what its reader has had."""
        if row.item is None or row.history is None or not row.item.tokens:
            return
        if row.voice is not None:
            row.item.tokens, _ = row.history.heard(row.item.tokens, row.reply.heard_seconds)
        else:
            row.item.tokens = row.history.written(row.reply.read_text)

    def _sequence(self, slot: int, tokens: Sequence[Token], random: Random) -> TokenSequence:
        """The prompt as a sequence, as much of it read as the slots know already."""
        model = self.model.language_model
        store = self.batch.cache
        sequence = TokenSequence(
            self.model.special, model.config.vocab_size, model.codebook_sizes, random, store.store.device
        )
        sequence.lay(tokens)
        sequence.read = store.prepare(slot, tokens)
        return sequence

    def _voice(self, reply: Reply) -> AudioOutput:
        speech = SpeechStream(self.model, self.config.first_chunk_frames, self.config.chunk_frames)

        def failed(error: Exception) -> None:
            _log.error("the sound of a reply failed", exc_info=error)
            self.post(lambda: self._fail_reply(reply, error))

        rate = self.model.sample_rate
        frame_samples = round(rate / self.model.tokenizer.frame_rate) if self.model.continuous_speech else None
        voice = AudioOutput(
            speech, self.model.audio_head.num_codebooks, rate, frame_samples, reply.deliver, failed, self.wake
        )
        self.sound.add_voice(voice)
        return voice

    def _fail_reply(self, reply: Reply, error: Exception) -> None:
        for row in [*self.rows, *self._finished.values()]:
            if row.reply is reply:
                self._fail(row, error)
                return

    def _expect(self, future: ThreadsafeFuture) -> None:
        if self.closed:
            raise EngineStopped("the engine has been stopped.")
        self._promises.add(future)

    def _settle(self, future: ThreadsafeFuture, value: Any, error: Exception | None = None) -> None:
        self._promises.discard(future)
        future.resolve(value, error)

    def _stop(self) -> None:
        self._stopping = True
        for reply in [*self._held, *(row.reply for row in self.rows), *self._finished]:
            self.cancel(reply, "shutdown")
        for future in list(self._promises):
            self._settle(future, None, EngineStopped("the engine has been stopped."))


def _nothing() -> None:
    """A command that only wakes the worker."""


def _failure(error: Exception, text: str, usage: Usage) -> ReplyDone:
    reason = str(error) if isinstance(error, BaichuanAudioError) else f"internal error ({type(error).__name__})"
    return ReplyDone("failed", reason, text, usage, error=error if isinstance(error, PromptError) else None)
