"""Keys and values of many sequences in one block of memory, allocated once: a slot for each sequence.

A slot records which tokens are cached. A new prompt is compared with them, and with those of the other slots: a common
prefix is kept, or copied, and not read again. So deleting an item, truncating a reply, another system text and a
dialogue that begins like an earlier one need no special case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..acceleration.cpu.int8_cache import decode, encode
from ..acceleration.cuda.static_cache import empty_store
from ..generation.sequence import Token, common_length
from ..language_model.backbone import attend_to
from ..language_model.model import LanguageModel
from ..layers.kv_cache import RowPositions


@dataclass(frozen=True)
class SlotTokens:
    """Tokens to read next in one slot, at least one."""

    slot: int
    tokens: Sequence[Token]


class SlotCache:
    """store [layers, 2, slots, kv heads, padded capacity, head_dim]: `capacity` positions and scratch for a Decoder.

    On a GPU, attention of all rows with one new position is one call, with a mask up to the longest of them; on a CPU
    each row is attended to separately over its length, which avoids copies and masked computation.
    """

    def __init__(self, model: LanguageModel, slots: int, capacity: int) -> None:
        self.store = empty_store(model, slots, capacity)
        self.slots, self.capacity = slots, capacity
        self.batched_attention = self.store.device.type != "cpu"
        self._model = model
        self._tokens: list[list[Token]] = [[] for _ in range(slots)]
        self._adapters: list[str | None] = [None] * slots

    def length(self, slot: int) -> int:
        """Positions cached in `slot`."""
        return len(self._tokens[slot])

    def truncate(self, slot: int, length: int) -> None:
        """Keep only the first `length` positions of `slot`."""
        del self._tokens[slot][length:]

    def add(self, slot: int, token: Token) -> None:
        """Record that `token` was read next in `slot`; its keys and values are in `store` already."""
        self._tokens[slot].append(token)

    def prepare(self, slot: int, tokens: Sequence[Token], adapter: str | None = None) -> int:
        """Prepare `slot` to read `tokens` with the model of `adapter` -> the number of them that are cached.

        Keys and values of another adapter are of no use. At least the last token is left to read: the next step needs
        its hidden state, which is not cached.
        """
        if self._adapters[slot] != adapter:
            self._adapters[slot], self._tokens[slot] = adapter, []
        current = common_length(self._tokens[slot], tokens)
        alike = [other for other in range(self.slots) if self._adapters[other] == adapter]
        best, source = max((common_length(self._tokens[other], tokens), other) for other in alike)
        if best > current:
            self.store[:, :, slot, :, current:best] = self.store[:, :, source, :, current:best]
            self._tokens[slot] = list(tokens[:best])
        else:
            best = current
        best = min(best, len(tokens) - 1)
        self.truncate(slot, best)
        return best

    def read(self, chunks: Sequence[SlotTokens], model: LanguageModel | None = None) -> Tensor:
        """Read the chunks of different slots in one pass -> hidden [B, D] after the last position of each.

        model: which reads them, of the sizes of the one that the cache was made for, which does by default.

        The positions of all rows are concatenated in one row of embeddings; only attention separates them.
        """
        model = model or self._model
        counts = [len(chunk.tokens) for chunk in chunks]
        starts = [self.length(chunk.slot) for chunk in chunks]
        device = self.store.device
        embedded = model.embed_sequence([token for chunk in chunks for token in chunk.tokens])
        positions = torch.tensor(
            [start + i for start, count in zip(starts, counts, strict=True) for i in range(count)], device=device
        )
        slot_of = torch.tensor(
            [chunk.slot for chunk, count in zip(chunks, counts, strict=True) for _ in range(count)], device=device
        )
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        if max(ends) > self.capacity:
            raise ValueError(f"a slot holds {self.capacity} positions, not {max(ends)}")
        cos, sin = model.rotary(max(ends), embedded)
        slots = [chunk.slot for chunk in chunks]
        context = _SlotContext(cos[positions], sin[positions], self, slot_of, positions, slots, starts, counts)
        hidden = model.run(embedded[None], context)[0]
        for chunk in chunks:
            self._tokens[chunk.slot] += chunk.tokens
        return hidden[torch.tensor(counts, device=device).cumsum(0) - 1]


class _SlotContext:
    """One pass over the concatenated rows of different slots, lengths and positions (see `backbone.Context`)."""

    def __init__(
        self,
        cos: Tensor,
        sin: Tensor,
        cache: SlotCache,
        slot_of: Tensor,
        positions: Tensor,
        slots: list[int],
        starts: list[int],
        counts: list[int],
    ) -> None:
        self.cos, self.sin, self._store = cos, sin, cache.store
        self._slot_of, self._positions = slot_of, positions
        self._rows = list(zip(slots, starts, counts, strict=True))
        batched = cache.batched_attention and max(counts) == 1 and len(slots) > 1
        self._mask = self._length_mask([start + 1 for start in starts]) if batched else None
        # adjacent slots in order are one view; others are gathered
        self._is_view = slots == list(range(slots[0], slots[0] + len(slots)))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [1, heads, T, w], key and value [1, groups, T, w], T positions of all rows -> [1, heads, T, w]."""
        keys, values = self._store[layer]
        in_int8 = keys.dtype == torch.int8
        for store, new in ((keys, key), (values, value)):
            store[self._slot_of, :, self._positions] = (encode(new) if in_int8 else new)[0].transpose(0, 1)
        if self._mask is not None:
            longest = self._mask.shape[-1]
            mixed = attend_to(
                query.transpose(0, 2), self._gather(keys, longest), self._gather(values, longest), self._mask
            )
            return mixed.transpose(0, 2)
        parts, first = [], 0
        for slot, start, count in self._rows:
            end = start + count
            row = query[:, :, first : first + count]
            mask = None
            if count > 1:
                mask = torch.ones(count, end, dtype=torch.bool, device=row.device).tril(start)
            row_keys, row_values = keys[None, slot, :, :end], values[None, slot, :, :end]
            if in_int8:
                row_keys, row_values = decode(row_keys), decode(row_values)
            parts.append(attend_to(row, row_keys, row_values, mask))
            first += count
        return torch.cat(parts, dim=2)

    def row_positions(self, batch: int) -> RowPositions | None:
        """See `backbone.Context`."""
        return RowPositions(self._store, self._slot_of, self._positions)

    def _gather(self, store: Tensor, longest: int) -> Tensor:
        """store [slots, groups, padded capacity, w] -> [B, groups, longest, w]."""
        if self._is_view:
            first = self._rows[0][0]
            return store[first : first + len(self._rows), :, :longest]
        return store[self._slot_of, :, :longest]

    def _length_mask(self, lengths: list[int]) -> Tensor:
        """[B, 1, 1, longest] bool, True where a row has positions."""
        positions = torch.arange(max(lengths), device=self._store.device)
        return (positions < torch.tensor(lengths, device=self._store.device)[:, None])[:, None, None]
