"""Initialisation of attention over sinusoidal positions: each head attends a fixed number of frames away.

A Transformer drawn at random needs thousands of steps to find out that neighbouring frames matter. Queries and keys
that read only the fast sines and cosines of the position, the query's turned by some frames, give each head a window
there: the layer begins as a kind of convolution and unlearns that where something else is better. (In the spirit of
mimetic initialisation, arXiv 2305.09828.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ...layers.attention import TransformerLayer

BOTH_SIDES = ((-2, -1, 1, 2), (-3, -1, 1, 3), (-5, -2, 2, 5), (-8, -2, 2, 8))
"""Frames that the heads of each layer look away from themselves; for layers that see the whole piece."""
PAST = ((0, -1, -2, -3), (0, -1, -3, -6), (0, -1, -2, -4))
"""The same for causal layers."""
_SHARPNESS = 1.1
_KEPT = 0.3  # of what was drawn at random


@torch.no_grad()
def local_attention_init(layers: nn.ModuleList, offsets: Sequence[Sequence[int]]) -> None:
    """Set the query and key projections of Transformer layers over sinusoidal positions (Whisper's order)."""
    for index, layer in enumerate(layers):
        attention = cast(TransformerLayer, layer).self_attn
        width = attention.q_proj.weight.shape[0]
        head = width // attention.heads
        for number in range(attention.heads):
            away = offsets[index % len(offsets)][number % len(offsets[0])]
            query, key = _window(away, width, head)
            rows = slice(number * head, (number + 1) * head)
            for projection, window in ((attention.q_proj, query), (attention.k_proj, key)):
                projection.weight[rows] = _KEPT * projection.weight[rows] + _SHARPNESS * window.to(projection.weight)
            attention.q_proj.bias[rows] = 0


def _window(away: int, width: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key matrices [head, width] whose product is largest where key position - query position = away."""
    half = width // 2
    pairs = min(head // 2, half)
    rates = torch.exp(-math.log(10000) / (half - 1) * torch.arange(pairs, dtype=torch.float32))
    places = torch.arange(pairs)
    query, key = torch.zeros(head, width), torch.zeros(head, width)
    key[2 * places, places] = 1.0
    key[2 * places + 1, half + places] = 1.0
    cos, sin = torch.cos(rates * away), torch.sin(rates * away)
    query[2 * places, places], query[2 * places, half + places] = cos, sin
    query[2 * places + 1, half + places], query[2 * places + 1, places] = cos, -sin
    return query, key
