"""Batches of the language model: padded or packed sequences with their targets, and changes to the model's own frames.

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

from ...data.alignment.token_alignment import UNKNOWN
from ...data.sequences import TokenSequence
from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from ...language_model.packed import packed_hidden

_MAX_SPAN = 4  # consecutive frames that are replaced
_COLUMNS = ("codes_at", "generated", "text_at", "text", "frame_at", "frames", "aligned_at", "aligned", "phonemes_at",
            "phonemes", "depth")  # fmt: skip
"""What `collate` concatenates over the sequences."""
_TEMPERATURE = 0.3  # near that of inference with a small model


@dataclass(frozen=True)
class Batch:
    """Sequences padded at the right, or packed one after the other in a single row.

    ids [B, N]; codes [K, P], row after row, at the B * N positions codes_at [P]; generated [P]: which of them the model
    generates. text_at [X] and frame_at [Y] are the positions that predict the ids text [X] and the frames [Y, K]
    (codebook_sizes where the audio ends); aligned_at [Z] those with the text token aligned [Z]; phonemes_at [W] those
    with phonemes [W, PHONES_PER_FRAME]. depth [Y]: frames with losses on codebooks 1.. too.

    names: id and kind of each sequence. lengths: those of a pack, in order; () where rows are padded. numbers: the
    places of a pack's sequences in the step.
    """

    ids: Tensor
    codes: Tensor
    codes_at: Tensor
    generated: Tensor
    text_at: Tensor
    text: Tensor
    frame_at: Tensor
    frames: Tensor
    aligned_at: Tensor
    aligned: Tensor
    phonemes_at: Tensor
    phonemes: Tensor
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
        """The number of targets of each loss that has any: `text`, `alignment`, `phonemes`, `code_0`, `code_1` ..."""
        counts = {"text": len(self.text), "alignment": len(self.aligned), "phonemes": len(self.phonemes)}
        counts["code_0"], depth = len(self.frames), int(self.depth.sum())
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
        aligned = (sequence.aligned != UNKNOWN).nonzero()[:, 0]
        with_phonemes = (sequence.phonemes != UNKNOWN).all(1).nonzero()[:, 0]
        parts.append(
            (
                is_frame.nonzero()[:, 0] + start,
                sequence.audio_loss.roll(1)[is_frame],
                targets - 1 + start,
                sequence.ids[targets],
                before + start,
                with_end[:, index].T,
                aligned + start,
                sequence.aligned[aligned],
                with_phonemes + start,
                sequence.phonemes[with_phonemes],
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


def frame_corruption(batch: Batch, share: float, seed: int, step: int) -> Batch:
    """The batch with about that share of the generated frames, in spans of one to four, replaced by others of them.

    In packs: by others of the same sequence.
    """
    codes = batch.codes.clone()
    for index, rng in _draws(batch, batch.codes_at, seed, step, 2):
        generated = batch.generated[index].numpy()
        replaced = np.flatnonzero(_random_spans(len(index), share, rng) & generated)
        if sources := np.flatnonzero(generated).tolist():
            codes[:, index[replaced]] = batch.codes[:, index[rng.choice(sources, len(replaced))]]
    return replace(batch, codes=codes)


@torch.no_grad()
def scheduled_sampling(
    batch: Batch, language_model: LanguageModel, audio_head: AudioHead, share: float, seed: int, step: int
) -> Batch:
    """The batch with about that share of the generated frames, in spans of one to four, replaced by model samples.

    Each is sampled after the true frames before it, in one pass (scheduled sampling, arXiv 1506.03099).
    """
    draws = [
        (index[spans], rng)
        for index, rng in _draws(batch, batch.codes_at, seed, step, 3)
        if (spans := torch.from_numpy(_random_spans(len(index), share, rng)) & batch.generated[index].cpu()).any()
    ]
    if not draws:
        return batch
    replaced = torch.zeros_like(batch.generated)
    replaced[torch.cat([index for index, _ in draws])] = True
    is_frame = batch.frames[:, 0] != language_model.codebook_sizes[0]  # and not the end of the audio
    chosen = replaced[batch.generated]
    at, frames = batch.frame_at[is_frame][chosen], batch.frames[is_frame][chosen]
    logits = audio_head.logits(_states_at(language_model, batch, at), frames)
    rows = replaced.cumsum(0) - 1
    codes = batch.codes.clone()
    for index, rng in draws:
        samples = [_sample(level[rows[index], :-1].float(), rng) for level in logits]
        codes[:, index] = torch.stack(samples)
    return replace(batch, codes=codes)


def _states_at(language_model: LanguageModel, batch: Batch, at: Tensor) -> Tensor:
    """Hidden states [X, D] at positions [X]; only the sequences that hold them are computed."""
    documents = batch.documents(at).unique()
    inside = torch.isin(batch.documents(torch.arange(batch.ids.numel(), device=at.device)), documents)
    codes = batch.codes[:, inside[batch.codes_at]]
    if batch.lengths:
        lengths = tuple(batch.lengths[document] for document in documents.tolist())
        part = replace(batch, ids=batch.ids[:, inside], codes=codes, lengths=lengths)
    else:
        part = replace(batch, ids=batch.ids[documents], codes=codes)
    return hidden_states(language_model, part)[inside.cumsum(0)[at] - 1]


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
