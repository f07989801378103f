"""Drawing on the device: `language_model.sampling.draw` for many rows at once, without the host looking at anything.

Chance comes from a counter, not from a generator's hidden state: the number for (seed, step, place) is a hash of the
three (SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). So a row draws the
same whoever shares its batch, a captured graph needs no generator, and the host can compute the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...language_model.sampling import Sampling

MAX_STEP_POSITIONS = 64
"""So many likeliest are sorted where every row's top_k is no larger; else all are."""

_MASK = (1 << 64) - 1
_INCREMENT, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_PLACES = 64  # places that one step may draw for


def _signed(value: int) -> int:
    """The int64 with these 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def uniform(seed: int, step: int, place: int) -> float:
    """A number in [0, 1) for this place of this step, on the host."""
    z = (seed + (step * _PLACES + place + 1) * _INCREMENT) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)


def uniforms(seeds: Tensor, steps: Tensor, row_positions: int) -> Tensor:
    """`uniform` for seeds [B] and steps [B] int64 -> [B, places] float64."""
    counters = steps[:, None] * _PLACES + torch.arange(1, row_positions + 1, device=steps.device)
    z = seeds[:, None] + counters * _signed(_INCREMENT)
    z = (z ^ _shift(z, 30)) * _signed(_FIRST)
    z = (z ^ _shift(z, 27)) * _signed(_SECOND)
    return _shift(z ^ _shift(z, 31), 11).double() / (1 << 53)


def _shift(z: Tensor, bits: int) -> Tensor:
    """int64 shifted right without its sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


class SamplingTensors(NamedTuple):
    """How each row draws, [B, 1] float64 tensors."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    repetition_penalty: Tensor


def sampling_row(sampling: Sampling) -> list[float]:
    """The four settings of one row, in order."""
    top_k = sampling.top_k or float("inf")
    return [sampling.temperature, top_k, sampling.top_p, sampling.repetition_penalty]


def top_k_limit(samplings: Sequence[Sampling], size: int) -> int:
    """How many likeliest must be sorted: MAX_STEP_POSITIONS, or all `size`."""
    few = all(sampling.temperature == 0 or 0 < sampling.top_k <= MAX_STEP_POSITIONS for sampling in samplings)
    return min(MAX_STEP_POSITIONS, size) if few else size


def sample_on_device(
    logits: Tensor, sampling: SamplingTensors, chance: Tensor, limit: int, said: Tensor | None
) -> Tensor:
    """logits [B, V], chance [B] in [0, 1), said [B, V] bool (what the penalty counts) -> indices [B] int64.

    The row's draw is that of `draw` with this chance. `limit` (static) bounds every row's top_k.
    """
    logits = logits.float()
    if said is not None:
        penalty = sampling.repetition_penalty.float()
        logits = torch.where(said, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    values, indices = logits.topk(min(limit, logits.shape[1]))  # likeliest first
    values = values.double()
    weights = ((values - values[:, :1]) / sampling.temperature.clamp(min=1e-9)).exp()
    ranks = torch.arange(values.shape[1], device=logits.device)
    reached = torch.where(ranks < sampling.top_k, weights, 0.0).cumsum(-1)
    last = (reached < sampling.top_p * reached[:, -1:]).sum(-1, keepdim=True).clamp(max=values.shape[1] - 1)
    place = (reached <= chance[:, None] * reached.gather(1, last)).sum(-1, keepdim=True)
    place = torch.where(sampling.temperature == 0, torch.zeros_like(place), torch.minimum(place, last))
    return indices.gather(1, place)[:, 0]
