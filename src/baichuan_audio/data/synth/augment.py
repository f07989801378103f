"""What lies between a mouth and a model: level, room, noise, a narrow channel and silence around, all seeded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..store.manifest import SAMPLE_RATE

TARGET_RMS = 10 ** (-20 / 20)


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges that are drawn from, and how often each change is made (probabilities in [0, 1]).

    Attributes:
        level_db: loudness of the speech in dBFS.
        snr_db: speech over noise.
        decay_s: time in which a room's echo falls by 60 dB.
        narrow_hz: upper limit of a narrow channel.
        silence_s: longest silence put before and after.
    """

    level_db: tuple[float, float] = (-30.0, -14.0)
    noise: float = 0.6
    snr_db: tuple[float, float] = (12.0, 40.0)
    room: float = 0.4
    decay_s: tuple[float, float] = (0.1, 0.4)
    narrow: float = 0.15
    narrow_hz: tuple[float, float] = (3_400.0, 7_000.0)
    silence_s: float = 0.25


def augment(waveform: np.ndarray, seed: int, config: AugmentConfig) -> np.ndarray:
    """Changes speech [S] at 24 kHz; the same seed gives the same result. Returns float32, some longer."""
    random = np.random.default_rng(seed)
    before, after = (random.uniform(0, config.silence_s, 2) * SAMPLE_RATE).astype(int)
    result = np.pad(waveform, (before, after)).astype(np.float32)
    if random.random() < config.room:
        result = reverberate(result, random.uniform(*config.decay_s), random)
    if random.random() < config.narrow:
        result = band_limit(result, random.uniform(*config.narrow_hz))
    result = level(result, 10 ** (random.uniform(*config.level_db) / 20))
    if random.random() < config.noise:
        result = result + noise_like(result, random.uniform(*config.snr_db), random)
    clipped: np.ndarray = np.clip(result, -1, 1)
    return clipped.astype(np.float32)


def reverberate(waveform: np.ndarray, decay_s: float, random: np.random.Generator) -> np.ndarray:
    """A simple room: the direct sound, and noise that dies away as its echo. Same length [S]."""
    times = np.arange(int(decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    echo = random.standard_normal(len(times)) * 10 ** (-3 * times / decay_s)
    echo[: int(0.002 * SAMPLE_RATE)] = 0
    echo *= random.uniform(0.2, 0.7) / np.sqrt((echo**2).sum())
    echo[0] = 1.0
    size = 1 << (len(waveform) + len(echo)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(echo, size), size)
    return wet[: len(waveform)].astype(np.float32)


def band_limit(waveform: np.ndarray, cutoff_hz: float) -> np.ndarray:
    """Takes away what lies above `cutoff_hz`, with a soft edge 10 % wide."""
    spectrum = np.fft.rfft(waveform)
    frequencies = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)
    spectrum *= np.clip((cutoff_hz * 1.1 - frequencies) / (cutoff_hz * 0.1), 0, 1)
    return np.fft.irfft(spectrum, len(waveform)).astype(np.float32)


def noise_like(waveform: np.ndarray, snr_db: float, random: np.random.Generator) -> np.ndarray:
    """Noise between white and brown, `snr_db` below the waveform's mean power; now and then with a hum."""
    spectrum = np.fft.rfft(random.standard_normal(len(waveform)))
    frequencies = np.maximum(np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE), 50.0)
    noise = np.fft.irfft(spectrum * frequencies ** -random.uniform(0, 1), len(waveform))
    if random.random() < 0.2:
        base = random.choice((50.0, 60.0)) * 2 * np.pi * np.arange(len(waveform)) / SAMPLE_RATE
        hum = sum(np.sin(base * harmonic) / harmonic for harmonic in (1, 2, 3))
        noise = noise / (noise.std() + 1e-9) + random.uniform(0.3, 1.5) * hum
    power = float((waveform**2).mean())
    scaled: np.ndarray = noise / (noise.std() + 1e-9) * np.sqrt(power * 10 ** (-snr_db / 10))
    return scaled.astype(np.float32)


def level(waveform: np.ndarray, rms: float = TARGET_RMS, peak: float = 0.95) -> np.ndarray:
    """Scales speech [S] to a root mean square of `rms` over its loud parts, and below `peak`."""
    hop = SAMPLE_RATE // 50
    frames = waveform[: max(hop, len(waveform) // hop * hop)]
    power = (frames[: len(frames) // hop * hop].reshape(-1, hop) ** 2).mean(axis=1)
    active = power[power > power.max(initial=0.0) * 1e-3]
    gain = rms / math.sqrt(float(active.mean()) + 1e-12)
    return (waveform * min(gain, peak / (float(np.abs(waveform).max()) + 1e-9))).astype(np.float32)
