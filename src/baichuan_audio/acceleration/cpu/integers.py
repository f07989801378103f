"""Weights and activations as small integers with scales, and in numpy the product that `products.h` agrees with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GROUP = 32
"""Inputs that share a scale: of 4-bit weights, and of activations."""
_FRACTIONS = (1.0, 0.94, 0.88, 0.82, 0.76)


def round_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in] -> int8 [out, in in whole groups], scale [out] float32: one a row."""
    scale = weight.abs().amax(1).clamp(min=1e-12) / 127
    numbers = (weight / scale[:, None]).round().to(torch.int8)
    return F.pad(numbers, (0, -weight.shape[1] % GROUP)), scale


def round_to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in] -> int8 in -8..7 [out, in in whole groups], scales [out, groups] bfloat16: one a group.

    The largest weight of a group becomes -8, or less where a smaller scale has the smaller squared error.
    """
    groups = F.pad(weight, (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    extreme = groups.gather(2, groups.abs().argmax(2, keepdim=True)) / -8
    best = torch.full_like(extreme, torch.inf)
    numbers, scales = torch.zeros_like(groups, dtype=torch.int8), torch.zeros_like(extreme)
    for fraction in _FRACTIONS:
        tried = extreme * fraction
        rounded = (groups / torch.where(tried == 0, 1.0, tried)).round().clamp(-8, 7)
        # the scale that suits these integers best
        scale = (groups * rounded).sum(2, keepdim=True) / rounded.square().sum(2, keepdim=True).clamp(min=1)
        scale = scale.bfloat16().float()
        error = (rounded * scale - groups).square().sum(2, keepdim=True)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, scale, scales)
        numbers = torch.where(better, rounded.to(torch.int8), numbers)
    return numbers.flatten(1), scales[..., 0].bfloat16()


def round_activations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [rows, in] float32 -> int32 in -127..127 [rows, groups, GROUP], scales [rows, groups] float32."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % GROUP))).reshape(len(x), -1, GROUP)
    top = np.abs(padded).max(2)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    # in float64, where the product is exact: the kernel multiplies and rounds in one operation
    return np.rint(padded.astype(np.float64) * inverse[..., None]).astype(np.int32), top / np.float32(127)


def integer_product(x: np.ndarray, numbers: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The reference path: x [rows, in] times weights of `round_to_int8` or `round_to_int4` -> [rows, out] float32.

    scale: [out] or [out, groups], float32.
    """
    rounded, scales = round_activations(x)
    weights = numbers.astype(np.int32).reshape(len(numbers), -1, GROUP)
    sums = np.einsum("rgi,ogi->rog", rounded, weights)
    if scale.ndim == 1:
        return np.asarray((sums * scales[:, None]).sum(2, dtype=np.float32) * scale, np.float32)
    return (sums * (scales[:, None] * scale)).sum(2).astype(np.float32)
