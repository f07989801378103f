"""Batches of the language model: padded sequences with their targets, and changes to the model's own frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...data.alignment.token_alignment import UNKNOWN
from ...data.sequences import TokenSequence
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel

_MAX_SPAN = 4  # consecutive frames that are replaced
_TEMPERATURE = 0.3  # near that of inference with a small model


@dataclass(frozen=True)
class Batch:
    """Sequences padded at the right.

    ids [B, N]; codes [K, P], row after row; generated [P]: which of them the model generates. text_at [X] and frame_at
    [Y] index the B * N positions that predict the ids text [X] and the frames [Y, K] (codebook_sizes where the audio
    ends); aligned_at [Z] those with the text token aligned [Z]; phonemes_at [W] those with phonemes
    [W, PHONES_PER_FRAME].
    """

    ids: Tensor
    codes: Tensor
    generated: Tensor
    text_at: Tensor
    text: Tensor
    frame_at: Tensor
    frames: Tensor
    aligned_at: Tensor
    aligned: Tensor
    phonemes_at: Tensor
    phonemes: Tensor

    def to(self, device: str) -> Batch:
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def collate(sequences: Sequence[TokenSequence], pad_id: int, audio_pad_id: int, sizes: Sequence[int]) -> Batch:
    """Sequences -> one batch; `pad_id` must not be audio_pad."""
    length = max(map(len, sequences))
    ids = torch.full((len(sequences), length), pad_id)
    parts: list[tuple[Tensor, ...]] = []
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence.ids
        targets = sequence.text_loss.nonzero()[:, 0]
        before = sequence.audio_loss.nonzero()[:, 0]
        is_frame = sequence.ids == audio_pad_id
        with_end = torch.cat([sequence.codes, torch.tensor(sizes)[:, None]], dim=1)
        index = torch.where(is_frame[before + 1], is_frame.cumsum(0)[before + 1] - 1, sequence.codes.shape[1])
        aligned = (sequence.aligned != UNKNOWN).nonzero()[:, 0]
        with_phonemes = (sequence.phonemes != UNKNOWN).all(1).nonzero()[:, 0]
        parts.append(
            (
                sequence.audio_loss.roll(1)[is_frame],
                targets - 1 + row * length,
                sequence.ids[targets],
                before + row * length,
                with_end[:, index].T,
                aligned + row * length,
                sequence.aligned[aligned],
                with_phonemes + row * length,
                sequence.phonemes[with_phonemes],
            )
        )
    codes = torch.cat([sequence.codes for sequence in sequences], dim=1)
    return Batch(ids, codes, *(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def frame_corruption(batch: Batch, share: float, seed: int, step: int) -> Batch:
    """The batch with about that share of the generated frames, in spans of one to four, replaced by others of them."""
    rng = np.random.default_rng([seed, step, 2])
    replaced = np.flatnonzero(_random_spans(len(batch.generated), share, rng) & batch.generated.numpy())
    codes = batch.codes.clone()
    if generated := np.flatnonzero(batch.generated).tolist():
        codes[:, replaced] = batch.codes[:, rng.choice(generated, len(replaced))]
    return replace(batch, codes=codes)


@torch.no_grad()
def scheduled_sampling(
    batch: Batch, language_model: LanguageModel, audio_head: AudioHead, share: float, seed: int, step: int
) -> Batch:
    """The batch with about that share of the generated frames, in spans of one to four, replaced by model samples.

    Each is sampled after the true frames before it, in one pass (scheduled sampling, arXiv 1506.03099).
    """
    rng = np.random.default_rng([seed, step, 3])
    replaced = torch.from_numpy(_random_spans(len(batch.generated), share, rng)).to(batch.generated.device)
    replaced = replaced[batch.generated]
    if not bool(replaced.any()):
        return batch
    row_of_frame = (batch.ids == language_model.audio_pad_id).nonzero()[:, 0]
    rows = row_of_frame[batch.generated].unique()
    is_frame = batch.frames[:, 0] != language_model.codebook_sizes[0]  # and not the end of the audio
    at, frames = batch.frame_at[is_frame][replaced], batch.frames[is_frame][replaced]
    input_codes = batch.codes[:, torch.isin(row_of_frame, rows)]
    hidden = language_model.hidden(language_model.embed(batch.ids[rows], input_codes))
    row = torch.searchsorted(rows, at // batch.ids.shape[1])
    logits = audio_head.logits(hidden[row, at % batch.ids.shape[1]], frames)
    codes = batch.codes.clone()
    samples = [_sample(level[:, :-1].float(), rng) for level in logits]
    codes[:, batch.generated.nonzero()[:, 0][replaced]] = torch.stack(samples)
    return replace(batch, codes=codes)


def _sample(logits: Tensor, rng: np.random.Generator) -> Tensor:
    """logits [X, V] -> sampled indices [X]."""
    noise = torch.from_numpy(rng.gumbel(scale=_TEMPERATURE, size=tuple(logits.shape))).to(logits)
    return (logits + noise).argmax(-1)


def _random_spans(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """[count] bool: about that share, in spans of one to four."""
    begins = rng.random(count) < 2 * share / (1 + _MAX_SPAN)
    lengths = np.where(begins, rng.integers(1, _MAX_SPAN, count, endpoint=True), 0)
    inside = np.zeros(count, dtype=bool)
    for offset in range(min(_MAX_SPAN, count)):
        inside[offset:] |= lengths[: count - offset] > offset
    return inside


def depth_loss_subset(count: int, fraction: float, seed: int, step: int) -> Tensor:
    """[count] bool: the frames with losses on all codebooks in this step, at least one."""
    rng = np.random.default_rng([seed, step, 1])
    subset = torch.zeros(count, dtype=torch.bool)
    if count:
        subset[torch.from_numpy(rng.choice(count, max(1, round(fraction * count)), replace=False))] = True
    return subset
