"""One decode step of many rows as a function of static tensors: what a CUDA graph captures.

The host writes the inputs into `DecodeBuffers` before a step, in two copies, and reads the sampled ids or codes after
it; there is no synchronization in between. An inactive row keeps its state. The functions run on any device.
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
    """The static parameters of a captured step: rows, cached positions, number of logits to sort, and so on."""

    batch: int
    span: int
    limit: int
    penalise: bool
    flex: bool = False


class DecodeBuffers:
    """The memory of R rows.

    inputs [R, 5 + K] int64: whether the row is active, its position, its step (the counter of its random numbers),
    whether its audio segment may end here, the id it reads, and the codes it reads where the id is audio_pad. settings
    [R, 4]: sampling parameters. ids [R], codes [R, K]: sampled last. token_counts, suppressed [R, V]: occurrences of
    each id in the sequence, ids that must not be sampled. seen_codes: for each codebook [R, size + 1].
    """

    def __init__(self, model: LanguageModel, head: AudioHead, rows: int, cache: StaticCache) -> None:
        like, sizes = model.embed_tokens.weight, head.codebook_sizes
        device, vocabulary = like.device, model.config.vocab_size
        self.cache = cache
        self.depth = head.init_cache(rows)
        self.depth.store.zero_()  # masked values must be finite
        self.frame_levels = torch.arange(len(sizes), device=device)
        self.frame_masks = self.frame_levels <= self.frame_levels[:, None]
        self.inputs = torch.zeros(rows, _CODES + len(sizes), dtype=torch.long, device=device)
        self.settings = torch.ones(rows, 4, dtype=torch.float64, device=device)
        self.seeds, self.ids, self.row_indices = (torch.arange(rows, device=device) for _ in range(3))
        self.codes = torch.zeros(rows, len(sizes), dtype=torch.long, device=device)
        self.token_counts = torch.zeros(rows, vocabulary, dtype=torch.int32, device=device)
        self.suppressed = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device)
        self.code_indices = torch.arange(sizes[0] + 1, device=device)
        self.seen_codes = [torch.zeros(rows, size + 1, dtype=torch.bool, device=device) for size in sizes]
        self.rotation = tuple(table.clone() for table in model.rotary(self.cache.padded_capacity, like))
        pin = device.type == "cuda"
        self._host_inputs = torch.zeros(self.inputs.shape, dtype=torch.long, pin_memory=pin)
        self._host_settings = torch.ones(self.settings.shape, dtype=torch.float64, pin_memory=pin)

    def write(self, inputs: Sequence[Sequence[int]], settings: Sequence[Sequence[float]]) -> None:
        """Write inputs and settings of the first rows for the next step; missing codes are 0."""
        count = len(inputs)
        padded = [[*row, *[0] * (self.inputs.shape[1] - len(row))] for row in inputs]
        self._host_inputs[:count] = torch.tensor(padded)
        self._host_settings[:count] = torch.tensor(settings, dtype=torch.float64)
        self.inputs[:count].copy_(self._host_inputs[:count], non_blocking=True)
        self.settings[:count].copy_(self._host_settings[:count], non_blocking=True)

    def row_positions(self, shape: StepShape) -> RowPositions:
        """Positions and attention masks of the first rows."""
        positions = self.inputs[: shape.batch, 1]
        cos, sin = (table[positions][:, None, None] for table in self.rotation)
        visible = torch.arange(shape.span, device=positions.device) <= positions[:, None]
        return RowPositions(cos, sin, positions, self.row_indices[: shape.batch], visible[:, None, None])

    def uniforms(self, batch: int, count: int) -> Tensor:
        """Random numbers [batch, count] in [0, 1) of this step."""
        return uniforms(self.seeds[:batch], self.inputs[:batch, 2], count)

    def sampling(self, batch: int) -> SamplingTensors:
        """Sampling parameters of the first rows."""
        return SamplingTensors(*self.settings[:batch].split(1, dim=1))


def advance(model: LanguageModel, rows: DecodeBuffers, shape: StepShape, blocks: CompiledBlocks) -> Tensor:
    """Run the backbone over one position of each row -> hidden states [B, D] before the final norm."""
    inputs = rows.inputs[: shape.batch]
    ids, codes = inputs[:, 4], inputs[:, _CODES:]
    embedded = torch.where((ids == model.audio_pad_id)[:, None], model.embed_frames(codes.T), model.embed_tokens(ids))
    x, row_positions = embedded[:, None], rows.row_positions(shape)
    for layer, (keys, values) in zip(model.layers, rows.cache.layers, strict=True):
        x = blocks.layer(layer, x, keys, values, row_positions, shape.flex)
    return x[:, 0]


def text_step(model: LanguageModel, rows: DecodeBuffers, shape: StepShape, blocks: CompiledBlocks) -> None:
    """Sample the next text id of the first rows into `rows.ids`."""
    batch = shape.batch
    logits = blocks.project(model.norm, model.lm_head, advance(model, rows, shape, blocks))
    allowed = logits.masked_fill(rows.suppressed[:batch], -float("inf"))
    seen = rows.token_counts[:batch] > 0 if shape.penalise else None
    rows.ids[:batch] = blocks.draw(allowed, rows.sampling(batch), rows.uniforms(batch, 1)[:, 0], shape.limit, seen)


def frame_step(
    model: LanguageModel, head: AudioHead, rows: DecodeBuffers, shape: StepShape, blocks: CompiledBlocks
) -> None:
    """Sample the next code frame of the first rows into `rows.codes`; text logits are not computed.

    A row whose code 0 is the end mark continues like the others; the host drops its later codes.
    """
    batch = shape.batch
    x = model.norm(advance(model, rows, shape, blocks))
    uniforms, sampling = rows.uniforms(batch, head.num_codebooks), rows.sampling(batch)
    active = rows.inputs[:batch, :1] > 0
    total: Tensor | None = None
    for level, size in enumerate(head.codebook_sizes):
        position, mask = rows.frame_levels[level : level + 1], rows.frame_masks[level : level + 1]
        for layer, cache in zip(head.transformer_layers, rows.depth.store, strict=True):
            x = blocks.depth(layer, layer.up[level], layer.down[level], x, cache[:, :batch], position, mask)  # type: ignore[union-attr,index]  # fmt: skip
        logits, seen = blocks.project(head.headnorm, head.heads[level], x), rows.seen_codes[level][:batch]
        if level:  # only the first codebook has an end mark
            logits, seen = logits[:, :size], seen[:, :size]
        else:
            end = rows.code_indices == size
            logits = logits.masked_fill(end & (rows.inputs[:batch, 3:4] == 0), -float("inf"))
        drawn = blocks.draw(logits, sampling, uniforms[:, level], shape.limit, seen if shape.penalise else None)
        if shape.penalise:
            chosen = drawn[:, None]
            seen.scatter_(1, chosen, seen.gather(1, chosen) | active)
        rows.codes[:batch, level] = drawn
        embedded = head.embedding(level)(drawn)
        x = total = embedded if total is None else total + embedded
