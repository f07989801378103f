"""Keys and values of many rows in static memory, so that captured graphs can write and read it."""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor

from ...language_model.model import LanguageModel
from ...layers.kv_cache import KVCache, RowPositions
from ..cpu.int8_cache import SCALE_BYTES

SPAN_STEP = 64
"""A decode step attends to a multiple of this many cached positions."""


def empty_store(model: LanguageModel, rows: int, capacity: int) -> Tensor:
    """The memory of a StaticCache with `capacity` positions a row."""
    config, like = model.config, model.norm.weight
    padded_capacity = -(-(capacity + 1) // SPAN_STEP) * SPAN_STEP
    sizes = config.num_hidden_layers, 2, rows, config.key_value_heads, padded_capacity
    if model.int8_cache:
        return zeros((*sizes, config.head_width + SCALE_BYTES), torch.int8, like.device)
    return zeros((*sizes, config.head_width), like.dtype, like.device)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because masked values must be finite. On a CPU a page of them is memory only once it is written to."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, **private)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # a huge page would be longer than all positions of a key head
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class StaticCache:
    """Keys and values [rows, groups, S, w] of every layer, views of store [layers, 2, rows, groups, S, w].

    S: `padded_capacity`.

    The last position is scratch, never part of a sequence: rows that are inactive in a step write there.
    """

    def __init__(self, store: Tensor) -> None:
        self.layers = [(keys, values) for keys, values in store]
        self.padded_capacity = store.shape[4]

    def row(self, row: int, length: int) -> RowCache:
        """One row as a cache for `Backbone.hidden`, to read several positions after the first `length`."""
        return RowCache(self, row, length)


class RowCache(KVCache):
    """One row of a StaticCache with the interface of KVCache."""

    def __init__(self, cache: StaticCache, row: int, length: int) -> None:
        self._cache, self._row, self.length = cache, slice(row, row + 1), length

    @property
    def capacity(self) -> int:
        return self._cache.padded_capacity - 1

    def reserve(self, positions: int) -> None:
        """The row does not grow; raises IndexError where it is full."""
        if self.length + positions > self.capacity:
            raise IndexError(f"{self.length + positions} positions in a row of {self.capacity}")

    def row_positions(self, batch: int, positions: int) -> RowPositions | None:
        """See KVCache."""
        return None

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """See KVCache."""
        end = self.length + key.shape[2]
        keys, values = (tensor[self._row] for tensor in self._cache.layers[layer])
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]
