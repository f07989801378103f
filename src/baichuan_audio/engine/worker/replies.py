"""The life cycle of replies: begin, advance by the results of a step, finish, fail, cancel.

All methods run on the worker's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random

from ...errors import BaichuanAudioError, PromptError, PromptTooLongError
from ...generation.events import DecodedEvent, FrameDecoded, SegmentEnd, TextDelta
from ...generation.runaway import RUNAWAYS
from ...generation.runner import ProgramRunner, ReplyProgram
from ...generation.sequence import DecodeResult, TextRequest, Token, TokenSequence
from ...model import BaichuanAudio
from ...synthesis import SpeechStream
from ..history import History, HistoryItem
from ..kv_slots import SlotCache
from ..reply_stream import ReplyStream
from ..synthesis_scheduler import AudioOutput, SynthesisPool
from ..types import EngineConfig, ReplyDone, Status, Usage
from .active_reply import ActiveReply, DialogueState
from .commands import CommandQueue

_log = logging.getLogger(__name__)

_RESERVED_POSITIONS = 4  # positions that end a reply: the last id and the control tokens around audio


class Replies:
    """All replies of one engine: waiting for audio, being generated (`rows`), and generated but still in synthesis."""

    def __init__(
        self,
        model: BaichuanAudio,
        config: EngineConfig,
        cache: SlotCache,
        commands: CommandQueue,
        synthesis: SynthesisPool,
    ) -> None:
        self._model, self._config, self._cache = model, config, cache
        self._commands, self._synthesis = commands, synthesis
        self.rows: list[ActiveReply] = []
        self.runaways = dict.fromkeys(RUNAWAYS, 0)  # replies that were stopped, by reason
        self.text_tokens = self.audio_frames = 0
        self._finished: dict[ReplyStream, ActiveReply] = {}
        self._waiting: dict[ReplyStream, DialogueState] = {}

    def begin_in_dialogue(
        self,
        dialogue: DialogueState,
        stream: ReplyStream,
        system: str,
        spoken: bool,
        program: Callable[[TokenSequence], ReplyProgram],
        max_tokens: int | None,
        item: HistoryItem | None,
    ) -> None:
        """Begin a reply in a dialogue, once all of the user's audio has been encoded."""

        def begin() -> None:
            self._waiting.pop(stream, None)
            try:
                tokens = dialogue.history.prompt(system, spoken, drop=item is not None)
                if item is not None:
                    dialogue.history.add(item)
            except Exception as error:
                self._reject(stream, error)
                return
            random = Random(dialogue.next_seed())
            self.begin(
                dialogue.slot,
                tokens,
                program,
                random,
                stream,
                spoken,
                max_tokens,
                dialogue.history,
                item,
                adapter=dialogue.adapter,
            )

        if all(item.ready for item in dialogue.history.items):
            begin()
        else:
            dialogue.pending_reply = begin
            self._waiting[stream] = dialogue

    def begin(
        self,
        slot: int,
        tokens: Sequence[Token],
        program: Callable[[TokenSequence], ReplyProgram],
        random: Random,
        stream: ReplyStream,
        spoken: bool,
        max_tokens: int | None = None,
        history: History | None = None,
        item: HistoryItem | None = None,
        background: bool = False,
        adapter: str | None = None,
    ) -> None:
        """Begin to run `program` in `slot` after the prompt `tokens`; background, adapter: as in ActiveReply."""
        try:
            if len(tokens) + _RESERVED_POSITIONS >= self._cache.capacity:
                raise PromptTooLongError(
                    f"the prompt is {len(tokens)} tokens long; this engine reads {self._cache.capacity}."
                )
            sequence = self._sequence(slot, tokens, random, adapter)
            frames = sum(isinstance(token, tuple) for token in tokens)
            row = ActiveReply(
                slot=slot,
                sequence=sequence,
                runner=ProgramRunner(program(sequence)),
                stream=stream,
                output=self._audio_output(stream) if spoken else None,
                reply_start=len(tokens) - (2 if spoken else 1),
                history=history,
                item=item,
                max_tokens=max_tokens,
                prompt_usage=Usage(len(tokens) - frames, frames, sequence.read),
                frame_seconds=1 / self._model.tokenizer.frame_rate,
                background=background,
                adapter=adapter,
            )
        except Exception as error:
            self._reject(stream, error)
            return
        self.rows.append(row)
        self.advance(row, None)

    def advance(self, row: ActiveReply, result: DecodeResult) -> None:
        """Advance a row by the result of its request, up to its next request."""
        try:
            if isinstance(row.request, TextRequest):
                row.text_tokens += 1
                self.text_tokens += 1
            for event in row.runner.advance(result):
                self._emit(row, event)
            if row.runner.finished:
                self._finish(row, row.runner.result)
            elif len(row.sequence) + _RESERVED_POSITIONS >= self._cache.capacity or row.at_limit():
                row.runner.close()
                self._finish(row, "limit")
        except Exception as error:
            _log.exception("a reply failed")
            self.fail(row, error)

    def cancel(self, stream: ReplyStream, reason: str) -> None:
        """End a reply now; the part that its reader has not received is removed from the history."""
        row = self._finished.pop(stream, None) or next((row for row in self.rows if row.stream is stream), None)
        dialogue = self._waiting.pop(stream, None)
        if dialogue is not None:
            dialogue.pending_reply = None
        if row is not None:
            self._interrupt(row)
            self._drop_unplayed(row)
        usage = row.usage() if row is not None else Usage()
        text = stream.read_text if stream.cancelled else stream.sent_text
        stream.deliver(ReplyDone("cancelled", reason, text, usage))

    def cancel_all(self, reason: str) -> None:
        """End all replies."""
        for stream in [*self._waiting, *(row.stream for row in self.rows), *self._finished]:
            self.cancel(stream, reason)

    def cancel_abandoned(self) -> None:
        """End the replies whose event loop is gone."""
        for row in [row for row in self.rows if row.stream.abandoned]:
            self.cancel(row.stream, "abandoned")

    def fail(self, row: ActiveReply, error: Exception) -> None:
        """End a reply because of `error`."""
        if row not in self.rows and row.stream not in self._finished:
            return
        self._finished.pop(row.stream, None)
        self._interrupt(row)
        self._drop_unplayed(row)
        row.stream.deliver(_failure(error, row.stream.sent_text, row.usage()))

    def resume_waiting(self, dialogue: DialogueState) -> None:
        """Begin the reply that waited for an item of the dialogue, if all items are ready now."""
        if dialogue.pending_reply is not None and all(item.ready for item in dialogue.history.items):
            begin, dialogue.pending_reply = dialogue.pending_reply, None
            begin()

    def discard_settled(self) -> None:
        """Release finished replies that have been read or cancelled."""
        self._finished = {stream: row for stream, row in self._finished.items() if not stream.settled}

    # -- inside ---------------------------------------------------------------------------------------------------

    def _emit(self, row: ActiveReply, event: DecodedEvent) -> None:
        """Pass an event on to the reader of a text reply, or to the synthesis of a spoken one."""
        if isinstance(event, TextDelta):
            row.texts.append(event.text)
        if row.output is None:
            assert isinstance(event, TextDelta)
            row.stream.deliver(event)
            return
        if isinstance(event, SegmentEnd):
            row.output.end_segment()
        else:
            if isinstance(event, FrameDecoded):
                row.frames += 1
                self.audio_frames += 1
            row.output.put(event)
        self._synthesis.wake(row.output)

    def _finish(self, row: ActiveReply, ending: str | None) -> None:
        """The program has ended; the synthesis may continue for a while."""
        if ending in RUNAWAYS:
            self.runaways[ending] += 1
            if row.item is not None:
                row.item.discarded = True
        self._store_item(row)
        self.rows.remove(row)
        status: Status = "completed" if ending is None else "incomplete"
        reason = "max_output_tokens" if ending == "limit" else ending
        done = ReplyDone(status, reason, "".join(row.texts), row.usage())
        self.discard_settled()
        self._finished[row.stream] = row
        if row.output is None:
            row.stream.deliver(done)
        else:
            row.output.put(done)
            self._synthesis.wake(row.output)

    def _reject(self, stream: ReplyStream, error: Exception) -> None:
        """A reply that cannot begin."""
        if not isinstance(error, BaichuanAudioError):
            _log.error("a reply could not begin", exc_info=error)
        stream.deliver(_failure(error, "", Usage()))

    def _interrupt(self, row: ActiveReply) -> None:
        """Stop generating a row: the program completes its sequence, pending audio is dropped."""
        if row in self.rows:
            self.rows.remove(row)
            try:
                row.runner.close()
            except Exception:
                _log.exception("a reply could not be closed")
            self._store_item(row)
        if row.output is not None:
            row.output.drop()

    def _store_item(self, row: ActiveReply) -> None:
        if row.item is not None and not row.item.discarded:
            row.item.tokens = row.sequence.tokens[row.reply_start :]

    def _drop_unplayed(self, row: ActiveReply) -> None:
        """Truncate the item of an interrupted reply to what its reader has received."""
        if row.item is None or row.history is None or not row.item.tokens:
            return
        if row.output is not None:
            row.item.tokens, _ = row.history.played_part(row.item.tokens, row.stream.read_seconds)
        else:
            row.item.tokens = row.history.text_reply_tokens(row.stream.read_text)

    def _sequence(self, slot: int, tokens: Sequence[Token], random: Random, adapter: str | None) -> TokenSequence:
        """The prompt as a sequence, marked as read as far as the slots have it cached."""
        language_model = self._model.language_model
        sequence = TokenSequence(
            self._model.special,
            language_model.config.vocab_size,
            language_model.codebook_sizes,
            random,
            self._cache.store.device,
        )
        sequence.extend(tokens)
        sequence.read = self._cache.prepare(slot, tokens, adapter)
        return sequence

    def _audio_output(self, stream: ReplyStream) -> AudioOutput:
        model = self._model
        speech = SpeechStream(model, self._config.first_chunk_frames, self._config.chunk_frames)

        def failed(error: Exception) -> None:
            _log.error("the synthesis of a reply failed", exc_info=error)
            self._commands.post(lambda: self._fail_stream(stream, error))

        rate = model.sample_rate
        frame_samples = round(rate / model.tokenizer.frame_rate) if model.continuous_speech else None
        codebooks = model.audio_head.num_codebooks
        output = AudioOutput(speech, codebooks, rate, frame_samples, stream.deliver, failed, self._commands.wake)
        self._synthesis.add_output(output)
        return output

    def _fail_stream(self, stream: ReplyStream, error: Exception) -> None:
        for row in [*self.rows, *self._finished.values()]:
            if row.stream is stream:
                self.fail(row, error)
                return


def _failure(error: Exception, text: str, usage: Usage) -> ReplyDone:
    reason = str(error) if isinstance(error, BaichuanAudioError) else f"internal error ({type(error).__name__})"
    return ReplyDone("failed", reason, text, usage, error=error if isinstance(error, PromptError) else None)
