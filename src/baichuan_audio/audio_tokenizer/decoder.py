"""Audio decoder: embeddings at 12.5 Hz to hidden frames at 50 Hz, and the coarse and refined mel (spec 4.2-4.4)."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.attention import TransformerLayer
from .config import AudioConfig, CoarseMelConfig
from .encoder import sinusoids


def _normalise(norm: nn.GroupNorm, x: Tensor, whole_segment: bool) -> Tensor:
    """GroupNorm of x [B, C, T] over channels and time, or with the same parameters over channels alone."""
    if whole_segment:
        return norm(x)
    return F.layer_norm(x.transpose(1, 2), (x.shape[1],), norm.weight, norm.bias, norm.eps).transpose(1, 2)


class Upsampling(nn.Module):
    """Transposed convolution, GroupNorm with one group, then the cut of kernel - stride frames at the right."""

    def __init__(self, in_width: int, out_width: int, kernel: int, stride: int, segment_norm: bool) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_width, out_width, kernel, stride=stride)
        self.norm = nn.GroupNorm(1, out_width)
        self.segment_norm = segment_norm
        self.surplus = max(0, kernel - stride)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, T] -> [B, C', (T - 1) * stride + min(kernel, stride)]."""
        x = _normalise(self.norm, self.conv(x), self.segment_norm)
        return x[..., : x.shape[-1] - self.surplus]


class PostNet(nn.Module):
    """Residual correction of the coarse mel: blocks of conv k5, GroupNorm, Mish; then a 1x1 projection."""

    def __init__(self, mel_bins: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        widths = (mel_bins, *channels)
        self.layers = nn.ModuleList()
        for before, after in itertools.pairwise(widths[:-1]):
            self.layers.extend([nn.Conv1d(before, after, 5, padding=2), nn.GroupNorm(1, after), nn.Mish()])
        self.layers.append(nn.Conv1d(widths[-1], mel_bins, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, M, F] -> [B, M, F], to be added to x."""
        for layer in self.layers:
            x = layer(x)
        return x


class AudioDecoder(nn.Module):
    """Causal Transformer over 50 Hz frames; its normalised output is what the flow decoder takes."""

    positional_embedding: Tensor

    def __init__(self, config: AudioConfig, coarse: CoarseMelConfig) -> None:
        super().__init__()
        self.config, self.coarse = config, coarse
        width = config.d_model
        self.dconv1 = Upsampling(width, width, config.decoder_kernel_size, config.avg_pooler, config.segment_norm)
        self.register_buffer("positional_embedding", sinusoids(config.decoder_positions, width))
        self.layers = nn.ModuleList(
            TransformerLayer(width, config.decoder_attention_heads, config.decoder_ffn_dim)
            for _ in range(config.decoder_layers)
        )
        self.layer_norm = nn.LayerNorm(width)
        # The mel branch is for training and diagnostics only and keeps the segment's statistics: a frame normalised
        # alone would lose its level.
        self.dconv2 = Upsampling(
            width, coarse.num_mel_bins, config.decoder_kernel_size, config.decoder_stride_size, True
        )
        self.post_net = PostNet(coarse.num_mel_bins, coarse.channels)

    def hidden(self, embeddings: Tensor) -> Tensor:
        """embeddings [B, T, D] -> hidden [B, L, D] at 50 Hz, L = (T - 1) * 4 + 3 as released.

        Causal layers: padding at the right of a row never reaches its valid frames (with `segment_norm` the
        padding does enter the statistics; decode such rows alone).
        """
        x = self.dconv1(embeddings.transpose(1, 2)).transpose(1, 2)
        x = x + self.positional_embedding[: x.shape[1]].to(x.dtype)
        for layer in self.layers:
            x = layer(x, causal=True)
        return self.layer_norm(x)

    def mels(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [B, L, D] -> coarse and refined 16 kHz natural-log mel, each [B, F, M]."""
        x = self.dconv2(hidden.transpose(1, 2))
        frames = self.mel_frames(x.shape[-1])
        coarse = F.interpolate(x, size=frames, mode="nearest")
        refined = coarse + self.post_net(coarse)
        return coarse.transpose(1, 2), refined.transpose(1, 2)

    def mel_frames(self, frames: int) -> int:
        """Coarse mel frames for so many 100 Hz frames, in whole numbers so that nothing is lost to rounding."""
        seconds_by_rates = frames * self.config.hop_length * self.coarse.sampling_rate
        return seconds_by_rates // (self.config.sampling_rate * self.coarse.hop_length)
