"""Discriminators of vocoder training: by period (HiFi-GAN, arXiv 2010.05646) and by STFT (UnivNet, 2106.07889)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


@dataclass(frozen=True)
class DiscriminatorConfig:
    """One small discriminator for each period and each STFT size; an empty tuple for none."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: int = 16
    fft_sizes: tuple[int, ...] = (512, 1024, 2048)
    fft_channels: int = 16


DiscriminatorOutput = tuple[Tensor, list[Tensor]]
"""A score per patch [B, ...], high for real input, and the hidden feature maps."""


class PeriodDiscriminator(nn.Module):
    """Judges the waveform reshaped to rows of `period` samples, each column separately."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 2 * channels, 4 * channels, 4 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(wide, wider, (5, 1), (3, 1), padding=(2, 0))) for wide, wider in pairwise(widths)
        )
        self.score = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Tensor) -> DiscriminatorOutput:
        """waveform [B, S] -> score and feature maps."""
        missing = -waveform.shape[-1] % self.period
        padded = F.pad(waveform[:, None], (0, missing), mode="reflect")
        return _judge(padded.unflatten(-1, (-1, self.period)), self.layers, self.score)


class SpectrumDiscriminator(nn.Module):
    """Judges the log magnitude of one STFT."""

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        widths = [1, channels, channels, 2 * channels, 2 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(wide, wider, (7, 3), (3, 1), padding=(3, 1))) for wide, wider in pairwise(widths)
        )
        self.score = weight_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveform: Tensor) -> DiscriminatorOutput:
        """waveform [B, S] -> score and feature maps."""
        spectrum = torch.stft(
            waveform.float(), self.n_fft, self.n_fft // 4, window=self.window.float(), return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return _judge(0.5 * torch.log(power + 1e-5)[:, None], self.layers, self.score)


class Discriminators(nn.Module):
    """All discriminators."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            [PeriodDiscriminator(period, config.period_channels) for period in config.periods]
            + [SpectrumDiscriminator(n_fft, config.fft_channels) for n_fft in config.fft_sizes]
        )

    def forward(self, waveform: Tensor) -> list[DiscriminatorOutput]:
        """waveform [B, S] -> the output of each discriminator."""
        return [member(waveform) for member in self.members]


def _judge(x: Tensor, layers: nn.ModuleList, score: nn.Module) -> DiscriminatorOutput:
    maps = []
    for layer in layers:
        x = F.leaky_relu(layer(x), 0.1)
        maps.append(x)
    return score(x).flatten(1), maps
