"""The repeated parts of a decode step: one backbone layer, one audio head layer, one projection, one sample.

Each is a plain function of modules and tensors, independent of the layer and position. So it is compiled once for all
of them: compiling takes seconds where the whole step would take minutes.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...language_model.backbone import DecoderLayer, attend_to, rotate
from ..modules import SplitDepthAttention, SplitDepthLayer
from .sampling import sample_on_device

_SHAPES = 64
"""Limit of the shapes that one function is compiled for: buckets of rows, codebook sizes."""


@dataclass(frozen=True)
class RowPositions:
    """Positions of the rows of a step: cos, sin [B, 1, 1, w]; positions, rows [B]; mask [B, 1, 1, span]."""

    cos: Tensor
    sin: Tensor
    positions: Tensor
    rows: Tensor
    mask: Tensor


def layer_step(
    layer: DecoderLayer, x: Tensor, keys: Tensor, values: Tensor, row_positions: RowPositions, flex: bool
) -> Tensor:
    """x [B, 1, D] through one layer -> [B, 1, D]; its key and value join keys and values [R, groups, S, w].

    flex: FlexAttention, which splits long keys over the whole GPU, in place of SDPA under a mask.
    """
    attention, batch, span = layer.self_attn, x.shape[0], row_positions.mask.shape[-1]
    heads, groups = attention.heads, attention.groups
    packed = attention.W_pack(layer.input_layernorm(x)).view(batch, -1, 1, attention.width)
    rotated, value = packed.split((heads + groups, groups), dim=1)
    query, key = rotate(rotated, row_positions.cos, row_positions.sin).split((heads, groups), dim=1)
    keys[row_positions.rows, :, row_positions.positions] = key[:, :, 0]
    values[row_positions.rows, :, row_positions.positions] = value[:, :, 0]
    seen = keys[:batch, :, :span], values[:batch, :, :span]
    mixed = flex_over(query, *seen, row_positions.positions) if flex else attend_to(query, *seen, row_positions.mask)
    x = x + attention.o_proj(mixed.reshape(batch, 1, -1))
    return x + layer.mlp(layer.post_attention_layernorm(x))


def flex_over(query: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """query [B, heads, 1, w] over the keys [B, groups, span, w] at or before its position [B]."""
    from torch.nn.attention.flex_attention import flex_attention

    def visible(score: Tensor, row: Tensor, head: Tensor, requests: Tensor, seen: Tensor) -> Tensor:
        return torch.where(seen <= positions[row], score, -float("inf"))

    result: Tensor = flex_attention(query, keys, values, score_mod=visible, enable_gqa=True)
    return result


def depth_step(
    layer: SplitDepthLayer, up: nn.Module, down: nn.Module, x: Tensor, cache: Tensor, position: Tensor, mask: Tensor
) -> Tensor:
    """x [B, d] through one layer of the audio head with the weights of one position -> [B, d].

    cache [2, B, heads, K, w] of the frame's positions; position [1], the current one; mask [1, K], True up to it.
    """
    attention, batch = cast(SplitDepthAttention, layer.self_attention), x.shape[0]
    packed = attention.in_proj(layer.layernorm1(x)).view(batch, 3, attention.heads, 1, -1).transpose(0, 1)
    cache.index_copy_(3, position, packed[1:])
    mixed = F.scaled_dot_product_attention(packed[0], cache[0], cache[1], attn_mask=mask)
    residual = layer.layernorm2(attention.out_proj(mixed.flatten(1)) + x)
    result: Tensor = residual + down(F.gelu(up(residual)))
    return result


def project(norm: nn.Module, linear: nn.Module, x: Tensor) -> Tensor:
    """x [B, D] -> logits [B, V]."""
    result: Tensor = linear(norm(x))
    return result


@dataclass(frozen=True)
class CompiledBlocks:
    """The functions above, as they are or compiled."""

    layer: Callable[..., Tensor] = layer_step
    depth: Callable[..., Tensor] = depth_step
    project: Callable[..., Tensor] = project
    draw: Callable[..., Tensor] = sample_on_device


def compiled_blocks_for(device: torch.device) -> CompiledBlocks:
    """Compiled where there is CUDA, the compiler for it (triton), and a torch that lets a function have many shapes."""
    limits = {"recompile_limit": _SHAPES, "isolate_recompiles": True}
    able = limits.keys() <= inspect.signature(torch.compile).parameters.keys()
    if device.type != "cuda" or importlib.util.find_spec("triton") is None or not able:
        return CompiledBlocks()

    def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        tuned: dict[str, Any] = {"options": {"coordinate_descent_tuning": True}, **limits}
        made: Any = torch.compile(function, fullgraph=True, **tuned)
        return cast(Callable[..., Tensor], made)

    return CompiledBlocks(compiled(layer_step), compiled(depth_step), compiled(project), compiled(sample_on_device))
