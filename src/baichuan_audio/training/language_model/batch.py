"""What the language model learns from in one step: sequences side by side, and what of them is learnt."""

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

_LONGEST_LAPSE = 4  # frames of its own speech that are forgotten in a row
_TEMPERATURE = 0.3  # near that at which a small model speaks


@dataclass(frozen=True)
class Batch:
    """Sequences side by side, padded at the right.

    ids [B, N]; codes [K, P], row after row; own [P]: which of them the model speaks itself. text_at [X] and frame_at
    [Y] index the B * N positions that predict the ids text [X] and the frames [Y, K] (codebook_sizes where the audio
    ends); along_at [Z] those that name along [Z]; sounds_at [W] those that name the sounds [W, PLACES] of a frame.
    """

    ids: Tensor
    codes: Tensor
    own: Tensor
    text_at: Tensor
    text: Tensor
    frame_at: Tensor
    frames: Tensor
    along_at: Tensor
    along: Tensor
    sounds_at: Tensor
    sounds: Tensor

    def to(self, device: str) -> Batch:
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def collate(sequences: Sequence[TokenSequence], pad_id: int, audio_pad_id: int, sizes: Sequence[int]) -> Batch:
    """Sequences -> one batch; `pad_id` fills the right and must not be audio_pad."""
    length = max(map(len, sequences))
    ids = torch.full((len(sequences), length), pad_id)
    parts: list[tuple[Tensor, ...]] = []
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence.ids
        learnt = sequence.text_loss.nonzero()[:, 0]
        before = sequence.audio_loss.nonzero()[:, 0]
        is_frame = sequence.ids == audio_pad_id
        with_end = torch.cat([sequence.codes, torch.tensor(sizes)[:, None]], dim=1)
        index = torch.where(is_frame[before + 1], is_frame.cumsum(0)[before + 1] - 1, sequence.codes.shape[1])
        named = (sequence.along != UNKNOWN).nonzero()[:, 0]
        sounding = (sequence.sounds != UNKNOWN).all(1).nonzero()[:, 0]
        parts.append(
            (
                sequence.audio_loss.roll(1)[is_frame],
                learnt - 1 + row * length,
                sequence.ids[learnt],
                before + row * length,
                with_end[:, index].T,
                named + row * length,
                sequence.along[named],
                sounding + row * length,
                sequence.sounds[sounding],
            )
        )
    codes = torch.cat([sequence.codes for sequence in sequences], dim=1)
    return Batch(ids, codes, *(torch.cat(each) for each in zip(*parts, strict=True)))


def frame_corruption(batch: Batch, share: float, seed: int, step: int) -> Batch:
    """The batch with about that share of the model's own frames, one to four in a row, shown as others of its own."""
    rng = np.random.default_rng([seed, step, 2])
    gone = _lapses(len(batch.own), share, rng) & batch.own.numpy()
    codes = batch.codes.clone()
    if own := np.flatnonzero(batch.own).tolist():
        places = np.flatnonzero(gone)
        codes[:, places] = batch.codes[:, rng.choice(own, len(places))]
    return replace(batch, codes=codes)


@torch.no_grad()
def scheduled_sampling(
    batch: Batch, language_model: LanguageModel, audio_head: AudioHead, share: float, seed: int, step: int
) -> Batch:
    """The batch with about that share of the model's own frames, one to four in a row, shown as it would say them.

    In one pass: each such frame is what the model draws after the true ones (scheduled sampling, arXiv 1506.03099).
    """
    rng = np.random.default_rng([seed, step, 3])
    said = torch.from_numpy(_lapses(len(batch.own), share, rng)).to(batch.own.device)[batch.own]
    if not bool(said.any()):
        return batch
    rows = (batch.ids == language_model.audio_pad_id).nonzero()[:, 0]  # of each frame
    talking = rows[batch.own].unique()
    is_frame = batch.frames[:, 0] != language_model.codebook_sizes[0]  # and not the end of the audio
    at, true = batch.frame_at[is_frame][said], batch.frames[is_frame][said]
    hidden = language_model.hidden(language_model.embed(batch.ids[talking], batch.codes[:, torch.isin(rows, talking)]))
    place = torch.searchsorted(talking, at // batch.ids.shape[1])
    logits = audio_head.logits(hidden[place, at % batch.ids.shape[1]], true)
    codes = batch.codes.clone()
    drawn = [_draw(each[:, :-1].float(), rng) for each in logits]
    codes[:, batch.own.nonzero()[:, 0][said]] = torch.stack(drawn)
    return replace(batch, codes=codes)


def _draw(logits: Tensor, rng: np.random.Generator) -> Tensor:
    """logits [X, V] -> an index each [X]."""
    noise = torch.from_numpy(rng.gumbel(scale=_TEMPERATURE, size=tuple(logits.shape))).to(logits)
    return (logits + noise).argmax(-1)


def _lapses(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """[count] bool: about that share of the places, one to four in a row."""
    begins = rng.random(count) < 2 * share / (1 + _LONGEST_LAPSE)
    lengths = np.where(begins, rng.integers(1, _LONGEST_LAPSE, count, endpoint=True), 0)
    gone = np.zeros(count, dtype=bool)
    for place in range(min(_LONGEST_LAPSE, count)):
        gone[place:] |= lengths[: count - place] > place
    return gone


def depth_loss_subset(count: int, fraction: float, seed: int, step: int) -> Tensor:
    """[count] bool: which frames the whole audio head learns from in this step, at least one."""
    rng = np.random.default_rng([seed, step, 1])
    chosen = torch.zeros(count, dtype=torch.bool)
    if count:
        chosen[torch.from_numpy(rng.choice(count, max(1, round(fraction * count)), replace=False))] = True
    return chosen
