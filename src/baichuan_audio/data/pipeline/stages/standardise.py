"""Loudness and format: any file -> one WAV of 24 kHz mono, and the gain that brings its speech to a common loudness."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import soundfile

from ....audio.mixing import MonoMix
from ....audio.reading import AudioFacts, AudioLimits, convert_audio
from ....errors import AudioError
from ...store.atomic import written_aside
from ...store.records import SAMPLE_RATE, Dropped, Recording, Source
from ..audio_access import Samples, recording_path
from ..engine.stage import Context, Stage, StageResult
from .container import container_problem
from .fingerprint import Fingerprint

_NO_LIMITS = AudioLimits(max_bytes=1 << 62, max_seconds=float("inf"))
_HOP = SAMPLE_RATE // 50


@dataclass
class _Levels:
    """What is noted while the samples pass by."""

    peak: float = 0.0
    powers: list[Samples] = field(default_factory=list)
    rest: Samples = field(default_factory=lambda: np.zeros(0, np.float32))

    def note(self, block: Samples) -> None:
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        samples = np.concatenate([self.rest, block])
        whole = len(samples) // _HOP * _HOP
        self.powers.append((samples[:whole].reshape(-1, _HOP) ** 2).mean(axis=1))
        self.rest = samples[whole:]

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
    modules: ClassVar[tuple[str, ...]] = (
        f"{__package__}.container",
        f"{__package__}.fingerprint",
        convert_audio.__module__,
        MonoMix.__module__,
    )
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
        audio = self.key(source.digest)
        with written_aside(recording_path(context.recordings, audio)) as aside, _Output(aside) as output:
            try:
                facts = convert_audio(path, SAMPLE_RATE, output.start, _NO_LIMITS, name="audio")
            except AudioError as error:  # the reason, by which the report counts, without the file's name
                raise AudioError(str(error).removeprefix("audio: ").removesuffix(".")) from error
            self._check(path, facts, output.levels)
        gain_db = self.level_db - 10 * np.log10(max(output.levels.active_power(), 1e-12))
        gain_db = float(np.clip(gain_db, -self.most_gain_db, self.most_gain_db))
        gain = min(10 ** (gain_db / 20), self.peak / max(output.levels.peak, 1e-6))
        transforms = (*_conversions(facts), "16 bit", f"gain {20 * np.log10(gain):+.1f} dB")
        rate, marks = facts.sample_rate, output.marks.finish()
        return Recording(source, audio, output.samples, round(gain, 6), rate, transforms, marks)

    def _check(self, path: Path, facts: AudioFacts, levels: _Levels) -> None:
        problem = container_problem(path, facts.frames)
        if problem:
            raise AudioError(problem)
        if facts.frames == 0:
            raise AudioError("no samples")
        if facts.frames < self.shortest_s * facts.sample_rate:
            raise AudioError(f"too short: below {self.shortest_s:g} s")
        if levels.peak < 1e-4:
            raise AudioError("digital silence")


def _conversions(facts: AudioFacts) -> list[str]:
    """What reading changed, in words."""
    changes = []
    if facts.take is not None:
        changes.append(f"channel {facts.take + 1} of {facts.channels}, whose mean cancels out")
    elif facts.channels > 1:
        changes.append(f"mono of {facts.channels}")
    if facts.scale != 1.0:
        changes.append(f"scaled by {facts.scale:.4g}")
    if facts.sample_rate != SAMPLE_RATE:
        changes.append(f"resampled {facts.sample_rate} -> {SAMPLE_RATE} Hz")
    return changes


class _Output:
    """The WAV that is written, and what is noted meanwhile; begun anew by `start`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: soundfile.SoundFile | None = None

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def start(self) -> Callable[[Samples], None]:
        self.__exit__()
        self._file = soundfile.SoundFile(self._path, "w", SAMPLE_RATE, 1, "PCM_16", format="WAV")
        self.levels, self.marks, self.samples = _Levels(), Fingerprint(), 0
        return self._write

    def _write(self, block: Samples) -> None:
        assert self._file is not None
        self.levels.note(block)
        self.marks.note(block)
        self.samples += len(block)
        try:
            self._file.write(np.clip(block, -1.0, 1.0))
        except (soundfile.LibsndfileError, RuntimeError) as error:  # a full disk is no fault of the source
            raise OSError(errno.EIO, f"the recording cannot be written ({error})", self._file.name) from error
