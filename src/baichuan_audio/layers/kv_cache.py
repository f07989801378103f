"""Key-value cache of attention layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RowPositions(NamedTuple):
    """Where the keys and values of new positions go: store [layers, 2, rows, heads, capacity, head_dim], and the row
    and the position in it of each, [T] int64. Each position attends to those of its row up to itself."""

    store: Tensor
    rows: Tensor
    positions: Tensor


class KVCache:
    """Keys and values of every layer, [B, heads, length, head_dim] each; grows by doubling, so appending is O(1).

    Each layer appends its own; `advance` then counts the new positions, once for all layers.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
        capacity: int = 256,
    ) -> None:
        self.length = 0  # cached positions
        self._store = torch.empty(layers, 2, batch, heads, capacity, head_dim, dtype=dtype, device=device)

    @property
    def capacity(self) -> int:
        """Positions for which memory is allocated."""
        return self._store.shape[4]

    def reserve(self, positions: int) -> None:
        """Allocate memory for `positions` more; call it once before the layers append."""
        needed = self.length + positions
        if needed > self.capacity:
            shape = list(self._store.shape)
            shape[4] = max(needed, 2 * self.capacity)
            grown = self._store.new_empty(shape)
            grown[..., : self.length, :] = self._store[..., : self.length, :]
            self._store = grown

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """key, value [B, heads, N, head_dim] of new positions -> all of them [B, heads, length + N, head_dim]."""
        end = self.length + key.shape[2]
        keys, values = self._store[layer]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def row_positions(self, batch: int, positions: int) -> RowPositions | None:
        """For `positions` more in each of the `batch` rows, after `reserve`; None where memory is not one block."""
        device = self._store.device
        new = torch.arange(self.length, self.length + positions, device=device).repeat(batch)
        return RowPositions(self._store, torch.arange(batch, device=device).repeat_interleave(positions), new)

    def advance(self, positions: int) -> None:
        """Count `positions` that every layer has appended."""
        self.length += positions

    def truncate(self, length: int) -> None:
        """Keep only the first `length` positions."""
        self.length = min(self.length, length)
