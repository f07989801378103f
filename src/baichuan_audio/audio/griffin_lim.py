"""A sound from a mel alone: to hear what a stage learns before there is a vocoder (Griffin and Lim 1984)."""

from __future__ import annotations

import torch
from torch import Tensor

from .mel import MelConfig, mel_filters

_ROUNDS = 32


@torch.no_grad()
def sound_of_mel(log_mel: Tensor, config: MelConfig) -> Tensor:
    """Natural-log magnitude mel [M, T] -> waveform [(T - 1) * hop_length]; phases by iteration, the same every time."""
    mel = log_mel.detach().float().cpu()
    magnitude = (torch.linalg.pinv(mel_filters(config)) @ mel.exp()).clamp(min=0)
    window, sizes = torch.hann_window(config.n_fft), (config.n_fft, config.hop_length)
    turns = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0))
    phases = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
    for _ in range(_ROUNDS):
        waveform = torch.istft(magnitude * phases, *sizes, window=window)
        spectrum = torch.stft(waveform, *sizes, window=window, return_complex=True)
        phases = spectrum / spectrum.abs().clamp(min=1e-8)
    return torch.istft(magnitude * phases, *sizes, window=window)
