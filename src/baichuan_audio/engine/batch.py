"""One step of all sequences together: read what is new, then draw an id or a frame for each that waits for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..acceleration import Decoder, RowRequest
from ..generation.sequence import (
    DecodeRequest,
    DecodeResult,
    FrameRequest,
    ReplyProgram,
    TextRequest,
    TokenSequence,
    draw_frames,
    draw_ids,
)
from ..model import BaichuanAudio
from .kv_slots import Piece, SlotCache


@dataclass(eq=False)
class Row:
    """A sequence in its slot, the rules that write it, and what they ask for."""

    slot: int
    sequence: TokenSequence
    program: ReplyProgram
    step: DecodeRequest | None


def batch_for(model: BaichuanAudio, cache: SlotCache) -> Batch | DecoderBatch:
    """What answers steps best: on CUDA the captured steps of an accelerated model, elsewhere the model as it is."""
    return DecoderBatch(model, cache) if model.inference_only and cache.store.is_cuda else Batch(model, cache)


class Batch:
    """Answers the steps of rows that come and go as they like; the weights are the model's own."""

    def __init__(self, model: BaichuanAudio, cache: SlotCache) -> None:
        self._language_model, self._head = model.language_model, model.audio_head
        self.cache = cache
        self._depth_cache = self._head.init_cache(cache.slots)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row], prompt_positions: int) -> list[tuple[Row, DecodeResult]]:
        """Read and draw once for `rows` -> the answers of those that have read all they hold (see `read_on`)."""
        read = read_on(self.cache, rows, prompt_positions)
        ready = [(row, hidden) for row, hidden in read if not row.sequence.unread]
        return [*self._texts(ready), *self._frames(ready)]

    def _texts(self, ready: Sequence[tuple[Row, torch.Tensor]]) -> list[tuple[Row, DecodeResult]]:
        waiting = [(row, row.step, hidden) for row, hidden in ready if isinstance(row.step, TextRequest)]
        if not waiting:
            return []
        rows, steps, hidden = zip(*waiting, strict=True)
        logits = self._language_model.lm_head(torch.stack(hidden))
        return list(zip(rows, draw_ids(logits, [row.sequence for row in rows], steps), strict=True))

    def _frames(self, ready: Sequence[tuple[Row, torch.Tensor]]) -> list[tuple[Row, DecodeResult]]:
        waiting = [(row, row.step, hidden) for row, hidden in ready if isinstance(row.step, FrameRequest)]
        if not waiting:
            return []
        rows, steps, hidden = zip(*waiting, strict=True)
        sequences = [row.sequence for row in rows]
        frames = draw_frames(self._head, torch.stack(hidden), self._depth_cache, sequences, steps)
        return list(zip(rows, frames, strict=True))


class DecoderBatch:
    """A `Batch` whose draws are the steps of a Decoder over the memory of the slots: captured graphs on CUDA.

    All but the last position of a row is read as in `Batch`; the last one is read by the step that draws.
    """

    def __init__(self, model: BaichuanAudio, cache: SlotCache) -> None:
        self.cache = cache
        self._decoder = Decoder(model.language_model, model.audio_head, cache.slots, cache.capacity, cache.store)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row], prompt_positions: int) -> list[tuple[Row, DecodeResult]]:
        """See `Batch.step`."""
        read_on(self.cache, rows, prompt_positions, but=1)
        ready = [row for row in rows if len(row.sequence.unread) == 1]
        for row in ready:
            self.cache.truncate(row.slot, row.sequence.read)
        answers = self._decoder.answer([RowRequest(row.slot, row.sequence, row.step) for row in ready if row.step])
        for row in ready:
            self.cache.add(row.slot, row.sequence.tokens[-1])
        return list(zip(ready, answers, strict=True))


def read_on(
    cache: SlotCache, rows: Sequence[Row], prompt_positions: int, but: int = 0
) -> list[tuple[Row, torch.Tensor]]:
    """Read in one pass what waits in `rows` but each one's last `but` positions -> who has read, and the hidden [D].

    A row with more than a few unread positions (a prompt) reads at most what is left of `prompt_positions`, first
    come first served, and draws in a later step.
    """
    pieces: list[tuple[Row, Piece]] = []
    left = prompt_positions
    for row in rows:
        unread = row.sequence.tokens[row.sequence.read : len(row.sequence) - but]
        if len(unread) > _FEW:
            unread = unread[:left]
            left -= len(unread)
        if unread:
            pieces.append((row, Piece(row.slot, unread)))
    if not pieces:
        return []
    pieces.sort(key=lambda each: each[0].slot)  # neighbours in memory, where all slots are in use
    for row, _ in pieces:
        cache.truncate(row.slot, row.sequence.read)  # what was read and then cut off
    hidden = cache.read([piece for _, piece in pieces])
    for row, piece in pieces:
        row.sequence.read += len(piece.tokens)
    return [(row, hidden[place]) for place, (row, _) in enumerate(pieces)]


_FEW = 4
"""Unread positions that a row in the midst of a reply may have: an id and the marks around an audio segment."""
