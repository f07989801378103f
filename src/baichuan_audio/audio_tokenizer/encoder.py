"""Whisper-style encoder: log-mel at 100 Hz to features at 50 Hz (docs/model.md, 3.3; arXiv 2212.04356)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.attention import TransformerLayer
from ..layers.lengths import valid_mask
from .config import AudioConfig


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's position table [length, width]: sines in the first half, cosines in the second."""
    half = width // 2
    cpu = torch.device("cpu")  # not on the meta device, where arange would import torch's compiler
    rates = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, dtype=torch.float32, device=cpu))
    angles = torch.arange(length, dtype=torch.float32, device=cpu)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class AudioEncoder(nn.Module):
    """conv -> conv (stride 2) -> + positions -> Transformer layers over the whole piece -> LayerNorm."""

    positional_embedding: Tensor

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.stride = config.stride_size
        padding = (config.kernel_size - 1) // 2
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, config.kernel_size, padding=padding)
        self.conv2 = nn.Conv1d(
            config.d_model, config.d_model, config.kernel_size, stride=config.stride_size, padding=padding
        )
        self.register_buffer("positional_embedding", sinusoids(config.encoder_positions, config.d_model))
        self.layers = nn.ModuleList(
            TransformerLayer(config.d_model, config.encoder_attention_heads, config.encoder_ffn_dim)
            for _ in range(config.encoder_layers)
        )
        self.layer_norm = nn.LayerNorm(config.d_model)

    def output_lengths(self, mel_lengths: Tensor) -> Tensor:
        """Number of 50 Hz frames for numbers of 100 Hz mel frames, [B] -> [B]."""
        return (mel_lengths - 1) // self.stride + 1

    def forward(self, log_mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """log_mel [B, M, T], valid mel frames [B] (None: all) -> features [B, L, D].

        Padding has no effect: the result for a row is the same in any batch.
        """
        features = log_mel
        for stage in self.layerwise(log_mel, lengths):
            features = stage
        return features

    def layerwise(self, log_mel: Tensor, lengths: Tensor | None = None) -> Iterator[Tensor]:
        """`forward` in steps: yields after each layer; the last value is the features."""
        x, mask = log_mel, None
        if lengths is not None:
            x = x * valid_mask(lengths, x.shape[-1])[:, None]
        x = F.gelu(self.conv1(x))
        if lengths is not None:
            x = x * valid_mask(lengths, x.shape[-1])[:, None]
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        if lengths is not None:
            mask = valid_mask(self.output_lengths(lengths), x.shape[1])[:, None, None, :]
        x = x + self.positional_embedding[: x.shape[1]].to(x.dtype)
        for layer in self.layers:
            yield x
            x = layer(x, mask)
        yield self.layer_norm(x)
