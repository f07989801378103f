"""Loudness and format: any file -> one WAV of 24 kHz mono, and the gain that brings its speech to a common loudness."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import soundfile
import soxr

from ....audio.reading import SequentialSoundFile
from ....errors import AudioError
from ...store.atomic import written_aside
from ...store.records import SAMPLE_RATE, Dropped, Recording, Source
from ..audio_access import Samples, recording_path
from ..engine.stage import Context, Stage, StageResult
from .container import container_problem
from .fingerprint import Fingerprint

_BLOCK = 1 << 18
_HOP = SAMPLE_RATE // 50


@dataclass
class _Levels:
    """What is noted while the samples pass by."""

    peak: float = 0.0
    powers: list[Samples] = field(default_factory=list)

    def note(self, block: Samples) -> None:
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        frames = block[: len(block) // _HOP * _HOP].reshape(-1, _HOP)
        if len(frames):
            self.powers.append((frames.astype(np.float32) ** 2).mean(axis=1))

    def active_power(self) -> float:
        """Mean power of the frames that are not silence: within 30 dB of the loud ones."""
        powers = np.concatenate(self.powers) if self.powers else np.zeros(0, np.float32)
        if not len(powers):
            return 0.0
        loud = float(np.quantile(powers, 0.95))
        active = powers[powers > loud * 1e-3]
        return float(active.mean()) if len(active) else 0.0


@dataclass(frozen=True)
class Standardise(Stage[Source, Recording]):
    """level_db: loudness of speech, root mean square against full scale. most_gain_db: further it is never moved.

    Files below shortest_s seconds are set aside, as are those that are empty, cut short or not finite.
    """

    name: ClassVar[str] = "standardise"
    record: ClassVar[type] = Recording
    modules: ClassVar[tuple[str, ...]] = (f"{__package__}.container", f"{__package__}.fingerprint")
    level_db: float = -20.0
    most_gain_db: float = 30.0
    peak: float = 0.97
    shortest_s: float = 0.3

    def run(self, records: Sequence[Source], context: Context) -> StageResult[Recording]:
        kept: list[Recording] = []
        dropped: list[Dropped] = []
        for source in records:
            path = Path(source.path)
            if not path.is_file():
                raise AudioError("the file is missing")
            if path.stat().st_size == 0:
                raise AudioError("empty file")
            kept.append(self._standardise(source, path, context))
        return StageResult(kept, dropped)

    def _standardise(self, source: Source, path: Path, context: Context) -> Recording:
        levels, marks = _Levels(), Fingerprint()
        audio = self.key(source.digest)
        try:
            with SequentialSoundFile(path) as file, written_aside(recording_path(context.recordings, audio)) as aside:
                rate, channels = file.samplerate, file.channels
                samples = frames = 0
                with soundfile.SoundFile(aside, "w", SAMPLE_RATE, 1, "PCM_16", format="WAV") as out:
                    for block, read in _resampled(file):
                        frames += read
                        levels.note(block)
                        marks.note(block)
                        samples += len(block)
                        _write(out, np.clip(block, -1.0, 1.0))
                self._check(path, frames, rate, levels)
        except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
            raise AudioError(f"not audio that can be read ({getattr(error, 'error_string', None) or error})") from error
        gain_db = self.level_db - 10 * np.log10(max(levels.active_power(), 1e-12))
        gain_db = float(np.clip(gain_db, -self.most_gain_db, self.most_gain_db))
        gain = min(10 ** (gain_db / 20), self.peak / max(levels.peak, 1e-6))
        transforms = [f"mono of {channels}"] if channels > 1 else []
        transforms += [f"resampled {rate} -> {SAMPLE_RATE} Hz"] if rate != SAMPLE_RATE else []
        transforms += ["16 bit", f"gain {20 * np.log10(gain):+.1f} dB"]
        return Recording(source, audio, samples, round(gain, 6), rate, tuple(transforms), marks.finish())

    def _check(self, path: Path, frames: int, rate: int, levels: _Levels) -> None:
        problem = container_problem(path, frames)
        if problem:
            raise AudioError(problem)
        if frames == 0:
            raise AudioError("no samples")
        if frames < self.shortest_s * rate:
            raise AudioError(f"too short: below {self.shortest_s:g} s")
        if levels.peak < 1e-4:
            raise AudioError("digital silence")


def _write(out: soundfile.SoundFile, block: Samples) -> None:
    """A disk that takes no more is no fault of the source."""
    try:
        out.write(block)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise OSError(errno.EIO, f"the recording cannot be written ({error})", out.name) from error


def _resampled(file: SequentialSoundFile) -> Iterator[tuple[Samples, int]]:
    """Blocks at 24 kHz mono, and how many frames were read for each.

    Raises:
        AudioError: samples are not finite.
    """
    stream = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, 1, dtype="float32")
    block = file.read(_BLOCK, dtype="float32", always_2d=True)
    while len(block):
        following = file.read(_BLOCK, dtype="float32", always_2d=True)
        mono = block.mean(axis=1)
        if not np.isfinite(mono).all():
            raise AudioError("samples that are not finite")
        yield stream.resample_chunk(mono, last=not len(following)), len(block)
        block = following
