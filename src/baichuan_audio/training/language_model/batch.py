"""Batches of the language model: padded or packed sequences with their targets.

What is drawn at random for a padded batch depends on the seed and the step. In packs it depends on the sequence's place
in the step as well, and so is the same for any split of a step into packs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.sequences import TokenSequence
from ...language_model.model import LanguageModel
from ...language_model.packed import packed_hidden

_COLUMNS = ("codes_at", "text_at", "text", "frame_at", "frames", "depth")
"""What `collate` concatenates over the sequences."""


@dataclass(frozen=True)
class Batch:
    """Sequences padded at the right, or packed one after the other in a single row.

    ids [B, N]; codes [K, P], row after row, at the B * N positions codes_at [P]. text_at [X] and frame_at [Y] are the
    positions that predict the ids text [X] and the frames [Y, K] (codebook_sizes where the audio ends). depth [Y]:
    frames with losses on codebooks 1.. too.

    names: id and kind of each sequence. lengths: those of a pack, in order; () where rows are padded. numbers: the
    places of a pack's sequences in the step.
    """

    ids: Tensor
    codes: Tensor
    codes_at: Tensor
    text_at: Tensor
    text: Tensor
    frame_at: Tensor
    frames: Tensor
    depth: Tensor
    names: tuple[tuple[str, str], ...]
    lengths: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()

    def to(self, device: str) -> Batch:
        tensors: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def documents(self, at: Tensor) -> Tensor:
        """Positions [X] of the B * N -> the sequences [X] that they belong to."""
        if not self.lengths:
            return at // self.ids.shape[1]
        return torch.bucketize(at, torch.tensor(self.lengths, device=at.device).cumsum(0), right=True)

    def counts(self) -> dict[str, int]:
        """The number of targets of each loss that has any: `text`, `code_0`, `code_1` ..."""
        counts, depth = {"text": len(self.text), "code_0": len(self.frames)}, int(self.depth.sum())
        counts |= {f"code_{level}": depth for level in range(1, self.codes.shape[0])}
        return {name: count for name, count in counts.items() if count}


def collate(
    sequences: Sequence[TokenSequence],
    pad_id: int,
    audio_pad_id: int,
    sizes: Sequence[int],
    numbers: Sequence[int] | None = None,
) -> Batch:
    """Sequences -> one batch; `pad_id` must not be audio_pad. With `numbers`, places in the step, they are packed."""
    lengths = [len(sequence) for sequence in sequences]
    padded = max(lengths)
    if numbers is None:
        ids = torch.full((len(sequences), padded), pad_id)
        starts = [row * padded for row in range(len(sequences))]
    else:
        ids = torch.full((1, sum(lengths)), pad_id)
        starts = [0, *np.cumsum(lengths)[:-1].tolist()]
    flat = ids.view(-1)
    parts: list[tuple[Tensor, ...]] = []
    for start, sequence in zip(starts, sequences, strict=True):
        flat[start : start + len(sequence)] = sequence.ids
        targets = sequence.text_loss.nonzero()[:, 0]
        before = sequence.audio_loss.nonzero()[:, 0]
        is_frame = sequence.ids == audio_pad_id
        with_end = torch.cat([sequence.codes, torch.tensor(sizes)[:, None]], dim=1)
        index = torch.where(is_frame[before + 1], is_frame.cumsum(0)[before + 1] - 1, sequence.codes.shape[1])
        parts.append(
            (
                is_frame.nonzero()[:, 0] + start,
                targets - 1 + start,
                sequence.ids[targets],
                before + start,
                with_end[:, index].T,
                torch.ones(len(before), dtype=torch.bool),
            )
        )
    codes = torch.cat([sequence.codes for sequence in sequences], dim=1)
    names = tuple((sequence.id, sequence.kind) for sequence in sequences)
    tensors: dict[str, Any] = dict(zip(_COLUMNS, map(torch.cat, zip(*parts, strict=True)), strict=True))
    batch = Batch(ids=ids, codes=codes, names=names, **tensors)
    return batch if numbers is None else replace(batch, lengths=tuple(lengths), numbers=tuple(numbers))


def hidden_states(language_model: LanguageModel, batch: Batch) -> Tensor:
    """Hidden states [B * N, D] after the final norm."""
    embedded = language_model.embed(batch.ids, batch.codes)
    if batch.lengths:
        return packed_hidden(language_model, embedded, batch.lengths).flatten(0, 1)
    return language_model.hidden(embedded).flatten(0, 1)


def depth_loss_subset(batch: Batch, fraction: float, seed: int, step: int) -> Batch:
    """The batch with losses on all codebooks for that share of its frames only, at least one of each draw."""
    depth = torch.zeros_like(batch.depth)
    for index, rng in _draws(batch, batch.frame_at, seed, step, 1):
        chosen = rng.choice(len(index), max(1, round(fraction * len(index))), replace=False)
        depth[index[torch.from_numpy(chosen)]] = True
    return replace(batch, depth=depth)


def _draws(batch: Batch, at: Tensor, *key: int) -> Iterator[tuple[Tensor, np.random.Generator]]:
    """Indices into the positions `at` [X] that are drawn for together, with their random generator."""
    if not batch.lengths:
        if len(at):
            yield torch.arange(len(at)), np.random.default_rng(key)
        return
    documents = batch.documents(at.cpu())
    for document, number in enumerate(batch.numbers):
        index = (documents == document).nonzero()[:, 0]
        if len(index):
            yield index, np.random.default_rng([*key, number])
