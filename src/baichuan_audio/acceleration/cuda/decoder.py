"""Batched decoding over static memory: sequences are rows, one step of some of them is one captured graph."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from ...errors import PromptTooLongError
from ...generation.sequence import DecodeRequest, DecodeResult, TextRequest, TokenSequence
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from .compiled_blocks import compiled_blocks_for
from .decode_step import DecodeBuffers, StepShape, frame_step, text_step
from .graphs import Graphs, bucket
from .sampling import sampling_row, top_k_limit
from .static_cache import SPAN_STEP, StaticCache, empty_store

_FLEX_FROM = 1024
"""Cached positions from which FlexAttention, split over the whole GPU, takes the place of SDPA."""
_LEAST_SPAN = 256


@dataclass(frozen=True)
class RowRequest:
    """What the sequence in row `row` waits for. All but its last position have been read."""

    row: int
    sequence: TokenSequence
    step: DecodeRequest


class RowBinding:
    """The sequence whose counts, and what its audio segment has said, live in a row of the device's memory."""

    def __init__(self, sequence: TokenSequence, rows: DecodeBuffers, row: int) -> None:
        self.sequence = weakref.ref(sequence)  # it may be dropped without a word
        self.steps = 0  # how often it has drawn here
        self._said = [said[row, : size + (level == 0)] for level, (said, size) in enumerate(rows.said_sizes())]
        self._suppressed: tuple[int, ...] = ()
        self._mask = rows.suppressed[row].zero_()
        sequence.counts = rows.counts[row].copy_(sequence.counts)
        rows.seeds[row] = sequence.random.getrandbits(62)

    def leave(self) -> None:
        """Give the sequence memory of its own again."""
        sequence = self.sequence()
        if sequence is not None:
            sequence.counts = sequence.counts.clone()
            sequence.seen_code_masks = [said.clone() for said in sequence.seen_code_masks]

    def prepare(self, sequence: TokenSequence, step: DecodeRequest) -> None:
        """Before its step: what it may not choose, or an empty memory for a new audio segment."""
        if isinstance(step, TextRequest):
            suppressed = (*sequence.special.control_ids, *step.suppressed)
            if self._suppressed != suppressed:
                self._suppressed = suppressed
                self._mask.zero_()[[id for id in suppressed if id < self._mask.shape[0]]] = True
        elif sequence.seen_code_masks is not self._said:
            for own, given in zip_longest(self._said, sequence.seen_code_masks):
                own.zero_() if given is None else own.copy_(given)
            sequence.seen_code_masks = self._said


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
        self.rows, self.capacity = DecodeBuffers(model, head, rows, cache), cache.room - 1
        device = self.rows.inputs.device
        self.graphs = Graphs(device) if device.type == "cuda" else None
        self._blocks = compiled_blocks_for(device)
        self._bindings: list[RowBinding | None] = [None] * rows

    @torch.inference_mode()
    def read(self, row: int, sequence: TokenSequence) -> None:
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
    def answer(self, requests: Sequence[RowRequest]) -> list[DecodeResult]:
        """One step for each: those that ask for text in one batch, those that ask for frames in another."""
        answers: dict[int, DecodeResult] = {}
        for text in (True, False):
            group = [request for request in requests if isinstance(request.step, TextRequest) == text]
            if group:
                answers |= self._step(group, text)
        return [answers[request.row] for request in requests]

    def _step(self, requests: list[RowRequest], text: bool) -> dict[int, DecodeResult]:
        shape = self._shape(requests, text)
        if self.graphs is not None and (text, shape) not in self.graphs:
            self._write([], shape.batch)  # before a capture the step runs several times: no row takes part
            self.graphs.capture((text, shape), lambda: self._run(text, shape))
        self._write(requests, shape.batch)
        if self.graphs is not None:
            self.graphs.replay((text, shape))
        else:
            self._run(text, shape)
        drawn = (self.rows.ids if text else self.rows.codes)[: shape.batch].tolist()  # the one wait for the device
        for request in requests:
            request.sequence.read = len(request.sequence)
        if text:
            return {request.row: drawn[request.row] for request in requests}
        end = self.head.codebook_sizes[0]
        return {
            request.row: None if drawn[request.row][0] == end else tuple(drawn[request.row]) for request in requests
        }

    def _run(self, text: bool, shape: StepShape) -> None:
        if text:
            text_step(self.model, self.rows, shape, self._blocks)
        else:
            frame_step(self.model, self.head, self.rows, shape, self._blocks)

    def _shape(self, requests: list[RowRequest], text: bool) -> StepShape:
        samplings = [request.step.sampling for request in requests]
        size = self.model.config.vocab_size if text else max(self.head.codebook_sizes) + 1
        penalise = any(sampling.repetition_penalty != 1.0 for sampling in samplings)
        longest = max(len(request.sequence) for request in requests)
        if self.graphs is None:
            batch, span = max(request.row for request in requests) + 1, -(-longest // SPAN_STEP) * SPAN_STEP
        else:  # few graphs
            batch = min(bucket(max(request.row for request in requests) + 1), len(self._bindings))
            span = max(_LEAST_SPAN, bucket(longest))
        span = min(span, self.rows.cache.room)
        flex = self.graphs is not None and span >= _FLEX_FROM
        return StepShape(batch, span, top_k_limit(samplings, size), penalise, flex)

    def _write(self, requests: list[RowRequest], batch: int) -> None:
        """Tell the device what each row does; a row without a step reads id 0 at the scratch position."""
        inputs: list[list[int]] = [[0, self.capacity, 0, 1, 0] for _ in range(batch)]
        settings = [[1.0] * 4 for _ in range(batch)]
        for request in requests:
            binding, token = self._bind(request), request.sequence.tokens[-1]
            id, codes = (self.model.audio_pad_id, token) if isinstance(token, tuple) else (token, ())
            may_end = isinstance(request.step, TextRequest) or request.step.may_end
            inputs[request.row] = [1, request.sequence.read, binding.steps, int(may_end), id, *codes]
            settings[request.row] = sampling_row(request.step.sampling)
            binding.steps += 1
        self.rows.write(inputs, settings)

    def _bind(self, request: RowRequest) -> RowBinding:
        binding = self._bindings[request.row]
        if binding is None or binding.sequence() is not request.sequence:
            if binding is not None:
                binding.leave()
            binding = self._bindings[request.row] = RowBinding(request.sequence, self.rows, request.row)
        binding.prepare(request.sequence, request.step)
        return binding
