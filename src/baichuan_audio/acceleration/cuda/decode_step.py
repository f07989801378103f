"""One decode step of many rows as a function of tensors that never move: what a CUDA graph captures.

The host writes what it knows into `DecodeBuffers` before a step, in two copies, and reads the drawn ids or codes
after it; in between nothing waits for it. A row that takes no part in a step keeps what it holds. The functions run
on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...language_model.audio_head import AudioHead
from ...language_model.model import LanguageModel
from .compiled_blocks import CompiledBlocks, RowPositions
from .sampling import SamplingTensors, uniforms
from .static_cache import StaticCache

_CODES = 5  # where the codes begin in a row of `inputs`


@dataclass(frozen=True)
class StepShape:
    """What is fixed in one captured step: rows, cached positions read, how many likeliest are sorted, and so on."""

    batch: int
    span: int
    limit: int
    penalise: bool
    flex: bool = False


class DecodeBuffers:
    """The memory of R rows.

    inputs [R, 5 + K] int64: whether the row takes part, its position, its step (the counter of its chance), whether
    its audio segment may end here, the id it reads, and the codes it reads where the id is audio_pad. settings [R, 4]:
    how it draws. ids [R], codes [R, K]: what was drawn last. counts, barred [R, V]: ids in the sequence, ids not to
    choose. said: by codebook [R, size + 1].
    """

    def __init__(self, model: LanguageModel, head: AudioHead, rows: int, cache: StaticCache) -> None:
        like, sizes = model.embed_tokens.weight, head.codebook_sizes
        device, vocabulary = like.device, model.config.vocab_size
        self.cache = cache
        self.depth = head.init_cache(rows)
        self.depth.store.zero_()  # what a mask hides must still be a number
        self.numbers_in_frame = torch.arange(len(sizes), device=device)
        self.seen_in_frame = self.numbers_in_frame <= self.numbers_in_frame[:, None]
        self.inputs = torch.zeros(rows, _CODES + len(sizes), dtype=torch.long, device=device)
        self.settings = torch.ones(rows, 4, dtype=torch.float64, device=device)
        self.seeds, self.ids, self.numbers = (torch.arange(rows, device=device) for _ in range(3))
        self.codes = torch.zeros(rows, len(sizes), dtype=torch.long, device=device)
        self.counts = torch.zeros(rows, vocabulary, dtype=torch.int32, device=device)
        self.suppressed = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device)
        self.numbers_in_code = torch.arange(sizes[0] + 1, device=device)
        self.said = [torch.zeros(rows, size + 1, dtype=torch.bool, device=device) for size in sizes]
        self.rotation = tuple(table.clone() for table in model.rotary(self.cache.room, like))
        pin = device.type == "cuda"
        self._host_inputs = torch.zeros(self.inputs.shape, dtype=torch.long, pin_memory=pin)
        self._host_settings = torch.ones(self.settings.shape, dtype=torch.float64, pin_memory=pin)

    def write(self, inputs: Sequence[Sequence[int]], settings: Sequence[Sequence[float]]) -> None:
        """What the first rows do in the next step; codes may be left out, and count as 0."""
        count = len(inputs)
        padded = [[*row, *[0] * (self.inputs.shape[1] - len(row))] for row in inputs]
        self._host_inputs[:count] = torch.tensor(padded)
        self._host_settings[:count] = torch.tensor(settings, dtype=torch.float64)
        self.inputs[:count].copy_(self._host_inputs[:count], non_blocking=True)
        self.settings[:count].copy_(self._host_settings[:count], non_blocking=True)

    def said_sizes(self) -> list[tuple[Tensor, int]]:
        """For each codebook what its rows have said, and its size without the end mark."""
        return [(said, said.shape[1] - 1) for said in self.said]

    def row_positions(self, shape: StepShape) -> RowPositions:
        """Where the first rows stand, and what they see."""
        positions = self.inputs[: shape.batch, 1]
        cos, sin = (table[positions][:, None, None] for table in self.rotation)
        seen = torch.arange(shape.span, device=positions.device) <= positions[:, None]
        return RowPositions(cos, sin, positions, self.numbers[: shape.batch], seen[:, None, None])

    def chances(self, batch: int, row_positions: int) -> Tensor:
        return uniforms(self.seeds[:batch], self.inputs[:batch, 2], row_positions)

    def how(self, batch: int) -> SamplingTensors:
        return SamplingTensors(*self.settings[:batch].split(1, dim=1))


def advance(model: LanguageModel, rows: DecodeBuffers, shape: StepShape, blocks: CompiledBlocks) -> Tensor:
    """Read the position of each row -> its hidden state [B, D] before the final norm."""
    inputs = rows.inputs[: shape.batch]
    ids, codes = inputs[:, 4], inputs[:, _CODES:]
    embedded = torch.where((ids == model.audio_pad_id)[:, None], model.embed_frames(codes.T), model.embed_tokens(ids))
    x, row_positions = embedded[:, None], rows.row_positions(shape)
    for layer, (keys, values) in zip(model.layers, rows.cache.layers, strict=True):
        x = blocks.layer(layer, x, keys, values, row_positions, shape.flex)
    return x[:, 0]


def text_step(model: LanguageModel, rows: DecodeBuffers, shape: StepShape, blocks: CompiledBlocks) -> None:
    """Draw the next text id of the first rows into `rows.ids`."""
    batch = shape.batch
    logits = blocks.project(model.norm, model.lm_head, advance(model, rows, shape, blocks))
    allowed = logits.masked_fill(rows.suppressed[:batch], -float("inf"))
    said = rows.counts[:batch] > 0 if shape.penalise else None
    rows.ids[:batch] = blocks.draw(allowed, rows.how(batch), rows.chances(batch, 1)[:, 0], shape.limit, said)


def frame_step(
    model: LanguageModel, head: AudioHead, rows: DecodeBuffers, shape: StepShape, blocks: CompiledBlocks
) -> None:
    """Draw the next code frame of the first rows into `rows.codes`; text logits are never computed.

    A row whose code 0 is the end mark goes on like the others; the host drops what it drew after it.
    """
    batch = shape.batch
    x = model.norm(advance(model, rows, shape, blocks))
    chances, how = rows.chances(batch, head.num_codebooks), rows.how(batch)
    active = rows.inputs[:batch, :1] > 0
    total: Tensor | None = None
    for level, size in enumerate(head.codebook_sizes):
        place, mask = rows.numbers_in_frame[level : level + 1], rows.seen_in_frame[level : level + 1]
        for layer, cache in zip(head.transformer_layers, rows.depth.store, strict=True):
            x = blocks.depth(layer, layer.up[level], layer.down[level], x, cache[:, :batch], place, mask)  # type: ignore[union-attr,index]  # fmt: skip
        logits, said = blocks.project(head.headnorm, head.heads[level], x), rows.said[level][:batch]
        if level:  # only the first codebook has an end mark
            logits, said = logits[:, :size], said[:, :size]
        else:
            end = rows.numbers_in_code == size
            logits = logits.masked_fill(end & (rows.inputs[:batch, 3:4] == 0), -float("inf"))
        drawn = blocks.draw(logits, how, chances[:, level], shape.limit, said if shape.penalise else None)
        if shape.penalise:
            chosen = drawn[:, None]
            said.scatter_(1, chosen, said.gather(1, chosen) | active)
        rows.codes[:batch, level] = drawn
        embedded = head.embedding(level)(drawn)
        x = total = embedded if total is None else total + embedded
