"""The two mel spectrograms of the model: Whisper's log-mel as input, a natural-log mel as output."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class MelConfig:
    """Sizes of a mel spectrogram; `n_fft` is also the window length."""

    sample_rate: int
    n_fft: int
    hop_length: int
    num_mel_bins: int
    f_min: float = 0.0
    f_max: float = 8000.0


FLOW_MEL = MelConfig(sample_rate=24000, n_fft=1920, hop_length=480, num_mel_bins=80)
"""The mel of flow decoder and vocoder: 50 frames a second (docs/model.md, 4.7)."""
MAGNITUDE_FLOOR = 1e-5
"""Lower limit of the magnitude in a natural-log mel."""


def _hz_to_slaney(frequency: Tensor) -> Tensor:
    # Slaney's Auditory Toolbox scale: linear below 1 kHz (200/3 Hz a mel), 27 log steps per factor 6.4 above
    linear = frequency * 3 / 200
    return torch.where(frequency < 1000, linear, 15 + 27 * torch.log(frequency / 1000) / math.log(6.4))


def _slaney_to_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


@functools.cache
def mel_filters(config: MelConfig) -> Tensor:
    """Triangular filters of equal area (Slaney norm) [M, n_fft // 2 + 1], float32."""
    limits = _hz_to_slaney(torch.tensor([config.f_min, config.f_max], dtype=torch.float64).clamp(min=1e-10))
    steps = torch.linspace(0, 1, config.num_mel_bins + 2, dtype=torch.float64)
    corners = _slaney_to_hz(limits[0] + (limits[1] - limits[0]) * steps)
    bins = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1, dtype=torch.float64)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    triangles = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    with torch.inference_mode(False):  # as in `_hann`
        return (triangles * 2 / (right - left)).float()


def warped_bands(config: MelConfig, factor: Tensor) -> Tensor:
    """Mel bands with all frequencies multiplied by `factor` [B] -> their fractional band indices [B, M]."""
    limits = _hz_to_slaney(torch.tensor([config.f_min, config.f_max], dtype=torch.float64).clamp(min=1e-10))
    step = (limits[1] - limits[0]) / (config.num_mel_bins + 1)
    centres = _slaney_to_hz(limits[0] + step * torch.arange(1, config.num_mel_bins + 1))
    return ((_hz_to_slaney(factor.double()[:, None] * centres) - limits[0]) / step - 1).float()


def _bands(spectrum: Tensor, config: MelConfig) -> Tensor:
    """spectrum [B, n_fft // 2 + 1, T] -> [B, M, T], in float32 also under autocast: bfloat16 has an error of 1 %."""
    with torch.autocast(spectrum.device.type, enabled=False):
        return mel_filters(config).to(spectrum.device) @ spectrum


@functools.cache
def _hann(length: int) -> Tensor:
    with torch.inference_mode(False):  # the same window is used in inference and training
        return torch.hann_window(length, periodic=True)


def whisper_log_mel(waveform: Tensor, config: MelConfig, max_seconds: float) -> Tensor:
    """Whisper's log-mel of one piece, waveform [S] -> [M, T], only its T valid frames (docs/model.md, 3.2)."""
    length = torch.tensor([waveform.shape[-1]], device=waveform.device)
    log_mel, frames = whisper_log_mels(waveform[None], length, config, max_seconds)
    return log_mel[0, :, : int(frames[0])]


def whisper_log_mels(
    waveforms: Tensor, samples: Tensor, config: MelConfig, max_seconds: float
) -> tuple[Tensor, Tensor]:
    """Log-mels of a zero-padded batch: waveforms [B, S], valid samples [B] -> ([B, M, T], valid frames [B]).

    Whisper pads each piece to `max_seconds` and floors at its maximum minus 8. Frames entirely in the padding
    are silent and cannot raise that maximum, so they are not computed.
    """
    total = int(max_seconds * config.sample_rate)
    enough = (waveforms.shape[-1] // config.hop_length + 1) * config.hop_length + config.n_fft
    padded = F.pad(waveforms.float(), (0, min(total, enough) - waveforms.shape[-1]))
    spectrum = torch.stft(
        padded,
        config.n_fft,
        config.hop_length,
        window=_hann(config.n_fft).to(padded.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    power = spectrum[..., :-1].abs().square()
    log_mel = _bands(power, config).clamp(min=1e-10).log10()
    log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - 8)
    frames = (samples // config.hop_length + 1).clamp(max=total // config.hop_length)
    return (log_mel[..., : int(frames.max())] + 4) / 4, frames


def natural_log_mel(waveform: Tensor, config: MelConfig = FLOW_MEL) -> Tensor:
    """Natural-log magnitude mel, waveform [B, S] -> [B, M, S // hop] (docs/model.md, 4.7, CosyVoice 2's)."""
    margin = (config.n_fft - config.hop_length) // 2
    padded = F.pad(waveform.float()[:, None], (margin, margin), mode="reflect")[:, 0]
    spectrum = torch.stft(
        padded,
        config.n_fft,
        config.hop_length,
        window=_hann(config.n_fft).to(waveform.device),
        center=False,
        return_complex=True,
    )
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
    return _bands(magnitude, config).clamp(min=MAGNITUDE_FLOOR).log()
