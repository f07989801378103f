"""Batched decoding over static memory: sequences are rows, one step of some of them is one captured graph."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from ...errors import PromptTooLongError
from ...generation.sequence import Answer, LiveSequence, Step, TextStep
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from .compiled_blocks import regions_for
from .decode_step import Rows, Shape, frame_step, text_step
from .graphs import Graphs, bucket
from .sampling import limit_of, setting_row
from .static_cache import SPAN_STEP, StaticCache, empty_store

_FLEX_FROM = 1024
"""Cached positions from which FlexAttention, split over the whole GPU, takes the place of SDPA."""
_LEAST_SPAN = 256


@dataclass(frozen=True)
class Ask:
    """What the sequence in row `row` waits for. All but its last position have been read."""

    row: int
    sequence: LiveSequence
    step: Step


class _Guest:
    """The sequence whose counts, and what its audio segment has said, live in a row of the device's memory."""

    def __init__(self, sequence: LiveSequence, rows: Rows, row: int) -> None:
        self.sequence = weakref.ref(sequence)  # it may be dropped without a word
        self.steps = 0  # how often it has drawn here
        self._said = [said[row, : size + (level == 0)] for level, (said, size) in enumerate(rows.said_sizes())]
        self._barred: tuple[int, ...] = ()
        self._mask = rows.barred[row].zero_()
        sequence.counts = rows.counts[row].copy_(sequence.counts)
        rows.seeds[row] = sequence.random.getrandbits(62)

    def leave(self) -> None:
        """Give the sequence memory of its own again."""
        sequence = self.sequence()
        if sequence is not None:
            sequence.counts = sequence.counts.clone()
            sequence.said_codes = [said.clone() for said in sequence.said_codes]

    def prepare(self, sequence: LiveSequence, step: Step) -> None:
        """Before its step: what it may not choose, or an empty memory for a new audio segment."""
        if isinstance(step, TextStep):
            barred = (*sequence.special.not_text, *step.barred)
            if self._barred != barred:
                self._barred = barred
                self._mask.zero_()[[id for id in barred if id < self._mask.shape[0]]] = True
        elif sequence.said_codes is not self._said:
            for own, given in zip_longest(self._said, sequence.said_codes):
                own.zero_() if given is None else own.copy_(given)
            sequence.said_codes = self._said


class Decoder:
    """Answers the steps of up to `rows` sequences of up to `capacity` positions, all in one batch.

    On CUDA a step is a CUDA graph, one for each bucket of rows and of positions (powers of two); elsewhere the same
    functions run as they are. `model` and `head` are an accelerated model's. Keys and values are its own, or in
    `store` [layers, 2, rows, groups, room, head_dim], whose last position is then its scratch. A sequence draws by
    chance that its `random` seeds when it first comes.
    """

    def __init__(
        self, model: LanguageModel, head: AudioHead, rows: int, capacity: int, store: Tensor | None = None
    ) -> None:
        self.model, self.head = model, head
        cache = StaticCache(empty_store(model, rows, capacity) if store is None else store)
        self.rows, self.capacity = Rows(model, head, rows, cache), cache.room - 1
        device = self.rows.inputs.device
        self.graphs = Graphs(device) if device.type == "cuda" else None
        self._regions = regions_for(device)
        self._guests: list[_Guest | None] = [None] * rows

    @torch.inference_mode()
    def read(self, row: int, sequence: LiveSequence) -> None:
        """Let the backbone read what waits in `sequence` but its last position, which the next step reads.

        Raises PromptTooLongError where the row is too short for it.
        """
        if len(sequence) > self.capacity:
            raise PromptTooLongError(
                f"the sequence is {len(sequence)} positions long and its row holds {self.capacity}."
            )
        sequence.read = min(sequence.read, len(sequence) - 1)  # of what was cut back, the last is read again
        waiting = sequence.unread[:-1]
        if waiting:
            embedded = self.model.embed_sequence(waiting)
            self.model.hidden(embedded[None], self.rows.cache.row(row, sequence.read))
            sequence.read += len(waiting)

    @torch.inference_mode()
    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        """One step for each: those that ask for text in one batch, those that ask for frames in another."""
        answers: dict[int, Answer] = {}
        for text in (True, False):
            group = [ask for ask in asks if isinstance(ask.step, TextStep) == text]
            if group:
                answers |= self._step(group, text)
        return [answers[ask.row] for ask in asks]

    def _step(self, asks: list[Ask], text: bool) -> dict[int, Answer]:
        shape = self._shape(asks, text)
        if self.graphs is not None and (text, shape) not in self.graphs:
            self._write([], shape.batch)  # before a capture the step runs several times: no row takes part
            self.graphs.capture((text, shape), lambda: self._run(text, shape))
        self._write(asks, shape.batch)
        if self.graphs is not None:
            self.graphs.replay((text, shape))
        else:
            self._run(text, shape)
        drawn = (self.rows.ids if text else self.rows.codes)[: shape.batch].tolist()  # the one wait for the device
        for ask in asks:
            ask.sequence.read = len(ask.sequence)
        if text:
            return {ask.row: drawn[ask.row] for ask in asks}
        end = self.head.codebook_sizes[0]
        return {ask.row: None if drawn[ask.row][0] == end else tuple(drawn[ask.row]) for ask in asks}

    def _run(self, text: bool, shape: Shape) -> None:
        if text:
            text_step(self.model, self.rows, shape, self._regions)
        else:
            frame_step(self.model, self.head, self.rows, shape, self._regions)

    def _shape(self, asks: list[Ask], text: bool) -> Shape:
        samplings = [ask.step.sampling for ask in asks]
        size = self.model.config.vocab_size if text else max(self.head.codebook_sizes) + 1
        penalise = any(sampling.repetition_penalty != 1.0 for sampling in samplings)
        longest = max(len(ask.sequence) for ask in asks)
        if self.graphs is None:
            batch, span = max(ask.row for ask in asks) + 1, -(-longest // SPAN_STEP) * SPAN_STEP
        else:  # few graphs
            batch = min(bucket(max(ask.row for ask in asks) + 1), len(self._guests))
            span = max(_LEAST_SPAN, bucket(longest))
        span = min(span, self.rows.cache.room)
        flex = self.graphs is not None and span >= _FLEX_FROM
        return Shape(batch, span, limit_of(samplings, size), penalise, flex)

    def _write(self, asks: list[Ask], batch: int) -> None:
        """Tell the device what each row does; a row without a step reads id 0 at the scratch position."""
        inputs: list[list[int]] = [[0, self.capacity, 0, 1, 0] for _ in range(batch)]
        settings = [[1.0] * 4 for _ in range(batch)]
        for ask in asks:
            guest, token = self._welcome(ask), ask.sequence.tokens[-1]
            id, codes = (self.model.audio_pad_id, token) if isinstance(token, tuple) else (token, ())
            may_end = isinstance(ask.step, TextStep) or ask.step.may_end
            inputs[ask.row] = [1, ask.sequence.read, guest.steps, int(may_end), id, *codes]
            settings[ask.row] = setting_row(ask.step.sampling)
            guest.steps += 1
        self.rows.write(inputs, settings)

    def _welcome(self, ask: Ask) -> _Guest:
        guest = self._guests[ask.row]
        if guest is None or guest.sequence() is not ask.sequence:
            if guest is not None:
                guest.leave()
            guest = self._guests[ask.row] = _Guest(ask.sequence, self.rows, ask.row)
        guest.prepare(ask.sequence, ask.step)
        return guest
