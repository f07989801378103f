"""Reads stretches of the standardised recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ...errors import AudioError
from ..store.records import SAMPLE_RATE, Piece, Recording

Samples = NDArray[np.float32]
ANALYSIS_RATE = 16_000
"""What the networks take."""


def recording_path(folder: Path, audio: str) -> Path:
    return folder / audio[:2] / f"{audio}.wav"


def read_stretch(folder: Path, audio: str, start: int, end: int, gain: float, rate: int = SAMPLE_RATE) -> Samples:
    """Samples `start` to `end` (counted at 24 kHz) of a recording at `rate` Hz, float32 [S], with its gain.

    Raises:
        AudioError: the file is missing or shorter than that.
    """
    path = recording_path(folder, audio)
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(start)
            samples = file.read(end - start, dtype="float32")
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise AudioError(f"{path}: the standardised recording cannot be read ({error}).") from error
    if len(samples) != end - start:
        raise AudioError(f"{path}: the recording ends before sample {end}; remove the work folder and run again.")
    samples = np.clip(samples * np.float32(gain), -1.0, 1.0)
    return samples if rate == SAMPLE_RATE else soxr.resample(samples, SAMPLE_RATE, rate)


def read_piece(folder: Path, piece: Piece, rate: int = ANALYSIS_RATE) -> Samples:
    """A piece's samples [S] at `rate` Hz."""
    return read_stretch(folder, piece.audio, piece.start, piece.end, piece.gain, rate)


def blocks(folder: Path, recording: Recording, rate: int = ANALYSIS_RATE, seconds: float = 60.0) -> Iterator[Samples]:
    """A whole recording in blocks at `rate` Hz, resampled as one stream, so that a long one never stands in memory."""
    stream = soxr.ResampleStream(SAMPLE_RATE, rate, 1, dtype="float32")
    with soundfile.SoundFile(recording_path(folder, recording.audio)) as file:
        left = recording.samples
        while left > 0:
            block = file.read(min(left, int(seconds * SAMPLE_RATE)), dtype="float32")
            if not len(block):
                break
            left -= len(block)
            block = np.clip(block * np.float32(recording.gain), -1.0, 1.0)
            yield stream.resample_chunk(block, last=left <= 0)
