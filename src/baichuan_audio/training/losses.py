"""Losses that more than one stage uses."""

from __future__ import annotations

from torch import Tensor

from ..audio_tokenizer.encoder import valid_mask


def masked_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean of values [B, F, ...] over the valid frames [B] and everything behind them."""
    mask = valid_mask(lengths, values.shape[1]).reshape(*values.shape[:2], *[1] * (values.ndim - 2))
    return (values * mask).sum() / (mask.sum() * values[0, 0].numel()).clamp(min=1)


def l1_l2(predicted: Tensor, target: Tensor, lengths: Tensor, l2_weight: float) -> Tensor:
    """L1 plus weighted L2 between mels [B, F, M] over the valid frames [B]."""
    difference = predicted - target
    return masked_mean(difference.abs() + l2_weight * difference.square(), lengths)
