"""One step of all sequences together: read what is new, then draw an id or a frame for each that waits for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..language_model.sequence import Answer, FrameStep, LiveSequence, Rules, Step, TextStep, draw_frames, draw_ids
from ..pipeline import BaichuanAudio
from .slots import Piece, SlotCache


@dataclass(eq=False)
class Row:
    """A sequence in its slot, the rules that write it, and what they ask for."""

    slot: int
    sequence: LiveSequence
    rules: Rules
    step: Step | None


class Batch:
    """Answers the steps of rows that come and go as they like; the weights are the model's own."""

    def __init__(self, model: BaichuanAudio, cache: SlotCache) -> None:
        self._language_model, self._head = model.language_model, model.audio_head
        self.cache = cache
        self._depth_cache = self._head.init_cache(cache.slots)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row], prompt_positions: int) -> list[tuple[Row, Answer]]:
        """Read and draw once for `rows` -> the answers of those that have read all they hold.

        A row with more than a few unread positions (a prompt) reads at most what is left of `prompt_positions`, first
        come first served, and draws in a later step.
        """
        pieces: list[tuple[Row, Piece]] = []
        left = prompt_positions
        for row in rows:
            unread = row.sequence.unread
            if len(unread) > _FEW:
                unread = unread[:left]
                left -= len(unread)
            if unread:
                pieces.append((row, Piece(row.slot, unread)))
        pieces.sort(key=lambda each: each[0].slot)  # neighbours in memory, where all slots are in use
        for row, _ in pieces:
            self.cache.truncate(row.slot, row.sequence.read)  # what was read and then cut off
        hidden = self.cache.read([piece for _, piece in pieces])
        for row, piece in pieces:
            row.sequence.read += len(piece.tokens)
        ready = [(row, hidden[place]) for place, (row, _) in enumerate(pieces) if not row.sequence.unread]
        return [*self._texts(ready), *self._frames(ready)]

    def _texts(self, ready: Sequence[tuple[Row, torch.Tensor]]) -> list[tuple[Row, Answer]]:
        waiting = [(row, row.step, hidden) for row, hidden in ready if isinstance(row.step, TextStep)]
        if not waiting:
            return []
        rows, steps, hidden = zip(*waiting, strict=True)
        logits = self._language_model.lm_head(torch.stack(hidden))
        return list(zip(rows, draw_ids(logits, [row.sequence for row in rows], steps), strict=True))

    def _frames(self, ready: Sequence[tuple[Row, torch.Tensor]]) -> list[tuple[Row, Answer]]:
        waiting = [(row, row.step, hidden) for row, hidden in ready if isinstance(row.step, FrameStep)]
        if not waiting:
            return []
        rows, steps, hidden = zip(*waiting, strict=True)
        sequences = [row.sequence for row in rows]
        frames = draw_frames(self._head, torch.stack(hidden), self._depth_cache, sequences, steps)
        return list(zip(rows, frames, strict=True))


_FEW = 4
"""Unread positions that a row in the midst of a reply may have: an id and the marks around an audio segment."""
