"""The last layer of the Vocos: gains for pulses and noise, and the inverse transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..audio.mel import MelConfig, mel_filters

_MAX_LOG_MAGNITUDE = math.log(1e3)


class SpectrumHead(nn.Module):
    """Hidden frames and excitation -> waveform frames for overlap-add.

    The excitation pieces are two hops long, the frames longer, for the tails of the filter responses.
    """

    envelope: Tensor

    def __init__(self, dim: int, mel: MelConfig) -> None:
        super().__init__()
        self.n_fft, self.bins = mel.n_fft, mel.n_fft // 2 + 1
        self.out = nn.Linear(dim, 3 * self.bins)
        with torch.device("cpu"):  # the filters are cached, and must not be on the meta device
            envelope = _envelope(mel_filters(mel))
        self.register_buffer("envelope", envelope, persistent=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start as a plain channel vocoder: phases near zero, noise 2 nepers below the pulses."""
        nn.init.trunc_normal_(self.out.weight, std=0.002)
        nn.init.zeros_(self.out.bias)
        # the peaks of pulses are above the envelope, which is a mean over peaks and gaps
        self.out.bias[: self.bins] = 0.8
        self.out.bias[self.bins : 2 * self.bins] = -1.2

    def forward(self, x: Tensor, mel: Tensor, pulses: Tensor, noise: Tensor) -> Tensor:
        """x [B, T, dim], mel [B, M, T] (natural log), spectra [B, T, bins] -> [B, T, n_fft] float32."""
        envelope = mel.float().transpose(1, 2) @ self.envelope[:-1] + self.envelope[-1]
        log_pulse, log_noise, phase = self.out(x).float().split(self.bins, dim=-1)
        pulse_gain = torch.exp((envelope + log_pulse).clamp(max=_MAX_LOG_MAGNITUDE))
        noise_gain = torch.exp((envelope + log_noise).clamp(max=_MAX_LOG_MAGNITUDE))
        cosine, sine = pulse_gain * torch.cos(phase), pulse_gain * torch.sin(phase)
        real = cosine * pulses.real - sine * pulses.imag + noise_gain * noise.real
        imaginary = cosine * pulses.imag + sine * pulses.real + noise_gain * noise.imag
        return torch.fft.irfft(torch.complex(real, imaginary), n=self.n_fft, dim=-1)


def _envelope(filters: Tensor) -> Tensor:
    """Mel filters [M, bins] -> [M + 1, bins]: log magnitude of a bin = log-mel @ rows[:M] + rows[M].

    Each bin interpolates between the mel bins whose filters contain it; bins outside all filters repeat the outermost
    mel bin. The last row compensates the sum of each filter.
    """
    shares = filters.clone()
    held = (filters.sum(dim=0) > 0).nonzero().flatten()
    shares[0, : held[0]], shares[-1, held[-1] + 1 :] = 1.0, 1.0
    shares = shares / shares.sum(dim=0).clamp(min=1e-8)
    return torch.cat([shares, -filters.sum(dim=1).clamp(min=1e-8).log()[None] @ shares])
