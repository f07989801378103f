"""The prenet: decoder hidden states to `mu`, a first estimate of the mel that conditions the flow."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..layers.attention import TransformerLayer, run_causal
from ..layers.kv_cache import KVCache
from ..layers.norm import RMSNorm


class Prenet(nn.Module):
    """MLP, causal pre-norm Transformer layers with RMSNorm, RMSNorm, linear (docs/model.md, 4.5).

    Args:
        in_dim: width of the audio decoder's hidden states, D.
        d_model: width inside.
        num_heads: attention heads.
        ffn_dim: width of the layers' feed-forward.
        num_layers: Transformer layers.
        out_dim: mel bins, M.
        max_positions: rows of the stored, unused table of positions.
    """

    def __init__(
        self,
        in_dim: int,
        d_model: int,
        num_heads: int,
        ffn_dim: int,
        num_layers: int,
        out_dim: int,
        max_positions: int,
    ) -> None:
        super().__init__()
        self.in_mlp = nn.Sequential(nn.Linear(in_dim, 4 * d_model), nn.SiLU(), nn.Linear(4 * d_model, d_model))
        self.transformer_layers = nn.ModuleList(
            TransformerLayer(d_model, num_heads, ffn_dim, norm=RMSNorm) for _ in range(num_layers)
        )
        self.final_norm = RMSNorm(d_model)
        self.out_proj = nn.Linear(d_model, out_dim, bias=False)
        # The released checkpoints hold this table although it is not used.
        self.register_buffer("positional_embedding", torch.zeros(max_positions, d_model))

    def init_cache(self, batch: int = 1) -> KVCache:
        """The state before the first frame of a stream."""
        return cast(TransformerLayer, self.transformer_layers[0]).new_cache(len(self.transformer_layers), batch)

    def forward(self, hidden: Tensor, cache: KVCache | None = None) -> Tensor:
        """Decoder hidden states [L, D] or [B, L, D] -> mu [L, M] or [B, L, M], one frame for each.

        Causal: padding at the end of a row does not change earlier frames. With a cache, `hidden` are the next frames
        of its stream, and the result equals that of the whole sequence at those frames.
        """
        x = self.in_mlp(hidden if hidden.dim() == 3 else hidden[None])
        x = run_causal(self.transformer_layers, x, cache)
        mu: Tensor = self.out_proj(self.final_norm(x))
        return mu if hidden.dim() == 3 else mu[0]
