"""Forms for a CPU, where a small model's step takes as long as its number of operations: as few of them as can be.

Weights are read without modules around them, products add to what they are added to anyway, and where keys and values
of a frame lie is worked out once for each batch size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..language_model.audio_head import HEAD_DIM, AudioHead, DepthCache, DepthLayer
from ..language_model.backbone import Context, DecoderLayer, rotate

Choose = Callable[[int, list[int], Tensor], list[int]]


@dataclass(frozen=True)
class Gain:
    """An RMSNorm as one reduction: sqrt(mean(x^2) + eps) = hypot(|x|, sqrt(D eps)) / sqrt(D)."""

    gain: Tensor
    floor: Tensor

    @classmethod
    def of(cls, norm: nn.Module) -> Gain:
        weight, eps = norm.weight, norm.eps
        assert isinstance(weight, Tensor) and isinstance(eps, float)
        width = weight.shape[0]
        return cls(weight.detach() * width**0.5, torch.full_like(weight[:1], (width * eps) ** 0.5))

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., D] float32 -> [..., D]."""
        return (x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.floor)).mul_(self.gain)


class QuickNorm(nn.Module):
    """`Gain` in the place of a RMSNorm."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.weight, self.quick = source.weight, Gain.of(source)

    def forward(self, x: Tensor) -> Tensor:
        return self.quick(x)


class QuickDecoderLayer(nn.Module):
    """`DecoderLayer` for inference in float32 on a CPU; gate and up are one product."""

    def __init__(self, source: DecoderLayer, gate_up: Tensor) -> None:
        super().__init__()
        attention, mlp = source.self_attn, source.mlp
        self.self_attn, self.down_proj = attention, mlp.down_proj  # whose tensors these are
        self.layer, self.heads, self.groups = attention.layer, attention.heads, attention.groups
        self.width = attention.width
        self.first, self.second = Gain.of(source.input_layernorm), Gain.of(source.post_attention_layernorm)
        self.pack = attention.W_pack
        self.mixed_weight, self.gate_up = attention.o_proj.weight.T, nn.Parameter(gate_up, requires_grad=False)
        self.down_weight = mlp.down_proj.weight.T

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """See DecoderLayer."""
        batch, positions, width = x.shape
        rows = x.reshape(-1, width)
        packed = F.linear(self.first(rows), self.pack.weight, self.pack.bias)
        packed = packed.view(batch, positions, -1, self.width).transpose(1, 2)
        rotated, value = packed.split((self.heads + self.groups, self.groups), dim=1)
        query, key = rotate(rotated, context.cos, context.sin).split((self.heads, self.groups), dim=1)
        mixed = context.attend(self.layer, query, key, value)
        rows = torch.addmm(rows, mixed.transpose(1, 2).reshape(rows.shape[0], -1), self.mixed_weight)
        gate, up = F.linear(self.second(rows), self.gate_up).chunk(2, dim=-1)
        return torch.addmm(rows, F.silu(gate).mul_(up), self.down_weight).view(x.shape)


@dataclass(frozen=True)
class _Depth:
    """One layer of the audio head. Weights stand to the right of what they multiply; up and down: one a position."""

    first: Gain
    second: Gain
    pack: Tensor
    pack_bias: Tensor
    mix: Tensor
    mix_bias: Tensor
    up: list[Tensor]
    down: list[Tensor]

    @classmethod
    def of(cls, source: DepthLayer) -> _Depth:
        attention, width, count = source.self_attention, source.width, source.positions
        up = source.linear1.weight.detach().view(2 * width, count, width)
        down = source.linear2.weight.detach().view(width, count, 2 * width)
        return cls(
            Gain.of(source.layernorm1),
            Gain.of(source.layernorm2),
            attention.in_proj_weight.detach().T,
            attention.in_proj_bias.detach(),
            attention.out_proj.weight.detach().T,
            attention.out_proj.bias.detach(),
            [up[:, i].T.contiguous() for i in range(count)],
            [down[:, i].T.contiguous() for i in range(count)],
        )


class _Views:
    """Where query, keys and values of each position lie, in one layer's memory for a batch."""

    def __init__(self, batch: int, positions: int, width: int, like: Tensor) -> None:
        memory = like.new_zeros(positions, batch, 3 * width)
        parts = memory.view(positions, batch, 3, width // HEAD_DIM, HEAD_DIM).permute(2, 1, 3, 0, 4)
        query, key, value = parts  # [B, heads, K, 128]
        self.packed = list(memory)
        self.query = [query[:, :, i : i + 1] for i in range(positions)]
        self.keys = [key[:, :, : i + 1] for i in range(positions)]
        self.values = [value[:, :, : i + 1] for i in range(positions)]


class QuickCache(DepthCache):
    """The memory of a frame, for each batch size that has come up."""

    def __init__(self, layers: int, positions: int, width: int, like: Tensor) -> None:
        self._sizes, self._views = (layers, positions, width, like), dict[int, list[_Views]]()

    def views(self, batch: int) -> list[_Views]:
        """One for each layer."""
        if batch not in self._views:
            layers, positions, width, like = self._sizes
            self._views[batch] = [_Views(batch, positions, width, like) for _ in range(layers)]
        return self._views[batch]


class QuickHead(AudioHead):
    """`AudioHead` for inference in float32 on a CPU."""

    def prepare(self) -> None:
        """Lay the weights out; `transformer_layers` and the norm must be those of a model as loaded."""
        self._depth = [_Depth.of(layer) for layer in self.transformer_layers if isinstance(layer, DepthLayer)]
        self.laid_out = nn.ParameterList([each for layer in self._depth for each in (*layer.up, *layer.down)])
        self.laid_out.requires_grad_(False)
        self._last_norm = Gain.of(self.headnorm)
        self._logits_of = [(head.weight.detach(), head.bias.detach()) for head in self.heads]  # type: ignore[union-attr,operator]

    def init_cache(self, batch: int = 1) -> QuickCache:
        """See AudioHead; any batch fits."""
        return QuickCache(len(self._depth), self.num_codebooks, self.width, self._depth[0].mix_bias)

    def step(self, x: Tensor, position: int, cache: DepthCache) -> Tensor:
        """See AudioHead."""
        assert isinstance(cache, QuickCache)
        for layer, views in zip(self._depth, cache.views(x.shape[0]), strict=True):
            torch.addmm(layer.pack_bias, layer.first(x), layer.pack, out=views.packed[position])
            mixed = views.values[0]  # of one position, what it sees is itself
            if position:
                mixed = F.scaled_dot_product_attention(
                    views.query[position], views.keys[position], views.values[position]
                )
            residual = layer.second(torch.addmm(layer.mix_bias, mixed.reshape(x.shape), layer.mix).add_(x))
            x = torch.addmm(residual, F.gelu(residual @ layer.up[position]), layer.down[position])
        return F.linear(self._last_norm(x), *self._logits_of[position])

    @torch.inference_mode()
    def frames(self, hidden: Tensor, cache: DepthCache, choose: Choose) -> tuple[list[tuple[int, ...] | None], Tensor]:
        """See AudioHead. A row whose audio ends is computed on, and dropped at the end of the frame."""
        batch = hidden.shape[0]
        rows, x = list(range(batch)), hidden
        codes = [[0] * self.num_codebooks for _ in rows]
        for level, size in enumerate(self.codebook_sizes):
            logits = self.step(x, level, cache)
            logits = logits[:, :size] if level else logits
            drawn = choose(level, rows, logits if len(rows) == batch else logits[rows])
            for row, code in zip(rows, drawn, strict=True):
                codes[row][level] = code
            if level == 0 and size in drawn:
                rows = [row for row, code in zip(rows, drawn, strict=True) if code != size]
                if not rows:
                    return [None] * batch, x[:0]
            embedded = self._embedded(level, [each[level] for each in codes])
            x = embedded if level == 0 else x + embedded
        going_on = set(rows)
        return [tuple(each) if row in going_on else None for row, each in enumerate(codes)], x[rows]

    def _embedded(self, level: int, codes: list[int]) -> Tensor:
        """codes [B] of one codebook -> embeddings [B, D]; a single one is a view of its table."""
        table = self.embedding(level).weight
        return table[codes[0] : codes[0] + 1] if len(codes) == 1 else table[torch.tensor(codes)]
