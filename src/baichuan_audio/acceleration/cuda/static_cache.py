"""Keys and values of many rows in memory that never moves, so that captured graphs can write and read it."""

from __future__ import annotations

from torch import Tensor

from ...language_model.model import LanguageModel
from ...layers.kv_cache import KVCache, RowPositions

SPAN_STEP = 64
"""A step reads cached positions up to a multiple of this."""


def empty_store(model: LanguageModel, rows: int, capacity: int) -> Tensor:
    """The memory of a StaticCache with room for `capacity` positions a row."""
    config, like = model.config, model.embed_tokens.weight
    room = -(-(capacity + 1) // SPAN_STEP) * SPAN_STEP
    # zeros, not empty: what a mask hides must still be a number
    return like.new_zeros(config.num_hidden_layers, 2, rows, config.key_value_heads, room, config.head_width)


class StaticCache:
    """Keys and values [rows, groups, room, head_dim] of every layer, views of store [layers, 2, rows, groups, room, w].

    The last position is scratch, never a sequence's: rows of a batch that take no part in a step write there.
    """

    def __init__(self, store: Tensor) -> None:
        self.layers = [(keys, values) for keys, values in store]
        self.room = store.shape[4]

    def row(self, row: int, length: int) -> RowCache:
        """One row for `Backbone.hidden`: several positions at a time, after the first `length`."""
        return RowCache(self, row, length)


class RowCache(KVCache):
    """One row of a StaticCache with the interface of a cache of its own."""

    def __init__(self, cache: StaticCache, row: int, length: int) -> None:
        self._cache, self._row, self.length = cache, slice(row, row + 1), length

    @property
    def capacity(self) -> int:
        return self._cache.room - 1

    def reserve(self, positions: int) -> None:
        """Nothing grows here; raises IndexError where the row is full."""
        if self.length + positions > self.capacity:
            raise IndexError(f"{self.length + positions} positions in a row of {self.capacity}")

    def row_positions(self, batch: int, positions: int) -> RowPositions | None:
        """See KVCache."""
        return None

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """See KVCache."""
        end = self.length + key.shape[2]
        keys, values = (each[self._row] for each in self._cache.layers[layer])
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]
