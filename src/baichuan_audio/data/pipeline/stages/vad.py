"""Voice activity: a recording -> stretches of speech; one that is too long is split where it is quietest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ...store.records import SAMPLE_RATE, Dropped, Piece, Recording
from ..audio_access import ANALYSIS_RATE, blocks
from ..backends.registry import load_backend
from ..backends.vad import WINDOW
from ..engine.stage import Context, Stage, StageResult
from .fingerprint import stretch_of

_STEP = WINDOW * SAMPLE_RATE // ANALYSIS_RATE
"""Samples at 24 kHz of one window."""


@dataclass(frozen=True)
class VoiceActivityStage(Stage[Recording, Piece]):
    """Speech begins at probability `threshold`, ends `hysteresis` below it for `silence_s`; `padding_s` is kept around.

    A recording that comes with its whole transcript and is no longer than `longest_s` stays one piece, from its first
    word to its last; utterances with times of their own become pieces of these times where there is speech in them.
    """

    name: ClassVar[str] = "vad"
    record: ClassVar[type] = Piece
    backend: str = "silero"
    threshold: float = 0.4
    hysteresis: float = 0.15
    silence_s: float = 0.3
    speech_s: float = 0.2
    padding_s: float = 0.1
    longest_s: float = 28.0

    def backends(self) -> Sequence[tuple[str, str]]:
        return (("vad", self.backend),)

    def run(self, records: Sequence[Recording], context: Context) -> StageResult[Piece]:
        kept: list[Piece] = []
        dropped: list[Dropped] = []
        detect = load_backend("vad", self.backend)
        for recording in records:
            probabilities = detect(blocks(context.recordings, recording))
            stretches = self.stretches(probabilities, recording.samples)
            pieces = self._pieces(recording, stretches, probabilities)
            if not pieces:
                source = recording.source
                seconds = recording.samples / SAMPLE_RATE
                dropped.append(Dropped(source.id, source.id, source.origin, "no speech", seconds))
            kept += pieces
        return StageResult(kept, dropped)

    def stretches(self, probabilities: NDArray[np.float32], samples: int) -> list[tuple[int, int]]:
        """Probabilities of windows [N] -> first and end sample (24 kHz) of each stretch of speech."""
        runs = _runs(probabilities, self.threshold, self.threshold - self.hysteresis)
        joined: list[list[int]] = []
        for first, end in runs:
            if joined and (first - joined[-1][1]) * _STEP < self.silence_s * SAMPLE_RATE:
                joined[-1][1] = end
            else:
                joined.append([first, end])
        padding = round(self.padding_s * SAMPLE_RATE)
        stretches: list[tuple[int, int]] = []
        for first, end in joined:
            if (end - first) * _STEP < self.speech_s * SAMPLE_RATE:
                continue
            start = max(first * _STEP - padding, stretches[-1][1] if stretches else 0)
            stop = min(end * _STEP + padding, samples)
            if stop > start:
                stretches += self._split(start, stop, probabilities)
        return stretches

    def _split(self, start: int, end: int, probabilities: NDArray[np.float32]) -> list[tuple[int, int]]:
        """Cuts a stretch longer than `longest_s` at the least likely window of its middle half, again and again."""
        if end - start <= self.longest_s * SAMPLE_RATE:
            return [(start, end)]
        first, last = start // _STEP, end // _STEP
        quarter = (last - first) // 4
        middle = probabilities[first + quarter : last - quarter]
        cut = (first + quarter + int(middle.argmin())) * _STEP + _STEP // 2
        return [*self._split(start, cut, probabilities), *self._split(cut, end, probabilities)]

    def _pieces(
        self, recording: Recording, stretches: list[tuple[int, int]], probabilities: NDArray[np.float32]
    ) -> list[Piece]:
        source = recording.source
        if not stretches:
            return []
        if source.utterances:
            return self._utterances(recording, stretches)
        first, last = stretches[0][0], stretches[-1][1]
        if source.transcript and last - first <= self.longest_s * SAMPLE_RATE:
            return [_piece(recording, first, last, source.transcript)]
        pieces = [_piece(recording, start, end) for start, end in stretches]
        if source.transcript:  # handed out to the pieces once they have been recognised
            pieces[0] = dataclasses.replace(pieces[0], extra={"transcript": source.transcript})
        return pieces

    def _utterances(self, recording: Recording, stretches: list[tuple[int, int]]) -> list[Piece]:
        padding, pieces = round(self.padding_s * SAMPLE_RATE), []
        ends = [round(utterance.end * SAMPLE_RATE) for utterance in recording.source.utterances]
        starts = [round(utterance.start * SAMPLE_RATE) for utterance in recording.source.utterances]
        for index, utterance in enumerate(recording.source.utterances):
            start, end = max(0, starts[index] - padding), min(recording.samples, ends[index] + padding)
            if index:
                start = max(start, (ends[index - 1] + starts[index]) // 2)
            if index + 1 < len(starts):
                end = min(end, (ends[index] + starts[index + 1]) // 2)
            spoken = sum(max(0, min(end, stop) - max(start, first)) for first, stop in stretches)
            if spoken >= self.speech_s * SAMPLE_RATE and end > start:
                pieces.append(_piece(recording, start, end, utterance.text))
        return pieces


def _runs(probabilities: NDArray[np.float32], upper: float, lower: float) -> list[tuple[int, int]]:
    """First and end window of each run that rises above `upper` and then stays above `lower`."""
    above, high = probabilities >= lower, probabilities >= upper
    edges = np.flatnonzero(np.diff(np.concatenate([[False], above, [False]]).astype(np.int8)))
    runs = []
    for first, end in edges.reshape(-1, 2).tolist():
        loud = np.flatnonzero(high[first:end])
        if len(loud):
            runs.append((first + int(loud[0]), end))
    return runs


def _piece(recording: Recording, start: int, end: int, text: str | None = None) -> Piece:
    source = recording.source
    return Piece(
        id=f"{source.id}@{start}-{end}",
        source=source.id,
        audio=recording.audio,
        start=start,
        end=end,
        gain=recording.gain,
        license=source.license,
        origin=source.origin,
        transforms=recording.transforms,
        original_rate=recording.original_rate,
        language=source.language,
        speaker=source.speaker,
        text=text,
        given=text is not None,
        fingerprint=stretch_of(recording.fingerprint, start, end),
    )
