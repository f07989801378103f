"""Mel losses of the tokenizer: L1 and L2 of the coarse and the refined mel, at two scales (docs/model.md, 8)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ...audio.mel import MelConfig, natural_log_mel
from ...audio_tokenizer import AudioTokenizer
from ...layers.lengths import valid_mask
from ..common.distributed.world import ALONE, World


def decode_rows(tokenizer: AudioTokenizer, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """vectors [B, T, W], of which `lengths` [B] are valid -> coarse and refined mel [B, F, M], their valid frames [B].

    Each row as if it were alone: the mel branch normalises over a whole segment, which padding must not be part of.
    """
    decoder, embeddings = tokenizer.decoder, tokenizer.bridge.project(vectors)
    together = None if decoder.config.segment_norm else decoder.hidden(embeddings)
    mels = []
    for row, length in enumerate(lengths.tolist()):
        if together is None:
            hidden = decoder.hidden(embeddings[row : row + 1, :length])
        else:
            hidden = together[row : row + 1, : decoder.hidden_frames(length)]
        mels.append([mel[0].float() for mel in decoder.mels(hidden)])
    coarse, refined = (pad_sequence(list(rows), batch_first=True) for rows in zip(*mels, strict=True))
    return coarse, refined, torch.tensor([len(mel) for mel, _ in mels], device=vectors.device)


def mel_losses(
    mels: tuple[Tensor, Tensor, Tensor],
    waveforms: Tensor,
    samples: Tensor,
    mel: MelConfig,
    floor: float,
    l2: float,
    run: World = ALONE,
) -> dict[str, Tensor]:
    """`coarse_mel`, `refined_mel` and `second_scale`: L1 plus `l2` times L2 in nats, of what `decode_rows` gives; each
    is this process's part of a mean over the rows of all processes.

    waveforms [B, S] with samples [B] are the recordings, `floor` the magnitude below which their mel counts as this.
    """
    coarse, refined, mel_lengths = mels
    target = natural_log_mel(waveforms, mel).transpose(1, 2).clamp(min=math.log(floor))
    wide = natural_log_mel(waveforms, _second_scale(mel)).transpose(1, 2).clamp(min=math.log(floor))
    frames = min(target.shape[1], coarse.shape[1])
    lengths = torch.minimum(samples // mel.hop_length, mel_lengths).clamp(max=frames)
    pairs = min(frames // 2, wide.shape[1])
    halves = (lengths // 2).clamp(max=pairs)
    wide = level_with(wide[:, :pairs], _halved(target, pairs), halves)
    return {
        "coarse_mel": _l1_l2(coarse[:, :frames], target[:, :frames], lengths, l2, run),
        "refined_mel": _l1_l2(refined[:, :frames], target[:, :frames], lengths, l2, run),
        "second_scale": _l1_l2(_halved(refined, pairs), wide, halves, l2, run),
    }


def level_with(wide: Tensor, narrow: Tensor, lengths: Tensor) -> Tensor:
    """The mel `wide` [B, F, M] moved to the mean that `narrow` has in each band over the valid frames [B].

    A window twice as long raises magnitudes, of a tone by ln 2 and of noise by ln 2√2: without this, a mel that is
    right at the first scale would be wrong at the second.
    """
    mask = valid_mask(lengths, wide.shape[1])[..., None]
    return wide - ((wide - narrow) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def _halved(mel: Tensor, pairs: int) -> Tensor:
    """[B, F, M] -> the means of its first `pairs` pairs of frames [B, pairs, M]."""
    return F.avg_pool1d(mel[:, : 2 * pairs].transpose(1, 2), 2).transpose(1, 2)


def _l1_l2(predicted: Tensor, target: Tensor, lengths: Tensor, l2: float, run: World) -> Tensor:
    """L1 plus weighted L2 between mels [B, F, M] over the valid frames [B]."""
    difference = (predicted - target)[valid_mask(lengths, predicted.shape[1])]
    return run.mean_part((difference.abs() + l2 * difference.square()).sum(), difference.numel())


def _second_scale(mel: MelConfig) -> MelConfig:
    return MelConfig(mel.sample_rate, 2 * mel.n_fft, 2 * mel.hop_length, mel.num_mel_bins, mel.f_min, mel.f_max)
