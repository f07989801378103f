"""A step's batch cut into the parts of processes and micro-batches, without a change to what is drawn or counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...data.alignment.phone_alignment import PHONES_PER_FRAME
from .batch import Batch


def rows_of(batch: Batch, depth_subset: Tensor, rows: Sequence[int], audio_pad_id: int) -> tuple[Batch, Tensor]:
    """Some rows of a batch, ascending, and their part of `depth_subset` [Y]. No rows: the first one, without targets.

    A process without a sequence takes part in the step all the same, since the others wait for it.
    """
    count, length = batch.ids.shape
    kept = list(rows) or [0]
    new_row = torch.full((count,), -1)
    new_row[kept] = torch.arange(len(kept))
    of_frame = torch.arange(count).repeat_interleave((batch.ids == audio_pad_id).sum(1))
    frame_kept = new_row[of_frame] >= 0

    def kept_positions(at: Tensor) -> tuple[Tensor, Tensor]:
        row = new_row[at // length] if rows else torch.full_like(at, -1)
        inside = row >= 0
        return inside, row[inside] * length + at[inside] % length

    text, text_at = kept_positions(batch.text_at)
    frames, frame_at = kept_positions(batch.frame_at)
    aligned, aligned_at = kept_positions(batch.aligned_at)
    phonemes, phonemes_at = kept_positions(batch.phonemes_at)
    part = Batch(
        batch.ids[kept],
        batch.codes[:, frame_kept],
        batch.generated[frame_kept],
        text_at,
        batch.text[text],
        frame_at,
        batch.frames[frames],
        aligned_at,
        batch.aligned[aligned],
        phonemes_at,
        batch.phonemes[phonemes],
    )
    return part, depth_subset[frames]


@dataclass(frozen=True)
class StepBatch:
    """A step's whole batch, the same on every process: names [B] of its sequences and their lengths [B]."""

    batch: Batch
    depth_subset: Tensor
    names: Sequence[str]
    lengths: Sequence[int]
    audio_pad_id: int

    @cached_property
    def counts(self) -> dict[str, int]:
        """`target_counts` of the step."""
        return target_counts(self.batch, self.depth_subset)

    def rows(self, rows: Sequence[int]) -> tuple[Batch, Tensor]:
        """`rows_of` this batch."""
        return rows_of(self.batch, self.depth_subset, rows, self.audio_pad_id)


def target_counts(batch: Batch, depth_subset: Tensor) -> dict[str, int]:
    """Number of targets of each kind of loss; `codes`: of codebooks 1.., which only `depth_subset` [Y] has."""
    return {
        "text": len(batch.text),
        "alignment": len(batch.aligned),
        "phonemes": len(batch.phonemes) * PHONES_PER_FRAME,
        "code_0": len(batch.frames),
        "codes": int(depth_subset.sum()),
    }
