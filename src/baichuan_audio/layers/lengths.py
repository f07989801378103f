"""Masks and means of batches with rows of different lengths."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """[B] lengths -> [B, size] bool, True on valid frames."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def masked_mean(values: Tensor, lengths: Tensor | None) -> Tensor:
    """Mean of values [B, F, ...] over the first `lengths` [B] frames and all other dimensions; None: over all."""
    if lengths is None:
        return values.mean()
    mask = valid_mask(lengths, values.shape[1]).reshape(*values.shape[:2], *[1] * (values.ndim - 2))
    return (values * mask).sum() / (mask.sum() * values[0, 0].numel()).clamp(min=1)
