"""Audio decoder: embeddings at 12.5 Hz to hidden frames at 50 Hz, coarse and refined mel (docs/model.md, 4.2-4.4)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.attention import TransformerLayer, run_causal
from ..layers.kv_cache import KVCache
from .config import AudioConfig, CoarseMelConfig
from .encoder import sinusoids


def _normalise(norm: nn.GroupNorm, x: Tensor, whole_segment: bool) -> Tensor:
    """GroupNorm of x [B, C, T] over channels and time, or with the same parameters over channels alone."""
    if whole_segment:
        return norm(x)
    return F.layer_norm(x.transpose(1, 2), (x.shape[1],), norm.weight, norm.bias, norm.eps).transpose(1, 2)


@dataclass
class UpsamplingState:
    """State of a streamed `Upsampling`."""

    steps: int  # inputs so far
    carry: Tensor  # [B, C', kernel - stride] contribution of the last inputs to outputs that are not final
    sums: Tensor  # [3, B] float64: count, sum and sum of squares of the convolution's output


@dataclass
class DecoderState:
    """State of a streamed `AudioDecoder` within one segment."""

    upsampling: UpsamplingState
    cache: KVCache


class Upsampling(nn.Module):
    """Transposed convolution, GroupNorm with one group; the last kernel - stride frames are dropped."""

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

    def init_state(self, batch: int = 1) -> UpsamplingState:
        """The state before the first input of a stream."""
        weight = self.conv.weight
        carry = weight.new_zeros(batch, weight.shape[1], self.surplus)
        return UpsamplingState(0, carry, torch.zeros(3, batch, dtype=torch.float64, device=weight.device))

    def stream(self, x: Tensor, state: UpsamplingState) -> Tensor:
        """The next inputs x [B, C, T], T > 0 -> the outputs that are final [B, C', l]; changes `state`.

        Without `segment_norm` these equal the outputs of `forward`. With it they are normalised by the statistics of
        the stream so far.
        """
        stride, kernel = self.conv.stride[0], self.conv.kernel_size[0]
        y = F.conv_transpose1d(x, self.conv.weight, None, stride)
        if self.surplus:
            y[..., : self.surplus] += state.carry
            y, state.carry = y[..., : -self.surplus], y[..., -self.surplus :]
        elif state.steps:  # outputs between the kernels of adjacent inputs
            y = F.pad(y, (stride - kernel, 0))
        state.steps += x.shape[-1]
        bias = cast(Tensor, self.conv.bias)[:, None]
        y = y + bias
        if not self.segment_norm:
            return _normalise(self.norm, y, whole_segment=False)
        state.sums = state.sums + _sums(y)
        count, total, squares = state.sums + _sums(state.carry + bias)
        mean = (total / count)[:, None, None]
        variance = (squares / count)[:, None, None] - mean.square()
        scaled = (y - mean.to(y.dtype)) * torch.rsqrt(variance + self.norm.eps).to(y.dtype)
        return scaled * self.norm.weight[:, None] + self.norm.bias[:, None]


def _sums(x: Tensor) -> Tensor:
    """Count, sum and sum of squares of each row of x [B, C, T] -> [3, B] float64."""
    rows = x.double().flatten(1)
    return torch.stack([torch.ones_like(rows).sum(dim=1), rows.sum(dim=1), rows.square().sum(dim=1)])


class PostNet(nn.Module):
    """Residual correction of the coarse mel: blocks of conv k5, GroupNorm, Mish; then a 1x1 projection."""

    def __init__(self, mel_bins: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        widths = (mel_bins, *channels)
        self.layers = nn.ModuleList()
        for before, after in itertools.pairwise(widths[:-1]):
            self.layers.extend([nn.Conv1d(before, after, 5, padding=2), nn.GroupNorm(1, after), nn.Mish()])
        self.layers.append(nn.Conv1d(widths[-2], mel_bins, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, M, F] -> [B, M, F], to be added to x."""
        for layer in self.layers:
            x = layer(x)
        return x


class AudioDecoder(nn.Module):
    """Causal Transformer over 50 Hz frames; its normalised output is the input of the flow decoder."""

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
        return self.layer_norm(run_causal(self.layers, x, None))

    def init_state(self, batch: int = 1) -> DecoderState:
        """The state before the first code of a segment."""
        cache = cast(TransformerLayer, self.layers[0]).new_cache(len(self.layers), batch)
        return DecoderState(self.dconv1.init_state(batch), cache)

    def stream(self, embeddings: Tensor, state: DecoderState) -> Tensor:
        """The next embeddings of a segment [B, T, D], T > 0 -> its hidden frames that are final [B, l, D].

        Equal to `hidden` on the whole segment; with `segment_norm` approximately (see `Upsampling.stream`).
        """
        x = self.dconv1.stream(embeddings.transpose(1, 2), state.upsampling).transpose(1, 2)
        first = state.cache.length
        x = x + self.positional_embedding[first : first + x.shape[1]].to(x.dtype)
        return self.layer_norm(run_causal(self.layers, x, state.cache))

    def hidden_frames(self, codes: int) -> int:
        """Number of hidden frames of a segment of `codes` code frames."""
        stride, kernel = self.dconv1.conv.stride[0], self.dconv1.conv.kernel_size[0]
        return (codes - 1) * stride + min(stride, kernel)

    def codes_needed(self, frames: int) -> int:
        """Number of code frames after which so many hidden frames are final."""
        stride, kernel = self.dconv1.conv.stride[0], self.dconv1.conv.kernel_size[0]
        return max(1, 1 - (min(stride, kernel) - frames) // stride)

    def mels(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [B, L, D] -> coarse and refined 16 kHz natural-log mel, each [B, F, M]."""
        x = self.dconv2(hidden.transpose(1, 2))
        frames = self.mel_frames(x.shape[-1])
        coarse = F.interpolate(x, size=frames, mode="nearest")
        refined = coarse + self.post_net(coarse)
        return coarse.transpose(1, 2), refined.transpose(1, 2)

    def mel_frames(self, frames: int) -> int:
        """Number of coarse mel frames for a number of 100 Hz frames, in integer arithmetic."""
        seconds_by_rates = frames * self.config.hop_length * self.coarse.sampling_rate
        return seconds_by_rates // (self.config.sampling_rate * self.coarse.hop_length)
