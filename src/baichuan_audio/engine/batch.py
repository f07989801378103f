"""One step of all sequences together: read the unread tokens, then decode an id or a frame for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from ..acceleration import Decoder, RowRequest
from ..generation.runner import ProgramRunner
from ..generation.sequence import (
    DecodeRequest,
    DecodeResult,
    FrameRequest,
    TextRequest,
    TokenSequence,
    draw_frames,
    draw_ids,
)
from ..language_model.model import LanguageModel
from ..model import BaichuanAudio
from .kv_slots import SlotCache, SlotTokens

_MAX_DECODE_POSITIONS = 4
"""Unread positions that a row may have during a reply: an id and the control tokens around an audio segment."""


@dataclass(eq=False)
class BatchRow:
    """A sequence in its slot, and the program that generates it."""

    slot: int
    sequence: TokenSequence
    runner: ProgramRunner[str | None]
    adapter: str | None = field(default=None, kw_only=True)
    """Which model generates it: the base (None), or the base with this adapter."""

    @property
    def request(self) -> DecodeRequest | None:
        """What the program waits for."""
        return self.runner.request


R = TypeVar("R", bound=BatchRow)


def batch_for(model: BaichuanAudio, cache: SlotCache) -> Batch | DecoderBatch:
    """The faster batch for this model: on CUDA the captured steps of an inference copy, otherwise its modules."""
    return DecoderBatch(model, cache) if model.inference_only and cache.store.is_cuda else Batch(model, cache)


class AdapterBatches:
    """Rows of a base and of its adapters, over one memory: in each step one batch of each model.

    So a row is decoded exactly as it is where all rows have its adapter.
    """

    def __init__(self, model: BaichuanAudio, adapters: Mapping[str, BaichuanAudio], cache: SlotCache) -> None:
        self._batches: dict[str | None, Batch | DecoderBatch] = {None: batch_for(model, cache)}
        self._batches |= {name: batch_for(adapted, cache) for name, adapted in adapters.items()}

    def step(self, rows: Sequence[R], prefill_positions: int) -> list[tuple[R, DecodeResult]]:
        """See `Batch.step`; the models share `prefill_positions`."""
        groups: dict[str | None, list[R]] = {}
        for row in rows:
            groups.setdefault(row.adapter, []).append(row)
        positions = max(1, prefill_positions // max(1, len(groups)))
        return [result for adapter, group in groups.items() for result in self._batches[adapter].step(group, positions)]


class Batch:
    """Decodes rows that may join and leave at any step, with the modules of the model."""

    def __init__(self, model: BaichuanAudio, cache: SlotCache) -> None:
        self._language_model, self._head = model.language_model, model.audio_head
        self.cache = cache
        self._depth_cache = self._head.init_cache(cache.slots)

    @torch.inference_mode()
    def step(self, rows: Sequence[R], prefill_positions: int) -> list[tuple[R, DecodeResult]]:
        """One step of `rows` -> the results of those that have no unread tokens left (see `read_unread`)."""
        read = read_unread(self._language_model, self.cache, rows, prefill_positions)
        ready = [(row, hidden) for row, hidden in read if not row.sequence.unread]
        return [*self._texts(ready), *self._frames(ready)]

    def _texts(self, ready: Sequence[tuple[R, torch.Tensor]]) -> list[tuple[R, DecodeResult]]:
        pending = [(row, row.request, hidden) for row, hidden in ready if isinstance(row.request, TextRequest)]
        if not pending:
            return []
        rows, requests, hidden = zip(*pending, strict=True)
        ids = draw_ids(self._language_model, torch.stack(hidden), [row.sequence for row in rows], requests)
        return list(zip(rows, ids, strict=True))

    def _frames(self, ready: Sequence[tuple[R, torch.Tensor]]) -> list[tuple[R, DecodeResult]]:
        pending = [(row, row.request, hidden) for row, hidden in ready if isinstance(row.request, FrameRequest)]
        if not pending:
            return []
        rows, requests, hidden = zip(*pending, strict=True)
        sequences = [row.sequence for row in rows]
        frames = draw_frames(self._head, torch.stack(hidden), self._depth_cache, sequences, requests)
        return list(zip(rows, frames, strict=True))


class DecoderBatch:
    """A `Batch` that decodes with a Decoder over the memory of the slots: CUDA graphs.

    All but the last position of a row is read as in `Batch`; the last one is read by the step that samples.
    """

    def __init__(self, model: BaichuanAudio, cache: SlotCache) -> None:
        self._language_model, self.cache = model.language_model, cache
        self._decoder = Decoder(model.language_model, model.audio_head, cache.slots, cache.capacity, cache.store)

    @torch.inference_mode()
    def step(self, rows: Sequence[R], prefill_positions: int) -> list[tuple[R, DecodeResult]]:
        """See `Batch.step`."""
        read_unread(self._language_model, self.cache, rows, prefill_positions, leave=1)
        ready = [row for row in rows if len(row.sequence.unread) == 1]
        for row in ready:
            self.cache.truncate(row.slot, row.sequence.read)
        requests = [RowRequest(row.slot, row.sequence, row.request) for row in ready if row.request]
        results = self._decoder.decode(requests)
        for row in ready:
            self.cache.add(row.slot, row.sequence.tokens[-1])
        return list(zip(ready, results, strict=True))


def read_unread(
    model: LanguageModel, cache: SlotCache, rows: Sequence[R], prefill_positions: int, leave: int = 0
) -> list[tuple[R, torch.Tensor]]:
    """Read the unread tokens of `rows` but the last `leave` of each in one pass -> rows read, and their hidden [D].

    A row with more than a few unread positions (a prompt) reads at most what is left of `prefill_positions`, in the
    order of `rows`, and decodes in a later step.
    """
    chunks: list[tuple[R, SlotTokens]] = []
    left = prefill_positions
    for row in rows:
        unread = row.sequence.tokens[row.sequence.read : len(row.sequence) - leave]
        if len(unread) > _MAX_DECODE_POSITIONS:
            unread = unread[:left]
            left -= len(unread)
        if unread:
            chunks.append((row, SlotTokens(row.slot, unread)))
    if not chunks:
        return []
    chunks.sort(key=lambda chunk: chunk[0].slot)  # adjacent slots are one view of the cache
    for row, _ in chunks:
        cache.truncate(row.slot, row.sequence.read)  # positions that were read and then removed
    hidden = cache.read([chunk for _, chunk in chunks], model)
    for row, chunk in chunks:
        row.sequence.read += len(chunk.tokens)
    return [(row, hidden[index]) for index, (row, _) in enumerate(chunks)]
