"""Keys and values of many sequences in one block of memory, set aside once: a slot each.

What a slot has read is remembered position by position. What it is to read next is compared with that, and with what
the other slots hold: a common beginning is kept, or copied, and never read again. So deleting an item, cutting a reply
short, another system text and a dialogue that begins like an earlier one all need no rule of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..acceleration.cuda.static_cache import empty_store
from ..generation.sequence import Token, common_length
from ..language_model.backbone import attend_to
from ..language_model.model import LanguageModel
from ..layers.kv_cache import RowPositions


@dataclass(frozen=True)
class Piece:
    """Positions to read next in one slot, at least one."""

    slot: int
    tokens: Sequence[Token]


class SlotCache:
    """store [layers, 2, slots, kv heads, room, head_dim], with room for `capacity` positions and a Decoder's scratch.

    On a GPU all rows with one new position are attended to in one call, under a mask up to the longest of them; on a
    CPU each row for itself over its own length, which neither copies nor computes what a mask would throw away.
    """

    def __init__(self, model: LanguageModel, slots: int, capacity: int) -> None:
        self.store = empty_store(model, slots, capacity)
        self.slots, self.capacity = slots, capacity
        self.together = self.store.device.type != "cpu"
        self._model = model
        self._tokens: list[list[Token]] = [[] for _ in range(slots)]

    def length(self, slot: int) -> int:
        """Positions read in `slot`."""
        return len(self._tokens[slot])

    def truncate(self, slot: int, length: int) -> None:
        """Forget what `slot` has read beyond the first `length` positions."""
        del self._tokens[slot][length:]

    def add(self, slot: int, token: Token) -> None:
        """Somebody else has read `token` next in `slot`, and has left its keys and values in `store`."""
        self._tokens[slot].append(token)

    def prepare(self, slot: int, tokens: Sequence[Token]) -> int:
        """Make `slot` ready to read on in `tokens` -> how many of them need not be read again.

        At least the last one is left to read: the next step needs its hidden state, which is not kept.
        """
        own = common_length(self._tokens[slot], tokens)
        best, source = max((common_length(self._tokens[other], tokens), other) for other in range(self.slots))
        if best > own:
            self.store[:, :, slot, :, own:best] = self.store[:, :, source, :, own:best]
            self._tokens[slot] = list(tokens[:best])
        else:
            best = own
        best = min(best, len(tokens) - 1)
        self.truncate(slot, best)
        return best

    def read(self, pieces: Sequence[Piece]) -> Tensor:
        """Read the pieces, each in a slot of its own, in one pass -> hidden [B, D] after the last position of each.

        All positions of all rows lie end to end in one row of embeddings; only attention tells them apart.
        """
        counts = [len(piece.tokens) for piece in pieces]
        starts = [self.length(piece.slot) for piece in pieces]
        device = self.store.device
        embedded = self._model.embed_sequence([token for piece in pieces for token in piece.tokens])
        row_positions = torch.tensor(
            [start + i for start, count in zip(starts, counts, strict=True) for i in range(count)], device=device
        )
        owners = torch.tensor(
            [piece.slot for piece, count in zip(pieces, counts, strict=True) for _ in range(count)], device=device
        )
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        if max(ends) > self.capacity:
            raise ValueError(f"a slot holds {self.capacity} positions, not {max(ends)}")
        cos, sin = self._model.rotary(max(ends), embedded)
        context = _SlotContext(
            cos[row_positions],
            sin[row_positions],
            self,
            owners,
            row_positions,
            [p.slot for p in pieces],
            starts,
            counts,
        )
        hidden = self._model.run(embedded[None], context)[0]
        for piece in pieces:
            self._tokens[piece.slot] += piece.tokens
        return hidden[torch.tensor(counts, device=device).cumsum(0) - 1]


class _SlotContext:
    """One pass over rows of different slots, lengths and positions, laid end to end (see `backbone.Context`)."""

    def __init__(
        self,
        cos: Tensor,
        sin: Tensor,
        cache: SlotCache,
        owners: Tensor,
        row_positions: Tensor,
        slots: list[int],
        starts: list[int],
        counts: list[int],
    ) -> None:
        self.cos, self.sin, self._store = cos, sin, cache.store
        self._owners, self._places = owners, row_positions
        self._rows = list(zip(slots, starts, counts, strict=True))
        together = cache.together and max(counts) == 1 and len(slots) > 1
        self._mask = self._length_mask([start + 1 for start in starts]) if together else None
        # neighbouring slots in order are one view; any others are gathered
        self._is_view = slots == list(range(slots[0], slots[0] + len(slots)))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [1, heads, T, w], key and value [1, groups, T, w], T positions of all rows -> [1, heads, T, w]."""
        keys, values = self._store[layer]
        keys[self._owners, :, self._places] = key[0].transpose(0, 1)
        values[self._owners, :, self._places] = value[0].transpose(0, 1)
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
            parts.append(attend_to(row, keys[None, slot, :, :end], values[None, slot, :, :end], mask))
            first += count
        return torch.cat(parts, dim=2)

    def row_positions(self, batch: int) -> RowPositions | None:
        """See `backbone.Context`."""
        return RowPositions(self._store, self._owners, self._places)

    def _gather(self, store: Tensor, longest: int) -> Tensor:
        """store [slots, groups, room, w] -> [B, groups, longest, w]."""
        if self._is_view:
            first = self._rows[0][0]
            return store[first : first + len(self._rows), :, :longest]
        return store[self._owners, :, :longest]

    def _length_mask(self, lengths: list[int]) -> Tensor:
        """[B, 1, 1, longest] bool, True where a row has positions."""
        row_positions = torch.arange(max(lengths), device=self._store.device)
        return (row_positions < torch.tensor(lengths, device=self._store.device)[:, None])[:, None, None]
