"""Batched decoding in static memory: sequences are rows, one step of some of them is one CUDA graph."""

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
"""From this many cached positions on, FlexAttention, split over the whole GPU, replaces SDPA."""
_MIN_SPAN = 256


@dataclass(frozen=True)
class RowRequest:
    """The pending request of the sequence in row `row`. All but its last position have been read."""

    row: int
    sequence: TokenSequence
    request: DecodeRequest


class RowBinding:
    """A sequence whose token counts and seen codes are kept in a row of the device memory."""

    def __init__(self, sequence: TokenSequence, rows: DecodeBuffers, row: int) -> None:
        self.sequence = weakref.ref(sequence)  # it may be deleted at any time
        self.steps = 0  # samples drawn in this row
        # only level 0 has an end mark
        self._seen = [seen[row, : seen.shape[1] - (level > 0)] for level, seen in enumerate(rows.seen_codes)]
        self._suppressed: tuple[int, ...] = ()
        self._mask = rows.suppressed[row].zero_()
        sequence.token_counts = rows.token_counts[row].copy_(sequence.token_counts)
        rows.seeds[row] = sequence.random.getrandbits(62)

    def leave(self) -> None:
        """Give the sequence its own copy of the state again."""
        sequence = self.sequence()
        if sequence is not None:
            sequence.token_counts = sequence.token_counts.clone()
            sequence.seen_code_masks = [seen.clone() for seen in sequence.seen_code_masks]

    def prepare(self, sequence: TokenSequence, request: DecodeRequest) -> None:
        """Before a step: write the suppressed tokens, or clear the seen codes for a new audio segment."""
        if isinstance(request, TextRequest):
            suppressed = (*sequence.special.control_ids, *request.suppressed_tokens)
            if self._suppressed != suppressed:
                self._suppressed = suppressed
                self._mask.zero_()[[id for id in suppressed if id < self._mask.shape[0]]] = True
        elif sequence.seen_code_masks is not self._seen:
            for seen, source in zip_longest(self._seen, sequence.seen_code_masks):
                seen.zero_() if source is None else seen.copy_(source)
            sequence.seen_code_masks = self._seen


class Decoder:
    """Decodes up to `rows` sequences of up to `capacity` positions in one batch.

    On CUDA a step is a CUDA graph, one for each bucket of rows and of positions (powers of two); elsewhere the same
    functions run eagerly. `model` and `head` are those of an inference copy (`joined_copy`). Keys and values are in
    memory of its own, or in `store` [layers, 2, rows, groups, padded capacity, w], whose last position is scratch. The
    random numbers of a sequence are seeded by its `random` at its first step.
    """

    def __init__(
        self, model: LanguageModel, head: AudioHead, rows: int, capacity: int, store: Tensor | None = None
    ) -> None:
        self.model, self.head = model, head
        cache = StaticCache(empty_store(model, rows, capacity) if store is None else store)
        self.rows, self.capacity = DecodeBuffers(model, head, rows, cache), cache.padded_capacity - 1
        device = self.rows.inputs.device
        self.graphs = Graphs(device) if device.type == "cuda" else None
        self._blocks = compiled_blocks_for(device)
        self._bindings: list[RowBinding | None] = [None] * rows

    @torch.inference_mode()
    def read(self, row: int, sequence: TokenSequence) -> None:
        """Let the backbone read the unread part of `sequence` but its last position, which the next step reads.

        Raises PromptTooLongError where the row is too short for it.
        """
        if len(sequence) > self.capacity:
            raise PromptTooLongError(
                f"the sequence is {len(sequence)} positions long and its row holds {self.capacity}."
            )
        sequence.read = min(sequence.read, len(sequence) - 1)  # after a truncation the last position is read again
        unread = sequence.unread[:-1]
        if unread:
            embedded = self.model.embed_sequence(unread)
            self.model.hidden(embedded[None], self.rows.cache.row(row, sequence.read))
            sequence.read += len(unread)

    @torch.inference_mode()
    def decode(self, requests: Sequence[RowRequest]) -> list[DecodeResult]:
        """One step for each row: text requests in one batch, frame requests in another."""
        results: dict[int, DecodeResult] = {}
        for text in (True, False):
            group = [request for request in requests if isinstance(request.request, TextRequest) == text]
            if group:
                results |= self._step(group, text)
        return [results[request.row] for request in requests]

    def _step(self, requests: list[RowRequest], text: bool) -> dict[int, DecodeResult]:
        shape = self._shape(requests, text)
        if self.graphs is not None and (text, shape) not in self.graphs:
            self._write([], shape.batch)  # before a capture the step runs several times, with all rows inactive
            self.graphs.capture((text, shape), lambda: self._run(text, shape))
        self._write(requests, shape.batch)
        if self.graphs is not None:
            self.graphs.replay((text, shape))
        else:
            self._run(text, shape)
        drawn = (self.rows.ids if text else self.rows.codes)[: shape.batch].tolist()  # the only synchronization
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
        samplings = [request.request.sampling for request in requests]
        size = self.model.config.vocab_size if text else max(self.head.codebook_sizes) + 1
        penalise = any(sampling.repetition_penalty != 1.0 for sampling in samplings)
        longest = max(len(request.sequence) for request in requests)
        if self.graphs is None:
            batch, span = max(request.row for request in requests) + 1, -(-longest // SPAN_STEP) * SPAN_STEP
        else:  # buckets, to capture few graphs
            batch = min(bucket(max(request.row for request in requests) + 1), len(self._bindings))
            span = max(_MIN_SPAN, bucket(longest))
        span = min(span, self.rows.cache.padded_capacity)
        flex = self.graphs is not None and span >= _FLEX_FROM
        return StepShape(batch, span, top_k_limit(samplings, size), penalise, flex)

    def _write(self, requests: list[RowRequest], batch: int) -> None:
        """Write the inputs of each row; an inactive row reads id 0 at the scratch position."""
        inputs: list[list[int]] = [[0, self.capacity, 0, 1, 0] for _ in range(batch)]
        settings = [[1.0] * 4 for _ in range(batch)]
        for request in requests:
            binding, token = self._bind(request), request.sequence.tokens[-1]
            id, codes = (self.model.audio_pad_id, token) if isinstance(token, tuple) else (token, ())
            may_end = isinstance(request.request, TextRequest) or request.request.may_end
            inputs[request.row] = [1, request.sequence.read, binding.steps, int(may_end), id, *codes]
            settings[request.row] = sampling_row(request.request.sampling)
            binding.steps += 1
        self.rows.write(inputs, settings)

    def _bind(self, request: RowRequest) -> RowBinding:
        binding = self._bindings[request.row]
        if binding is None or binding.sequence() is not request.sequence:
            if binding is not None:
                binding.leave()
            binding = self._bindings[request.row] = RowBinding(request.sequence, self.rows, request.row)
        binding.prepare(request.sequence, request.request)
        return binding
