"""Layers for a CPU with as few operations as possible: a small model's step takes time by their number.

For one row, everything but matrix products is done by numpy on the tensors' own memory: its calls take a quarter of the
time of torch's. A Linear is `Fp32Linear` or `Int8Linear`; both have `onto`, which adds the product to a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...generation.sequence import Token
from ...language_model.audio_head import AudioHead, DepthCache, DepthLayer
from ...language_model.backbone import Context, DecoderLayer, rotate
from ...language_model.model import LanguageModel
from ...layers.kv_cache import KVCache
from ...layers.module_copy import module_copy_as
from ..modules import fused_gate_up, linear

Choose = Callable[[int, list[int], Tensor], list[int]]
_HALF_ROOT = 0.5**0.5
_MAX_STEP_POSITIONS = 32


class InferenceLinear(Protocol):
    """A Linear. x [..., in] -> [..., out]; `onto`: rest [B, out] plus the product of x [B, in], for one without bias;
    `into`: the product of x [B, in] written into out [B, out]."""

    def forward(self, x: Tensor) -> Tensor: ...
    def onto(self, x: Tensor, rest: Tensor) -> Tensor: ...
    def into(self, x: Tensor, out: Tensor) -> None: ...


LinearFactory = Callable[[nn.Linear], nn.Module]
"""Makes an InferenceLinear of a Linear."""


class Fp32Linear(nn.Module):
    """The float32 product over the layer's own memory."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(source.weight.detach(), requires_grad=False)
        # plain attributes: looking up a module's parameters is slow
        self._transposed = self.weight.detach().T
        self._bias = None if source.bias is None else source.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim > 2 or self._bias is None:
            return F.linear(x, self._transposed.T, self._bias)
        return torch.addmm(self._bias, x, self._transposed)

    def onto(self, x: Tensor, rest: Tensor) -> Tensor:
        return torch.addmm(rest, x, self._transposed)

    def into(self, x: Tensor, out: Tensor) -> None:
        if self._bias is None:
            torch.mm(x, self._transposed, out=out)
        else:
            torch.addmm(self._bias, x, self._transposed, out=out)


def transposed_linear(source: nn.Linear) -> Fp32Linear:
    """Fp32Linear over a copy with layout [in, out]: twice as fast for one row and a matrix in the processor's cache."""
    return Fp32Linear(linear(source.weight.detach().T.contiguous().T, source.bias))


class FastRMSNorm:
    """RMSNorm: one row by numpy; several by one reduction |x|, from which hypot gives the root mean square with eps."""

    def __init__(self, norm: nn.Module) -> None:
        weight, eps = norm.weight, norm.eps
        assert isinstance(weight, Tensor) and isinstance(eps, float)
        width = weight.shape[0]
        self._gain = weight.detach().float() * width**0.5
        self._row, self._sum_eps = self._gain.numpy(), width * eps
        self._floor = torch.full_like(self._gain[:1], self._sum_eps**0.5)

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, D] float32 -> [B, D]."""
        if x.shape[0] > 1:
            return (x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floor)).mul_(self._gain)
        row = x.numpy()[0]
        result = np.empty_like(row)
        self.into(row, result)
        return torch.from_numpy(result)[None]

    def into(self, row: np.ndarray, out: np.ndarray) -> None:
        """row [D] -> out [D], which may be row."""
        scale = (float(row.dot(row)) + self._sum_eps) ** -0.5
        np.multiply(row, self._row, out=out)
        out *= scale


class FusedRMSNorm(nn.Module):
    """`FastRMSNorm` as a module, to replace an RMSNorm."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.weight, self.eps, self._norm = source.weight, source.eps, FastRMSNorm(source)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D]."""
        return self._norm(x.reshape(-1, x.shape[-1])).view(x.shape)


# ------------------------------------------------------------------------------------------------ backbone


class FusedDecoderLayer(nn.Module):
    """`DecoderLayer` for inference in float32 on a CPU; gate and up are one matrix product."""

    def __init__(self, source: DecoderLayer, make: LinearFactory) -> None:
        super().__init__()
        attention, mlp = source.self_attn, source.mlp
        self.layer, self.heads, self.groups = attention.layer, attention.heads, attention.groups
        self.width = attention.width
        self._first, self._second = FastRMSNorm(source.input_layernorm), FastRMSNorm(source.post_attention_layernorm)
        self.pack, self.mix = make(attention.W_pack), make(attention.o_proj)
        self.gate_up, self.down = make(linear(fused_gate_up(mlp))), make(mlp.down_proj)
        pack, mix, gate_up, down = (
            cast(InferenceLinear, layer) for layer in (self.pack, self.mix, self.gate_up, self.down)
        )
        self._calls = pack.forward, mix.onto, gate_up.forward, down.onto  # bypasses Module.__call__, which is slow

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """See DecoderLayer."""
        batch, positions, width = x.shape
        pack, mix_onto, gate_up, down_onto = self._calls
        rows, heads, groups = x.reshape(-1, width), self.heads, self.groups
        packed = pack(self._first(rows))
        if rows.shape[0] == 1:
            rotate_row(packed, (heads + groups) * self.width, context.cos, context.sin)
            query, key, value = packed.view(1, -1, 1, self.width).split_with_sizes((heads, groups, groups), 1)
        else:
            packed = packed.view(batch, positions, -1, self.width).transpose(1, 2)
            rotated, value = packed.split((heads + groups, groups), dim=1)
            query, key = rotate(rotated, context.cos, context.sin).split((heads, groups), dim=1)
        mixed = context.attend(self.layer, query, key, value)
        rows = mix_onto(mixed.transpose(1, 2).reshape(rows.shape[0], -1), rows)
        gate, up = gate_up(self._second(rows)).chunk(2, dim=-1)
        return down_onto(F.silu(gate).mul_(up), rows).view(x.shape)


def rotate_row(packed: Tensor, size: int, cos: Tensor, sin: Tensor) -> None:
    """`rotate` for the first `size` numbers of packed [1, P], in place; cos, sin [1, head_dim]."""
    width = cos.shape[-1]
    halves = packed.numpy()[0, :size].reshape(-1, 2, width // 2)  # still packed's memory
    swapped = halves[:, ::-1] * sin.numpy().reshape(2, -1)
    halves *= cos.numpy().reshape(2, -1)
    halves += swapped


class FusedKVCache(KVCache):
    """`KVCache` that caches the views of each layer."""

    def __init__(self, source: KVCache) -> None:
        self.length, self._store = source.length, source._store
        self._seen, self._layers = self._store, list(self._store.unbind())

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """See KVCache."""
        if self._seen is not self._store:  # it has grown
            self._seen, self._layers = self._store, list(self._store.unbind())
        count = key.shape[2]
        keys, values = self._layers[layer].unbind()
        keys.narrow(2, self.length, count).copy_(key)
        values.narrow(2, self.length, count).copy_(value)
        end = self.length + count
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)


class FusedLanguageModel(LanguageModel):
    """`LanguageModel` for inference in float32 on a CPU."""

    _text_row: Callable[[int], np.ndarray]
    _frame_rows: list[np.ndarray]

    def init_cache(self, batch: int = 1, capacity: int = 256) -> KVCache:
        """See Backbone."""
        return FusedKVCache(super().init_cache(batch, capacity))

    @classmethod
    def from_model(cls, source: LanguageModel, make: LinearFactory) -> FusedLanguageModel:
        """An inference copy of `source` whose Linear layers are made by `make`."""
        model = module_copy_as(cls, source)
        layers = [FusedDecoderLayer(cast(DecoderLayer, layer), make) for layer in source.layers]
        model.layers, model.norm = nn.ModuleList(layers), FusedRMSNorm(source.norm)  # type: ignore[assignment]
        model.lm_head = make(source.lm_head)  # type: ignore[assignment]
        model._text_row = model.embed_tokens.weight.detach().numpy().__getitem__
        model._frame_rows = rows_of(model.audio_embed_layers)
        return model

    def embed_sequence(self, tokens: Sequence[Token]) -> Tensor:
        """See LanguageModel; the few tokens of a step are looked up without tensors of ids and codes."""
        if len(tokens) > _MAX_STEP_POSITIONS:
            return super().embed_sequence(tokens)
        result = np.zeros((len(tokens), self.config.hidden_size), np.float32)
        for row, token in zip(result, tokens, strict=True):
            if not isinstance(token, tuple):
                row[:] = self._text_row(token)
                continue
            for table, code in zip(self._frame_rows, token, strict=True):
                row += table[code]
        return torch.from_numpy(result)


def rows_of(embeddings: nn.ModuleList) -> list[np.ndarray]:
    """The tables [size + 1, D] of the codebooks."""
    return [cast(nn.Embedding, embedding).weight.detach().numpy() for embedding in embeddings]


# ---------------------------------------------------------------------------------------------- audio head


class FusedDepthLayer(nn.Module):
    """`DepthLayer` with the weights of each position contiguous: a copy, because they are stored interleaved.

    gelu(u) = u (1 + erf(u / sqrt 2)) / 2; up gives and down takes u / sqrt 2, so that two operations compute it.
    """

    def __init__(self, source: DepthLayer, make: LinearFactory) -> None:
        super().__init__()
        attention, width, count = source.self_attention, source.width, source.positions
        self.first, self.second = FastRMSNorm(source.layernorm1), FastRMSNorm(source.layernorm2)
        self.pack = make(linear(attention.in_proj_weight, attention.in_proj_bias))
        self.mix = make(attention.out_proj)
        up = source.linear1.weight.detach().view(2 * width, count, width) * _HALF_ROOT
        down = source.linear2.weight.detach().view(width, count, 2 * width) * _HALF_ROOT
        self.up = nn.ModuleList([make(linear(_transposed(up[:, i]))) for i in range(count)])
        self.down = nn.ModuleList([make(linear(_transposed(down[:, i]))) for i in range(count)])
        shared = cast(tuple[InferenceLinear, InferenceLinear], (self.pack, self.mix))
        self.products = [
            (*shared, cast(InferenceLinear, u), cast(InferenceLinear, d))
            for u, d in zip(self.up, self.down, strict=True)
        ]
        self.into = [tuple(product.into for product in products) for products in self.products]


def _transposed(weight: Tensor) -> Tensor:
    """The same [out, in], in memory [in, out]."""
    return weight.T.contiguous().T


class _AttentionBuffers:
    """Views of query, keys and values of each position in the buffer of one layer, for a batch size."""

    def __init__(self, batch: int, positions: int, width: int, head_dim: int, like: Tensor) -> None:
        memory = like.new_zeros(positions, batch, 3 * width)
        parts = memory.view(positions, batch, 3, -1, head_dim).permute(2, 1, 3, 0, 4)
        query, key, value = parts  # [B, heads, K, w]
        self.packed = list(memory)
        self.query = [query[:, :, i : i + 1] for i in range(positions)]
        self.keys = [key[:, :, : i + 1] for i in range(positions)]
        self.values = [value[:, :, : i + 1] for i in range(positions)]


class _RowBuffers:
    """Buffers for the frame of one row, each as a tensor [1, n] and as an array [n]."""

    def __init__(self, width: int, sizes: Sequence[int]) -> None:
        self.x, self.normed, self.residual, self.mixed, self.up, self.fed = (
            _tensor_and_array(n) for n in (width, width, width, width, 2 * width, 2 * width)
        )
        self.logits = [_tensor_and_array(size + 1)[0] for size in sizes]
        self.choices = [logits if level == 0 else logits[:, :-1] for level, logits in enumerate(self.logits)]


def _tensor_and_array(size: int) -> tuple[Tensor, np.ndarray]:
    tensor = torch.zeros(1, size)
    return tensor, tensor.numpy()[0]


class FusedDepthCache(DepthCache):
    """Buffers of a frame, for each batch size used so far."""

    def __init__(self, layers: int, width: int, head_dim: int, sizes: Sequence[int], like: Tensor) -> None:
        self._layers, self._shape, self._like = layers, (len(sizes), width, head_dim), like
        self._buffers_of = dict[int, list[_AttentionBuffers]]()
        self.line = _RowBuffers(width, sizes)

    def views(self, batch: int) -> list[_AttentionBuffers]:
        """One for each layer."""
        if batch not in self._buffers_of:
            made = [_AttentionBuffers(batch, *self._shape, self._like) for _ in range(self._layers)]
            self._buffers_of[batch] = made
        return self._buffers_of[batch]


class FusedAudioHead(AudioHead):
    """`AudioHead` for inference in float32 on a CPU."""

    _depth: list[FusedDepthLayer]
    _last_norm: FastRMSNorm
    _logits_of: list[InferenceLinear]
    _embedded_rows: list[np.ndarray]

    @classmethod
    def from_head(cls, source: AudioHead, make: LinearFactory) -> FusedAudioHead:
        """An inference copy of `source` (as loaded) whose Linear layers are made by `make`."""
        head = module_copy_as(cls, source)
        layers = [FusedDepthLayer(cast(DepthLayer, layer), make) for layer in source.transformer_layers]
        head.transformer_layers, head._depth = nn.ModuleList(layers), layers
        head._last_norm = FastRMSNorm(source.headnorm)
        head.heads = nn.ModuleList([make(cast(nn.Linear, projection)) for projection in source.heads])
        head._logits_of = [cast(InferenceLinear, projection) for projection in head.heads]
        return head

    def attach_embeddings(self, embeddings: nn.ModuleList) -> None:
        """See AudioHead."""
        super().attach_embeddings(embeddings)
        self._embedded_rows = rows_of(embeddings)

    def init_cache(self, batch: int = 1) -> DepthCache:
        """See AudioHead; any batch fits."""
        return FusedDepthCache(len(self._depth), self.width, self.head_dim, self.codebook_sizes, self.headnorm.weight)

    def step(self, x: Tensor, position: int, cache: DepthCache) -> Tensor:
        """See AudioHead."""
        assert isinstance(cache, FusedDepthCache)
        for layer, views in zip(self._depth, cache.views(x.shape[0]), strict=True):
            pack, mix, up, down = layer.products[position]
            pack.into(layer.first(x), views.packed[position])
            mixed = views.values[0]  # one position attends to itself only
            if position:
                mixed = F.scaled_dot_product_attention(
                    views.query[position], views.keys[position], views.values[position]
                )
            residual = layer.second(mix.forward(mixed.reshape(x.shape)).add_(x))
            fed = up.forward(residual)
            x = down.onto(torch.addcmul(fed, fed, torch.erf(fed)), residual)
        return self._logits_of[position].forward(self._last_norm(x))

    def _choices(self, x: Tensor, position: int, cache: DepthCache) -> Tensor:
        """`step` -> logits of the codes [B, size], of codebook 0 with the end of audio [B, size + 1]."""
        assert isinstance(cache, FusedDepthCache)
        if x.shape[0] > 1:
            logits = self.step(x, position, cache)
            return logits[:, :-1] if position else logits
        cache.line.x[1][:] = x.numpy()[0]
        return self._step_one(cache.line, position, cache)

    def _step_one(self, line: _RowBuffers, position: int, cache: FusedDepthCache) -> Tensor:
        """`step` for one row, whose input is in `line.x`, in existing buffers -> logits as in `_choices`."""
        (x, x_row), (normed, normed_row), (residual, residual_row) = line.x, line.normed, line.residual
        (mixed, mixed_row), (up, up_row), (fed, fed_row) = line.mixed, line.up, line.fed
        for layer, views in zip(self._depth, cache.views(1), strict=True):
            pack_into, mix_into, up_into, down_into = layer.into[position]
            layer.first.into(x_row, normed_row)
            pack_into(normed, views.packed[position])
            seen = views.values[0]
            if position:
                seen = F.scaled_dot_product_attention(
                    views.query[position], views.keys[position], views.values[position]
                )
            mix_into(seen.reshape(1, -1), mixed)
            np.add(mixed_row, x_row, out=residual_row)
            layer.second.into(residual_row, residual_row)
            up_into(residual, up)
            torch.erf(up, out=fed)
            np.add(fed_row, 1.0, out=fed_row)
            np.multiply(fed_row, up_row, out=fed_row)
            down_into(fed, x)
            np.add(x_row, residual_row, out=x_row)
        self._last_norm.into(x_row, normed_row)
        self._logits_of[position].into(normed, line.logits[position])
        return line.choices[position]

    def _logits(self, hidden: Tensor, codes: Tensor, count: int) -> list[Tensor]:
        """See AudioHead; position by position."""
        cache, x, result = self.init_cache(), hidden, []
        for level in range(count):
            if level:
                embedded = self.embedding(level - 1)(codes[:, level - 1])
                x = embedded if level == 1 else x + embedded
            result.append(self.step(x, level, cache))
        return result

    @torch.inference_mode()
    def frames(self, hidden: Tensor, cache: DepthCache, choose: Choose) -> tuple[list[tuple[int, ...] | None], Tensor]:
        """See AudioHead. A row whose audio ends is still computed, and dropped at the end of the frame."""
        batch = hidden.shape[0]
        rows, x = list(range(batch)), hidden
        codes = [[0] * self.num_codebooks for _ in rows]
        total = np.zeros(hidden.shape, np.float32)
        for level, size in enumerate(self.codebook_sizes):
            logits = self._choices(x, level, cache)
            drawn = choose(level, rows, logits if len(rows) == batch else logits[rows])
            for row, code in zip(rows, drawn, strict=True):
                codes[row][level] = code
            if level == 0 and size in drawn:
                rows = [row for row, code in zip(rows, drawn, strict=True) if code != size]
                if not rows:
                    return [None] * batch, x[:0]
            table = self._embedded_rows[level]
            for row, row_codes in enumerate(codes):
                total[row] += table[row_codes[level]]
            x = torch.from_numpy(total)
        active = set(rows)
        return [tuple(row_codes) if row in active else None for row, row_codes in enumerate(codes)], x[rows]
