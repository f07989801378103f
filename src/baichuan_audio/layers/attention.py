"""The Transformer layer that encoder, audio decoder and prenet share (Whisper's layout and key names)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head self-attention; q, v and the output have biases, k has none.

    x [B, T, D], mask [B, 1, T, T] or [B, 1, 1, T] (True = may be seen) -> [B, T, D].
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


class TransformerLayer(nn.Module):
    """Pre-norm layer: x += attention(norm(x)); x += fc2(GELU(fc1(norm(x)))), GELU exact.

    `norm` makes the two norms: LayerNorm in encoder and audio decoder, RMSNorm in the prenet.
    """

    def __init__(self, width: int, heads: int, ffn_width: int, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.self_attn_layer_norm = norm(width)
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)
        self.final_layer_norm = norm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """x [B, T, D] -> [B, T, D]; `causal` and `mask` exclude each other."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask, causal)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
