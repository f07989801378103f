"""The excitation of the Vocos, frame by frame in the spectral domain: glottal pulses and noise.

A network that only gets a mel, and is the same at every frame, must answer a constant mel with identical frames:
a signal with the period of the hop, so that pitch snaps to multiples of 50 Hz, because it cannot count cycles.
Here F0 is summed to a phase, and each STFT frame gets the spectrum of a pulse train with
that phase (the idea of HiFT's harmonic source, arXiv 2309.09493, moved from samples to frames). No frame
needs a later one, so it can be streamed.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE_FRAMES = 251
"""The noise repeats after so many frames (5 s at 50 Hz); a table makes offline and streamed output equal."""
_MAX_GLIDE_HZ_PER_S = 1000.0


def accumulate_phase(f0: Tensor, cycles: Tensor, last_f0: Tensor, frame_rate: float) -> tuple[Tensor, Tensor]:
    """Phase in cycles at each frame's centre, and F0's slope there.

    f0 [B, L] in Hz; cycles [B] float64 and last_f0 [B], those of the frame before -> phase [B, L] float64 in
    [0, 1), slope [B, L] in Hz/s, 0 where F0 jumps rather than glides.
    """
    before = torch.cat([last_f0[:, None], f0[:, :-1]], dim=1)
    steps = (before.double() + f0.double()) / (2 * frame_rate)
    slope = (f0 - before) * frame_rate
    slope = torch.where(slope.abs() < _MAX_GLIDE_HZ_PER_S, slope, torch.zeros_like(slope))
    return (cycles[:, None] + steps.cumsum(dim=1)) % 1.0, slope


def pulse_spectra(f0: Tensor, phase: Tensor, slope: Tensor, window: Tensor, n_fft: int, sample_rate: int) -> Tensor:
    """Spectra of windowed pieces of a pulse train, complex64 [B, L, n_fft // 2 + 1].

    f0 [B, L] in Hz, phase [B, L] in cycles at the window's middle, slope [B, L] in Hz/s. The window [W], W <= n_fft,
    is centred in the transform. All harmonics below 11/24 of the sample rate are equally strong (4 / n_fft
    each); their sum has a closed form.
    """
    width = window.shape[0]
    time = (torch.arange(width, device=f0.device) - width // 2) / sample_rate
    cycles = phase[..., None].float() + f0[..., None] * time + 0.5 * slope[..., None] * time.square()
    half = math.pi * (cycles - cycles.round())
    highest = f0 + slope.abs() * (width / 2 / sample_rate)
    harmonics = torch.floor(sample_rate * (11 / 24) / highest.clamp(min=1.0))[..., None]
    sine = torch.sin(half)
    kernel = torch.sin((2 * harmonics + 1) * half) / torch.where(sine.abs() < 1e-4, torch.ones_like(sine), sine)
    kernel = torch.where(sine.abs() < 1e-4, 2 * harmonics + 1, kernel)
    margin = (n_fft - width) // 2
    return torch.fft.rfft(F.pad((0.5 * kernel - 0.5) * window, (margin, margin))) * (4 / n_fft)


@functools.lru_cache(maxsize=4)
def noise_table(n_fft: int, hop: int) -> Tensor:
    """Spectra of windowed pieces of one white noise, complex64 [NOISE_FRAMES, n_fft // 2 + 1].

    Neighbours overlap by all but `hop` samples of the same noise, and the last is a neighbour of the first. The
    noise has two thirds of the power of a full-band signal whose bins all have strength 1.
    """
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(20230600814)
        noise = torch.randn(NOISE_FRAMES * hop, generator=generator) * math.sqrt(2 / 3 / n_fft)
        window = synthesis_window(hop)
        pieces = torch.cat([noise, noise[: len(window) - hop]]).unfold(0, len(window), hop) * window
        margin = (n_fft - len(window)) // 2
        return torch.fft.rfft(F.pad(pieces, (margin, margin)))


def synthesis_window(hop: int) -> Tensor:
    """Hann window of two hops [2 * hop]: pieces `hop` apart add up to the whole."""
    return torch.hann_window(2 * hop)
