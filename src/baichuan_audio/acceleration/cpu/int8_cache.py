"""Keys and values in 8 bits: a quarter of the bytes that a step reads of a long history.

Each position of each key head has `w` integers, then their scale, a float32 in 4 bytes (as in `attention.h`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...layers.kv_cache import KVCache

SCALE_BYTES = 4


def encode(x: Tensor) -> Tensor:
    """x [..., w] float32 -> int8 [..., w + 4]."""
    top = x.abs().amax(-1, keepdim=True)
    numbers = (x * (127 / top.clamp(min=1e-30))).round().to(torch.int8)
    return torch.cat([numbers, (top / 127).view(torch.int8)], dim=-1)


def decode(stored: Tensor) -> Tensor:
    """int8 [..., w + 4] -> float32 [..., w]."""
    width = stored.shape[-1] - SCALE_BYTES
    return stored[..., :width].float() * stored[..., width:].contiguous().view(torch.float32)


class Int8KVCache(KVCache):
    """`KVCache` in 8 bits."""

    def __init__(self, layers: int, batch: int, heads: int, head_dim: int, capacity: int = 256) -> None:
        super().__init__(layers, batch, heads, head_dim + SCALE_BYTES, torch.int8, "cpu", capacity)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """See KVCache; what it returns is float32."""
        keys, values = super().append(layer, encode(key), encode(value))
        return decode(keys), decode(values)
