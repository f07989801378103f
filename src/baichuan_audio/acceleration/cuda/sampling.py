"""Sampling on the device: `language_model.sampling.draw` for many rows at once, without a host synchronization.

Random numbers come from a counter, not from a generator's state: the number for (seed, step, index) is a hash of the
three (SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). So a row draws the
same in any batch, a captured graph needs no generator, and the host can compute the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...language_model.sampling import Sampling

MAX_TOP_K = 64
"""Only this many logits are sorted where no row has a larger top_k; otherwise all are."""

_MASK = (1 << 64) - 1
_INCREMENT, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MAX_DRAWS = 64  # numbers that one step may draw


def _signed(value: int) -> int:
    """The int64 with these 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def uniform(seed: int, step: int, index: int) -> float:
    """Number `index` of a step in [0, 1), computed on the host."""
    z = (seed + (step * _MAX_DRAWS + index + 1) * _INCREMENT) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)


def uniforms(seeds: Tensor, steps: Tensor, count: int) -> Tensor:
    """`uniform` for seeds [B] and steps [B] int64 -> [B, count] float64."""
    counters = steps[:, None] * _MAX_DRAWS + torch.arange(1, count + 1, device=steps.device)
    z = seeds[:, None] + counters * _signed(_INCREMENT)
    z = (z ^ _shift(z, 30)) * _signed(_FIRST)
    z = (z ^ _shift(z, 27)) * _signed(_SECOND)
    return _shift(z ^ _shift(z, 31), 11).double() / (1 << 53)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


class SamplingTensors(NamedTuple):
    """Sampling parameters of each row, [B, 1] float64 tensors."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    repetition_penalty: Tensor


def sampling_row(sampling: Sampling) -> list[float]:
    """The four sampling parameters of one row, in order."""
    top_k = sampling.top_k or float("inf")
    return [sampling.temperature, top_k, sampling.top_p, sampling.repetition_penalty]


def top_k_limit(samplings: Sequence[Sampling], size: int) -> int:
    """How many logits must be sorted: MAX_TOP_K, or all `size`."""
    bounded = all(sampling.temperature == 0 or 0 < sampling.top_k <= MAX_TOP_K for sampling in samplings)
    return min(MAX_TOP_K, size) if bounded else size


def sample_on_device(
    logits: Tensor, sampling: SamplingTensors, uniform: Tensor, limit: int, seen: Tensor | None
) -> Tensor:
    """logits [B, V], uniform [B] in [0, 1), seen [B, V] bool (what the penalty applies to) -> indices [B] int64.

    Each row gets the result of `draw` with this uniform number. `limit` (static) bounds the top_k of every row.
    """
    logits = logits.float()
    if seen is not None:
        penalty = sampling.repetition_penalty.float()
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    values, indices = logits.topk(min(limit, logits.shape[1]))  # most likely first
    values = values.double()
    weights = ((values - values[:, :1]) / sampling.temperature.clamp(min=1e-9)).exp()
    ranks = torch.arange(values.shape[1], device=logits.device)
    reached = torch.where(ranks < sampling.top_k, weights, 0.0).cumsum(-1)
    last = (reached < sampling.top_p * reached[:, -1:]).sum(-1, keepdim=True).clamp(max=values.shape[1] - 1)
    rank = (reached <= uniform[:, None] * reached.gather(1, last)).sum(-1, keepdim=True)
    rank = torch.where(sampling.temperature == 0, torch.zeros_like(rank), torch.minimum(rank, last))
    return indices.gather(1, rank)[:, 0]
