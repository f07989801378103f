"""The Qwen2.5-shaped decoder (docs/model.md, 5): packed q/k/v, rotary positions, grouped-query attention, SwiGLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import select
from ..errors import ConfigError
from ..layers.attention import attend
from ..layers.kv_cache import KVCache, RowPositions
from ..layers.norm import RMSNorm


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of the backbone, from the top level of `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    attention_qkv_pack: bool = True
    attention_qkv_bias: bool = True
    use_norm_head: bool = False
    tie_word_embeddings: bool = False

    @property
    def key_value_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BackboneConfig:
        """Read `config.json`; raises ConfigError for what is missing, impossible or of another architecture."""
        result = select(cls, config)
        if not result.attention_qkv_pack or result.use_norm_head or result.tie_word_embeddings:
            raise ConfigError(
                "config.json: attention_qkv_pack must be true, use_norm_head and tie_word_embeddings false."
            )
        if min(result.hidden_size, result.num_hidden_layers, result.num_attention_heads, result.vocab_size) < 1:
            raise ConfigError(
                "config.json: vocab_size, hidden_size and the numbers of layers and heads must be positive."
            )
        if result.num_attention_heads % result.key_value_heads or result.head_width % 2:
            raise ConfigError(
                "config.json: num_attention_heads must be a multiple of num_key_value_heads, and head_dim even."
            )
        return result


class Context(Protocol):
    """What all layers share in one pass: rotary cos and sin [N, head_dim] of the N positions, and the attention."""

    @property
    def cos(self) -> Tensor: ...
    @property
    def sin(self) -> Tensor: ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [B, heads, N, head_dim], key and value [B, groups, N, head_dim] -> mixed [B, heads, N, head_dim]."""

    def row_positions(self, batch: int) -> RowPositions | None:
        """Where B x N new positions go in the cache, for kernels that do not call `attend`; None where unknown."""


@dataclass(frozen=True)
class CausalContext:
    """Rows of equal length: each position attends to all earlier ones, in `cache` and among the new ones.

    mask [N, length + N] (True = visible) is needed only when several new positions follow cached ones.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    cache: KVCache | None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Context`; key and value are appended to the cache."""
        positions, cache = query.shape[2], self.cache
        if cache is not None and (cache.length or positions == 1):
            return attend_to(query, *cache.append(layer, key, value), self.mask)
        if cache is not None:
            cache.append(layer, key, value)
        return attend(query, key, value, causal=positions > 1)

    def row_positions(self, batch: int) -> RowPositions | None:
        """See `Context`."""
        return None if self.cache is None else self.cache.row_positions(batch, self.cos.shape[0])


def attend_to(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """query [B, heads, N, w] over keys and values [B, groups, L, w], mask [N, L] or [B, 1, N, L] -> [B, heads, N, w].

    Queries that share a key head become rows of it, so that keys and values are not copied.
    """
    batch, heads, positions, width = query.shape
    groups = keys.shape[1]
    if mask is not None:
        mask = mask.repeat(*[1] * (mask.ndim - 2), heads // groups, 1)
    rows = query.reshape(batch, groups, -1, width)
    return F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask).view(batch, heads, positions, width)


class Attention(nn.Module):
    """Causal grouped-query attention; `W_pack` holds q, k and v stacked."""

    def __init__(self, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.groups, self.width = config.num_attention_heads, config.key_value_heads, config.head_width
        packed = (self.heads + 2 * self.groups) * self.width
        self.W_pack = nn.Linear(config.hidden_size, packed, bias=config.attention_qkv_bias)
        self.o_proj = nn.Linear(self.heads * self.width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        batch, positions, _ = x.shape
        packed = self.W_pack(x).view(batch, positions, -1, self.width).transpose(1, 2)
        rotated, value = packed.split((self.heads + self.groups, self.groups), dim=1)
        query, key = rotate(rotated, context.cos, context.sin).split((self.heads, self.groups), dim=1)
        mixed = context.attend(self.layer, query, key, value)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, positions, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return result


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), context)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Embeddings [B, N, D] -> hidden states [B, N, D] after the final norm."""

    int8_cache = False
    """Whether keys and values are cached in 8 bits (`acceleration/cpu/int8_cache.py`)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._rotary: tuple[Tensor, Tensor] | None = None  # cos and sin of the positions used so far

    def init_cache(self, batch: int = 1, capacity: int = 256) -> KVCache:
        """An empty cache for `batch` sequences."""
        weight = self.norm.weight
        return KVCache(
            len(self.layers),
            batch,
            self.config.key_value_heads,
            self.config.head_width,
            weight.dtype,
            weight.device,
            capacity,
        )

    def hidden(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Embeddings x [B, N, D] -> hidden [B, N, D]. With a cache, x follows the cached positions and is appended."""
        positions = x.shape[1]
        start = cache.length if cache is not None else 0
        if cache is not None:
            cache.reserve(positions)
        cos, sin = self._rotation(start, positions, x)
        mask = None
        if start and positions > 1:
            mask = torch.ones(positions, start + positions, dtype=torch.bool, device=x.device).tril(start)
        x = self.run(x, CausalContext(cos, sin, mask, cache))
        if cache is not None:
            cache.advance(positions)
        return x

    def run(self, x: Tensor, context: Context) -> Tensor:
        """Embeddings x [B, N, D] -> hidden [B, N, D]; positions and attention are those of `context`."""
        for layer in self.layers:
            x = layer(x, context)
        result: Tensor = self.norm(x)
        return result

    def _rotation(self, start: int, positions: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [N, head_dim] of positions start.."""
        cos, sin = self.rotary(start + positions, x)
        return cos[start:], sin[start:]

    def rotary(self, end: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [end, head_dim] of positions 0.., in x's type, from a table that grows by doubling."""
        table = self._rotary
        if table is None or table[0].shape[0] < end or table[0].dtype != x.dtype or table[0].device != x.device:
            rows = max(256, 1 << (end - 1).bit_length())
            with torch.inference_mode(False):  # the table may be used in training later
                table = self._rotary = rotary_table(
                    rows, self.config.head_width, self.config.rope_theta, x.dtype, x.device
                )
        return table[0][:end], table[1][:end]


def rotary_table(
    rows: int, width: int, theta: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin [rows, width] of RoPE (arXiv 2104.09864, rotate-half); sin carries the sign of its half."""
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    angles = torch.arange(rows, dtype=torch.float32, device=device)[:, None] * (1.0 / theta**exponents)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], 1).to(dtype), torch.cat([-sin, sin], 1).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding to x [..., N, head_dim]."""
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin
