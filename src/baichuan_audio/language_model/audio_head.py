"""The audio head, a depth transformer: one hidden state -> K codes, each conditioned on the previous ones
(docs/model.md, 6)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..audio_tokenizer.config import codebook_sizes
from ..config import check_size
from ..errors import ConfigError
from ..layers.norm import RMSNorm

HEAD_DIM = 128
"""As released; `audio_config.audio_head_dim` may say otherwise."""


class DepthCache:
    """Keys and values [layers, 2, B, heads, K, w] of the positions of one frame; reused for every frame."""

    def __init__(self, layers: int, batch: int, heads: int, positions: int, head_dim: int, like: Tensor) -> None:
        shape = (layers, 2, batch, heads, positions, head_dim)
        self.store = torch.empty(shape, dtype=like.dtype, device=like.device)

    def rows(self, rows: slice | list[int]) -> DepthCache:
        """Some of the rows: a slice shares memory, a list copies."""
        result = copy.copy(self)
        result.store = self.store[:, :, rows]
        return result


class DepthAttention(nn.Module):
    """Causal attention over the positions of one frame; no position encoding."""

    def __init__(self, width: int, head_dim: int = HEAD_DIM) -> None:
        super().__init__()
        self.heads = width // head_dim
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, K, d] -> [B, K, d]."""
        query, key, value = self._project(x)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))

    def step(self, x: Tensor, position: int, cache: Tensor) -> Tensor:
        """x [B, d] at `position`, cache [2, B, heads, K, w] of the earlier ones -> [B, d]."""
        query, key, value = self._project(x[:, None])
        cache[0, :, :, position : position + 1] = key
        cache[1, :, :, position : position + 1] = value
        keys, values = cache[:, :, :, : position + 1]
        return self.out_proj(F.scaled_dot_product_attention(query, keys, values).flatten(1))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, N, d] -> query, key, value [B, heads, N, w]."""
        packed = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = packed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value


class DepthLayer(nn.Module):
    """Attention shared by all positions, then a feed-forward layer with separate weights for each position.

    The biases of linear1 and linear2 exist in released checkpoints and are not applied, so they get no gradient.
    """

    def __init__(self, width: int, positions: int, head_dim: int = HEAD_DIM) -> None:
        super().__init__()
        self.width, self.positions = width, positions
        self.self_attention = DepthAttention(width, head_dim)
        self.linear1 = nn.Linear(positions * width, 2 * width)
        self.linear2 = nn.Linear(positions * 2 * width, width)
        self.linear1.bias.requires_grad_(False)
        self.linear2.bias.requires_grad_(False)
        self.layernorm1 = RMSNorm(width)
        self.layernorm2 = RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, d], the first N positions -> [B, N, d]."""
        count = x.shape[1]
        residual = self.layernorm2(self.self_attention(self.layernorm1(x)) + x)
        up = self.linear1.weight.view(2 * self.width, self.positions, self.width)[:, :count].permute(1, 2, 0)
        down = self.linear2.weight.view(self.width, self.positions, 2 * self.width)[:, :count].permute(1, 2, 0)
        fed = torch.bmm(F.gelu(torch.bmm(residual.transpose(0, 1), up)), down)
        return residual + fed.transpose(0, 1)

    def step(self, x: Tensor, position: int, cache: Tensor) -> Tensor:
        """x [B, d] at `position` -> [B, d]; reads this position's weights only."""
        residual = self.layernorm2(self.self_attention.step(self.layernorm1(x), position, cache) + x)
        up = self.linear1.weight[:, position * self.width : (position + 1) * self.width]
        down = self.linear2.weight[:, 2 * position * self.width : 2 * (position + 1) * self.width]
        return residual + F.linear(F.gelu(F.linear(residual, up)), down)


class AudioHead(nn.Module):
    """One hidden state of the backbone -> the logits of K codes, each `size + 1` wide (the last: end of audio).

    Position 0 is the hidden state, position i the sum of the embeddings of codes 0..i-1. The embeddings are the
    backbone's, set by `attach_embeddings`; they stay its parameters.
    """

    def __init__(self, width: int, layers: int, sizes: tuple[int, ...], head_dim: int = HEAD_DIM) -> None:
        super().__init__()
        self.width, self.codebook_sizes, self.head_dim = width, sizes, head_dim
        self.transformer_layers = nn.ModuleList([DepthLayer(width, len(sizes), head_dim) for _ in range(layers)])
        self.headnorm = RMSNorm(width)
        self.heads = nn.ModuleList([nn.Linear(width, size + 1) for size in sizes])
        self._embeddings: tuple[nn.ModuleList, ...] = ()  # in a tuple, so that they are not registered as submodules

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AudioHead:
        """Build from a whole `config.json`; raises ConfigError where an entry is missing or impossible."""
        try:
            width = int(config["hidden_size"])
            layers = int(config["audio_config"]["audio_head_transformer_layers"])
            head_dim = int(config["audio_config"].get("audio_head_dim", HEAD_DIM))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                "config.json: hidden_size or audio_config.audio_head_transformer_layers is missing, or no number."
            ) from error
        check_size("hidden_size", width, "config.json")
        check_size("audio_head_transformer_layers", layers, "config.json: audio_config")
        check_size("audio_head_dim", head_dim, "config.json: audio_config")
        if width % head_dim:
            raise ConfigError(
                f"config.json: hidden_size must be a multiple of audio_config.audio_head_dim ({head_dim}), not {width}."
            )
        return cls(width, layers, codebook_sizes(config), head_dim)

    def attach_embeddings(self, embeddings: nn.ModuleList) -> None:
        """Share the backbone's `audio_embed_layers`."""
        self._embeddings = (embeddings,)

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    def logits(self, hidden: Tensor, codes: Tensor) -> list[Tensor]:
        """hidden [B, D], codes [B, K] (the last one is not used) -> K tensors [B, size + 1].

        The training form: all frames and all positions in one pass.
        """
        return self._logits(hidden, codes, self.num_codebooks)

    def logits_at(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """hidden [B, D], codes 0..i-1 [B, i] -> logits [B, size + 1] of code i, without a cache.

        The reference path that the cached one must agree with.
        """
        return self._logits(hidden, codes, codes.shape[1] + 1)[-1]

    def _logits(self, hidden: Tensor, codes: Tensor, count: int) -> list[Tensor]:
        inputs = [hidden]
        for level in range(count - 1):
            embedded = self.embedding(level)(codes[:, level])
            inputs.append(embedded if level == 0 else inputs[-1] + embedded)
        x = torch.stack(inputs, dim=1)
        for layer in self.transformer_layers:
            x = layer(x)
        x = self.headnorm(x)
        return [head(x[:, position]) for position, head in enumerate(list(self.heads)[:count])]

    def embedding(self, level: int) -> nn.Embedding:
        """The embedding table of codebook `level`."""
        table = self._embeddings[0][level]
        assert isinstance(table, nn.Embedding)
        return table

    def init_cache(self, batch: int = 1) -> DepthCache:
        """A cache for one frame of `batch` rows."""
        layers, heads = len(self.transformer_layers), self.width // self.head_dim
        return DepthCache(layers, batch, heads, self.num_codebooks, self.head_dim, self.headnorm.weight)

    def step(self, x: Tensor, position: int, cache: DepthCache) -> Tensor:
        """x [B, D] at `position` (positions in order, from 0) -> logits [B, size + 1] of that code."""
        for layer, layer_cache in zip(self.transformer_layers, cache.store, strict=True):
            assert isinstance(layer, DepthLayer)
            x = layer.step(x, position, layer_cache)
        result: Tensor = self.heads[position](self.headnorm(x))
        return result

    @torch.inference_mode()
    def frames(
        self, hidden: Tensor, cache: DepthCache, choose: Callable[[int, list[int], Tensor], list[int]]
    ) -> tuple[list[tuple[int, ...] | None], Tensor]:
        """One frame of each row, position by position: hidden [B, D] -> K codes a row, None where audio ends.

        `choose(level, rows, logits [rows, size + 1])` picks a code for each of `rows`. `cache` has at least B rows.
        Also returned: the summed embeddings [rows without an end, D].
        """
        rows = list(range(hidden.shape[0]))
        codes: list[list[int]] = [[] for _ in rows]
        x, cache = hidden, cache.rows(slice(len(rows)))  # x: from the second position on the sum of the embeddings
        for level, size in enumerate(self.codebook_sizes):
            logits = self.step(x, level, cache)
            drawn = choose(level, rows, logits if level == 0 else logits[:, :size])
            if level == 0 and size in drawn:
                kept = [index for index, code in enumerate(drawn) if code != size]
                rows, drawn = [rows[index] for index in kept], [drawn[index] for index in kept]
                x, cache = x[kept], cache.rows(kept)
                if not rows:
                    break
            for row, code in zip(rows, drawn, strict=True):
                codes[row].append(code)
            embedded = self.embedding(level).weight[drawn]
            x = embedded if level == 0 else x + embedded
        return [tuple(row) or None for row in codes], x

    def frame(
        self, hidden: Tensor, cache: DepthCache, choose: Callable[[int, Tensor], int]
    ) -> tuple[list[int], Tensor] | None:
        """`frames` for one row: hidden [1, D] -> K codes, and their summed embedding [1, D]; None at the end of audio.

        `choose(level, logits [size + 1])` picks a code.
        """
        codes, embedded = self.frames(hidden, cache, lambda level, rows, logits: [choose(level, logits[0])])
        return None if codes[0] is None else (list(codes[0]), embedded)
