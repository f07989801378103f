"""Losses of vocoder training: magnitudes at several resolutions, their mels, and F0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...audio.mel import MelConfig, mel_filters
from ..common.distributed.world import ALONE, World

# Below these lie the rounding of 16-bit files and the empty band above 8 kHz of many text-to-speech voices: a
# full-scale tone is near 500, so the magnitude's floor is about 90 dB down. Without it they dominate the log losses.
_MAGNITUDE_FLOOR = 0.015
_MEL_FLOOR = 1e-3


class SpectralLoss(nn.Module):
    """Generated and target waveforms [B, S] -> named losses, each a mean over resolutions and over the rows of all
    processes of `run`, of which this one's part is returned.

    One STFT a resolution serves three: `log` (L1 of log magnitudes, weights quiet bins), `convergence`
    (relative L2 of magnitudes, weights loud bins; arXiv 1910.11480), and `mel` (L1 of natural-log mels).
    """

    def __init__(self, fft_sizes: tuple[int, ...], sample_rate: int, num_mel_bins: int) -> None:
        super().__init__()
        self.fft_sizes = fft_sizes
        for n_fft in fft_sizes:
            # a short window has few bins at the bottom: fewer mel bins then, none of them empty
            bins = min(num_mel_bins, n_fft // 16)
            mel = MelConfig(sample_rate, n_fft, n_fft // 4, bins, f_max=sample_rate / 2)
            self.register_buffer(f"filters_{n_fft}", mel_filters(mel), persistent=False)
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, generated: Tensor, target: Tensor, run: World = ALONE) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {"log": [], "convergence": [], "mel": []}
        for n_fft in self.fft_sizes:
            magnitude = self._magnitude(generated, n_fft)
            with torch.no_grad():
                target_magnitude = self._magnitude(target, n_fft)
            filters = self.get_buffer(f"filters_{n_fft}")
            parts["log"].append(l1_part(magnitude.log(), target_magnitude.log(), run))
            error = run.norm_part((magnitude - target_magnitude).square().sum())
            loudness = run.total(target_magnitude.square().sum()).sqrt().clamp(min=1e-3)
            parts["convergence"].append(error / loudness.to(error))
            parts["mel"].append(l1_part(_log_mel(filters, magnitude), _log_mel(filters, target_magnitude), run))
        return {name: torch.stack(values).mean() for name, values in parts.items()}

    def _magnitude(self, waveform: Tensor, n_fft: int) -> Tensor:
        """[B, S] -> [B, n_fft // 2 + 1, T], with a soft floor that keeps gradients of silence finite too."""
        window = self.get_buffer(f"window_{n_fft}")
        spectrum = torch.stft(waveform.float(), n_fft, n_fft // 4, window=window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + _MAGNITUDE_FLOOR**2).sqrt()


def l1_part(first: Tensor, second: Tensor, run: World) -> Tensor:
    """This process's part of the mean absolute difference of equal shapes."""
    return run.mean_part(F.l1_loss(first, second, reduction="sum"), first.numel())


def _log_mel(filters: Tensor, magnitude: Tensor) -> Tensor:
    return (filters @ magnitude).clamp(min=_MEL_FLOOR).log()


def pitch(
    waveform: Tensor, sample_rate: int, hop: int, low_hz: float = 60.0, high_hz: float = 500.0
) -> tuple[Tensor, Tensor]:
    """F0 in Hz [B, L] of waveform [B, S], L = S // hop, and a mask that is 1 where a frame is voiced.

    Normalised autocorrelation of frames of 50 ms below 1.2 kHz, where it is smooth and formants disturb little;
    a frame is voiced where its peak reaches 0.6 of the energy. A target good enough for a vocoder's F0.
    """
    frame = 2 * int(sample_rate * 0.025)
    frames = F.pad(waveform, ((frame - hop) // 2, frame - hop - (frame - hop) // 2)).unfold(-1, frame, hop)
    frames = (frames - frames.mean(-1, keepdim=True)) * torch.hann_window(frame, device=waveform.device)
    window = torch.hann_window(frame, device=waveform.device)
    kept = int(1200 / sample_rate * 2 * frame)
    correlation = _autocorrelation(frames, kept) / _autocorrelation(window, kept).clamp(min=1e-3)
    energy = frames.square().sum(-1, keepdim=True)
    min_lag, max_lag = int(sample_rate / high_hz), int(sample_rate / low_hz)
    scores = correlation[..., min_lag:max_lag] / correlation[..., :1].clamp(min=1e-6)
    # the shortest lag close to the best one: multiples of the period correlate as well as the period
    close = scores >= 0.9 * scores.amax(-1, keepdim=True)
    lag = close.float().argmax(-1) + min_lag
    # from the first close lag walk up to its own peak
    reach = torch.arange(sample_rate // 1000, device=waveform.device)
    near = (lag[..., None] - min_lag + reach).clamp(max=scores.shape[-1] - 1)
    lag = lag + scores.gather(-1, near).argmax(-1)
    lag = lag + _vertex(correlation, lag)
    voiced = (scores.amax(-1) > 0.6) & (energy[..., 0] > 1e-5 * frame)
    return sample_rate / lag * voiced, voiced.float()


def _vertex(values: Tensor, index: Tensor) -> Tensor:
    """Offset in (-0.5, 0.5) of the parabola's vertex through values [..., n] around index [...]."""
    left, middle, right = (values.gather(-1, (index + i)[..., None])[..., 0] for i in (-1, 0, 1))
    curvature = left - 2 * middle + right
    return (0.5 * (left - right) / curvature.clamp(max=-1e-6)).clamp(-0.5, 0.5)


def f0_cross_entropy(logits: Tensor, grid: Tensor, f0: Tensor, voiced: Tensor, run: World) -> Tensor:
    """Cross-entropy of F0 logits [B, L, bins] over log frequencies `grid` [bins] against f0 [B, L], on voiced frames:
    this process's part of the mean.

    The target is a small Gaussian over the bins, so that its mean is finer than the grid.
    """
    width = grid[1] - grid[0]
    target = torch.softmax(-0.5 * ((grid - f0.clamp(min=1.0).log()[..., None]) / width).square(), dim=-1)
    loss = -(target * torch.log_softmax(logits, dim=-1)).sum(-1)
    return run.mean_part((loss * voiced).sum(), voiced.sum())


def hift_f0_loss(f0: Tensor, target: Tensor, voiced: Tensor, run: World) -> Tensor:
    """This process's part of the mean error in units of 100 Hz, [B, L] each; an unvoiced frame's target is 0 Hz, and
    counts for less."""
    return run.mean_part(((f0 - target).abs() / 100.0 * (0.2 + 0.8 * voiced)).sum(), f0.numel())


def _autocorrelation(frames: Tensor, kept: int) -> Tensor:
    """[..., n] -> [..., n], lag 0 first, of the lowest `kept` bins of a transform of 2n points."""
    length = frames.shape[-1]
    power = torch.fft.rfft(frames, 2 * length)[..., :kept].abs().square()
    return torch.fft.irfft(power, 2 * length)[..., :length]
