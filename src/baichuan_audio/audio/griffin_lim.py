"""Griffin-Lim (1984): a waveform from a mel without a vocoder, as a preview of a training stage."""

from __future__ import annotations

import torch
from torch import Tensor

from .mel import MelConfig, mel_filters

_ITERATIONS = 32


@torch.no_grad()
def sound_of_mel(log_mel: Tensor, config: MelConfig) -> Tensor:
    """Natural-log magnitude mel [M, T] -> waveform [(T - 1) * hop_length]; phases from a fixed seed."""
    mel = log_mel.detach().float().cpu()
    magnitude = (torch.linalg.pinv(mel_filters(config)) @ mel.exp()).clamp(min=0)
    window, sizes = torch.hann_window(config.n_fft), (config.n_fft, config.hop_length)
    fractions = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0))
    phases = torch.polar(torch.ones_like(fractions), 2 * torch.pi * fractions)
    for _ in range(_ITERATIONS):
        waveform = torch.istft(magnitude * phases, *sizes, window=window)
        spectrum = torch.stft(waveform, *sizes, window=window, return_complex=True)
        phases = spectrum / spectrum.abs().clamp(min=1e-8)
    return torch.istft(magnitude * phases, *sizes, window=window)
