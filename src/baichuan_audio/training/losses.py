"""Losses that more than one stage uses."""

from __future__ import annotations

from torch import Tensor

from ..layers.lengths import masked_mean


def l1_l2(predicted: Tensor, target: Tensor, lengths: Tensor, l2_weight: float) -> Tensor:
    """L1 plus weighted L2 between mels [B, F, M] over the valid frames [B]."""
    difference = predicted - target
    return masked_mean(difference.abs() + l2_weight * difference.square(), lengths)
