"""Whisper's text decoder: reads encoder features and writes text (arXiv 2212.04356, 2.2).

It is the nearest text model for the audio tokenizer's text loss: it reads these features already, so its cross-entropy
of a transcript says how much of the words a quantiser has kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import CheckpointError
from ..layers.attention import SelfAttention, attend
from .whisper import PretrainedWhisper


class CrossAttention(SelfAttention):
    """Queries from the text, keys and values from the audio features; the parameters of `SelfAttention`."""

    def project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features [B, L, D] -> keys and values [B, H, L, w]."""
        keys, values = (
            projection(features).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.k_proj, self.v_proj)
        )
        return keys, values

    def read(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, N, D] over projected features, mask [B, 1, 1, L] (True = may be seen) -> [B, N, D]."""
        query = self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if mask is not None:
            mask = mask.expand(-1, self.heads, query.shape[2], -1)
        mixed: Tensor = self.out_proj(attend(query, keys, values, mask).transpose(1, 2).flatten(-2))
        return mixed


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and feed-forward, each pre-norm with a residual."""

    def __init__(self, width: int, heads: int, ffn_width: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = CrossAttention(width, heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, N, D], features [B, L, D], mask [B, 1, 1, L] -> [B, N, D]."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), causal=True)
        x = x + self.encoder_attn.read(self.encoder_attn_layer_norm(x), *self.encoder_attn.project(features), mask)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class WhisperTextDecoder(nn.Module):
    """Text ids and audio features -> logits of the next id. The output layer is the embedding itself."""

    def __init__(self, width: int, layers: int, heads: int, ffn_width: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.embed_positions = nn.Embedding(positions, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, ffn_width) for _ in range(layers))
        self.layer_norm = nn.LayerNorm(width)

    @classmethod
    def from_pretrained(cls, whisper: PretrainedWhisper) -> WhisperTextDecoder:
        """The decoder of a Whisper model. Raises CheckpointError where its tensors do not fit."""
        tensors = {
            name.removeprefix("decoder."): t for name, t in whisper.tensors.items() if name.startswith("decoder.")
        }
        try:
            vocabulary, width = tensors["embed_tokens.weight"].shape
            layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
            positions, ffn_width = tensors["embed_positions.weight"].shape[0], tensors["layers.0.fc1.weight"].shape[0]
            decoder = cls(width, layers, whisper.encoder["encoder_attention_heads"], ffn_width, vocabulary, positions)
            decoder.load_state_dict(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"the Whisper model's text decoder cannot be built ({error}).") from error
        return decoder

    def forward(self, ids: Tensor, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """ids [B, N], features [B, L, D], valid features [B] (None: all) -> logits [B, N, vocabulary]."""
        mask = None
        if lengths is not None:
            mask = (torch.arange(features.shape[1], device=features.device) < lengths[:, None])[:, None, None]
        x = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, features, mask)
        return F.linear(self.layer_norm(x), self.embed_tokens.weight)
