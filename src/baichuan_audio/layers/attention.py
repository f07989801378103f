"""The Transformer layer that encoder, audio decoder and prenet share (Whisper's layout and key names)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kv_cache import KVCache

_BLOCK = 256  # positions of causal attention at a time in training on a CPU; 128 and 512 were a little slower


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """query [B, H, N, w] over keys and values [B, G, L, w] (H a multiple of G) -> [B, H, N, w].

    mask (True = visible) broadcasts to [B, H, N, L] where H = G. `causal`, where N = L, excludes a mask.
    """
    if query.requires_grad and values.dtype == torch.bfloat16 and query.device.type == "cpu":
        return _attend_for_training(query, keys, values, mask, causal)
    repeats = query.shape[1] // keys.shape[1]
    if repeats > 1:
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=causal)


def _attend_for_training(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """`attend` as two matrix products: the backward pass of torch's kernel takes four times as long here.

    Causal attention goes block by block, so that less is computed of what is not visible.
    """
    positions = query.shape[2]
    if not causal or positions <= _BLOCK:
        visible = torch.ones(positions, positions, dtype=torch.bool, device=query.device).tril() if causal else mask
        return _products(query, keys, values, visible)
    visible = torch.ones(_BLOCK, _BLOCK, dtype=torch.bool, device=query.device).tril()
    blocks = []
    for start in range(0, positions, _BLOCK):
        end = min(positions, start + _BLOCK)
        rows = end - start
        blocks.append(_products(query[:, :, start:end], keys[:, :, :end], values[:, :, :end], visible[:rows, :rows]))
    return torch.cat(blocks, dim=2)


def _products(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """`attend`; a mask of fewer columns is that of the last keys, those before are visible."""
    batch, heads, positions, width = query.shape
    groups = keys.shape[1]
    rows = (query * width**-0.5).to(values.dtype).reshape(batch, groups, -1, width)
    scores = torch.matmul(rows, keys.to(values.dtype).transpose(-1, -2))
    if mask is not None:
        scores.view(batch, heads, positions, -1)[..., -mask.shape[-1] :].masked_fill_(~mask, -torch.inf)
    # The softmax of bfloat16 adds up in float32; converting the scores first changes nothing but the time (3 x).
    return torch.matmul(scores.softmax(-1), values).view(batch, heads, positions, width)


class SelfAttention(nn.Module):
    """Multi-head self-attention; q, v and the output have biases, k has none.

    x [B, T, D], mask [B, 1, T, T] or [B, 1, 1, T] (True = visible) -> [B, T, D]. With `past`, a cache and the
    index of the layer in it, x also attends to the cached positions; the mask is then [T, cached + T].
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, causal: bool = False, past: tuple[KVCache, int] | None = None
    ) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if past is not None:
            cache, layer = past
            key, value = cache.append(layer, key, value)
        mixed = attend(query, key, value, mask, causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


class TransformerLayer(nn.Module):
    """Pre-norm layer: x += attention(norm(x)); x += fc2(GELU(fc1(norm(x)))), GELU exact.

    norm: makes the two norms; LayerNorm in encoder and audio decoder, RMSNorm in the prenet.
    """

    def __init__(self, width: int, heads: int, ffn_width: int, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.self_attn_layer_norm = norm(width)
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)
        self.final_layer_norm = norm(width)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, causal: bool = False, past: tuple[KVCache, int] | None = None
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]; `causal` and `mask` exclude each other."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask, causal, past)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))

    def new_cache(self, layers: int, batch: int) -> KVCache:
        """An empty cache for `layers` layers like this one."""
        weight, heads = self.self_attn.k_proj.weight, self.self_attn.heads
        return KVCache(layers, batch, heads, weight.shape[0] // heads, weight.dtype, weight.device)


def run_causal(layers: Iterable[nn.Module], x: Tensor, cache: KVCache | None) -> Tensor:
    """x [B, T, D] through causal `TransformerLayer`s. With a cache, x are the next positions of its sequence."""
    if cache is None:
        for layer in layers:
            x = layer(x, causal=True)
        return x
    new, cached = x.shape[1], cache.length
    cache.reserve(new)
    mask = torch.ones(new, cached + new, dtype=torch.bool, device=x.device).tril(cached)
    for i, layer in enumerate(layers):
        x = layer(x, mask, past=(cache, i))
    cache.advance(new)
    return x
