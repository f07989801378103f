"""Clean clips of one speaker each, from a manifest: what programmes and faults are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ...data.importers import manifest_rows
from ...data.pipeline.audio_access import Samples
from ...data.store.records import SAMPLE_RATE
from ...errors import DataError

_LEVEL = 10 ** (-23 / 20)


@dataclass(frozen=True)
class TrueWord:
    """A word and when it is said, in seconds of its clip."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Clip:
    """A recording of one speaker; `words` where the engine that spoke it gave their times."""

    id: str
    path: Path
    language: str
    speaker: str
    transcript: str
    license: str
    origin: str
    words: tuple[TrueWord, ...] = ()

    def samples(self) -> Samples:
        """[S] at 24 kHz, at a common level."""
        samples, rate = soundfile.read(self.path, dtype="float32", always_2d=True)
        resampled = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE).astype(np.float32)
        loud = np.sqrt((resampled**2).mean() + 1e-12)
        return np.clip(resampled * np.float32(_LEVEL / loud), -1, 1)


def read_clips(manifest: str | Path, folders: Sequence[str] = (), shortest_s: float = 2.0) -> list[Clip]:
    """The transcribed clips of a manifest, of these folders where some are named.

    Raises:
        DataError: there are none.
    """
    path, clips = Path(manifest), []
    for _, row in manifest_rows(path):
        if not row.get("transcript") or not row.get("speaker") or row.get("seconds", 99) < shortest_s:
            continue
        if folders and not row["path"].startswith(tuple(folders)):
            continue
        clips.append(
            Clip(
                str(Path(row["path"]).with_suffix("")),
                path.parent / row["path"],
                row["language"],
                row["speaker"],
                row["transcript"],
                row["license"],
                row["source"],
                tuple(TrueWord(**word) for word in row.get("words") or ()),
            )
        )
    if not clips:
        raise DataError(f"{path}: no transcribed clips of {shortest_s:g} s or more.")
    return clips


def judged(clip: Clip) -> bool:
    """Whether a clip's speaker is left for judging: of the English ones a half, of the others all. With the rest
    thresholds are chosen."""
    return clip.language != "en" or int(hashlib.sha256(f"x{clip.speaker}".encode()).hexdigest(), 16) % 2 == 0


def speech_bounds(samples: Samples) -> tuple[float, float]:
    """Where the speech of a clean clip begins and ends, in seconds: the first and last loud frame of 10 ms that has a
    loud neighbour."""
    loud = _loud(samples)
    loud &= np.concatenate([loud[1:], [False]]) | np.concatenate([[False], loud[:-1]])
    places = np.flatnonzero(loud)
    if not len(places):
        return 0.0, len(samples) / SAMPLE_RATE
    return float(places[0]) / 100, float(places[-1] + 1) / 100


def quiet_stretches(samples: Samples, first: float, end: float) -> list[tuple[float, float]]:
    """Stretches of 50 ms or more between `first` and `end` in which a clean clip is quiet."""
    quiet = ~_loud(samples)
    quiet[: round(first * 100)] = quiet[round(end * 100) :] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8))).reshape(-1, 2)
    return [(a / 100, b / 100) for a, b in edges.tolist() if b - a >= 5]


def _loud(samples: Samples) -> NDArray[np.bool_]:
    """Frames of 10 ms within 35 dB of the loudest and 10 dB above the clip's own noise."""
    hop = SAMPLE_RATE // 100
    power = (samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64) ** 2).mean(axis=1)
    floor = float(np.quantile(power, 0.05)) * 10
    return power > max(float(np.quantile(power, 0.99)) * 10**-3.5, min(floor, float(np.quantile(power, 0.99)) * 0.01))


def music(seconds: float, rng: np.random.Generator) -> Samples:
    """Chords of plucked tones with a few partials, [S] at 24 kHz, peak 0.5."""
    count = int(seconds * SAMPLE_RATE)
    music = np.zeros(count + 2 * SAMPLE_RATE)
    notes = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16]) / 12)
    for start in range(0, count, SAMPLE_RATE // 2):
        time = np.arange(min(2 * SAMPLE_RATE, len(music) - start)) / SAMPLE_RATE
        for note in rng.choice(notes, 3, replace=False):
            for partial in range(1, 5):
                wave = np.sin(2 * np.pi * note * partial * time + rng.uniform(0, 6))
                music[start : start + len(time)] += wave * np.exp(-1.2 * time) / partial
    music = music[:count]
    return (0.5 * music / max(float(np.abs(music).max()), 1e-9)).astype(np.float32)


def noise(seconds: float, rng: np.random.Generator) -> Samples:
    """Noise that falls with frequency, as rooms and streets have it, [S] at 24 kHz, peak 0.5."""
    count = int(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequencies = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequencies, 100.0)), count)
    return (0.5 * noise / np.abs(noise).max()).astype(np.float32)


def telephone(samples: Samples) -> Samples:
    """As a telephone of 8 kHz passes it on."""
    narrow = soxr.resample(samples, SAMPLE_RATE, 8000)
    return soxr.resample(narrow, 8000, SAMPLE_RATE).astype(np.float32)


def clipped(samples: Samples, factor: float) -> Samples:
    """Recorded `factor` times too loud for its loudest parts."""
    loud = float(np.quantile(np.abs(samples), 0.995))
    return np.clip(samples * factor / max(loud, 1e-6), -1, 1) * np.float32(0.7)
