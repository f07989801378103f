"""Measures of a waveform that need no network: bandwidth, clipping, sustained tones (music), quiet points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..store.records import SAMPLE_RATE
from .audio_access import ANALYSIS_RATE, Samples

_BAND_FFT = 1024
_TONE_FFT, _TONE_HOP = 2048, 512
_HELD = 12  # frames of 32 ms that a partial of music stays in its bin; speech glides on


def power_frames(samples: Samples, size: int, hop: int) -> NDArray[np.float32]:
    """Power spectra [N, size / 2 + 1] of windows [size] every `hop` samples."""
    if len(samples) < size:
        samples = np.pad(samples, (0, size - len(samples)))
    windows = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    return (np.abs(np.fft.rfft(windows * np.hanning(size).astype(np.float32), axis=1)) ** 2).astype(np.float32)


def bandwidth_hz(samples: Samples, rate: int = SAMPLE_RATE) -> float:
    """The frequency below which all but 1 / 20,000 of the loud frames' power lies; samples [S].

    Speech at 8 kHz has nothing above 4 kHz, however it is resampled.
    """
    power = power_frames(samples, _BAND_FFT, _BAND_FFT // 2)
    total = power.sum(axis=1)
    loud = power[total > total.max() * 1e-3]
    share = (loud / loud.sum(axis=1, keepdims=True)).mean(axis=0)
    above = np.cumsum(share[::-1])[::-1]
    return float(np.flatnonzero(above > 5e-5)[-1] * rate / _BAND_FFT)


def clipping(samples: Samples) -> float:
    """How much the histogram of amplitudes rises anywhere in its upper half: the largest ratio of a bin to the one
    below it; samples [S].

    The amplitudes of speech grow ever rarer: below 1. What was cut off piles up in a bump, which unlike runs of equal
    samples survives resampling and coding.
    """
    size = np.abs(samples)
    if not len(size) or not size.max():
        return 0.0
    counts, _ = np.histogram(size, bins=20, range=(0.0, float(np.quantile(size, 0.9995))))
    upper = counts[8:].astype(float)
    return float((upper[1:] / (upper[:-1] + 20.0)).max())


def tone_share(samples: Samples, rate: int = ANALYSIS_RATE) -> float:
    """Share of the power that lies in partials held for 0.4 s or longer; samples [S] at 16 kHz.

    About 0 for speech, whose pitch glides; high for music.
    """
    power = power_frames(samples, _TONE_FFT, _TONE_HOP)[:, : _TONE_FFT * 5000 // rate]
    log = np.log(power + 1e-10)
    local = np.zeros(log.shape, bool)
    # A partial stands out from what lies three bins beside it and is the largest of its neighbours.
    local[:, 3:-3] = (log[:, 3:-3] > log[:, :-6] + 1.4) & (log[:, 3:-3] > log[:, 6:] + 1.4)
    local[:, 1:-1] &= (log[:, 1:-1] >= log[:, :-2]) & (log[:, 1:-1] >= log[:, 2:])
    held = np.zeros(log.shape, bool)
    run = np.zeros(log.shape[1], int)
    for frame in range(len(log)):
        run = np.where(local[frame], run + 1, 0)
        for bin_ in np.flatnonzero(run >= _HELD):
            held[frame - _HELD + 1 : frame + 1, bin_] = True
    spread = held.copy()
    spread[:, 1:] |= held[:, :-1]
    spread[:, :-1] |= held[:, 1:]
    return float(power[spread].sum() / max(float(power.sum()), 1e-12))


def quietest(samples: Samples, window: int) -> int:
    """Middle of the `window` samples with the least power; samples [S]."""
    if len(samples) <= window:
        return len(samples) // 2
    power = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    return int(np.argmin(power[window:] - power[:-window])) + window // 2
