"""Forced alignment: when each word of a piece's text is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...store.records import SAMPLE_RATE, Dropped, Piece, Word
from ..audio_access import ANALYSIS_RATE, Samples, read_piece
from ..backends.aligners import AlignedUnit, Aligner
from ..backends.registry import load_backend
from ..engine.stage import Context, Stage, StageResult
from ..spoken_units import PAUSE_MARKS
from .filters import drop

_FRAME = ANALYSIS_RATE // 100


@dataclass(frozen=True)
class Align(Stage[Piece, Piece]):
    """backend: the first aligner of the list that finds a path is believed.

    implausible: the most words that may be shorter than 30 ms or longer than 2 s, as a share. edge_db: where a word
    meets a pause, its border is moved to where the sound rises above the pause's level by so much, 80 ms at most.
    closure_s: a shorter gap between Mandarin characters without a mark is no pause but the end of a nasal or the
    beginning of a consonant: the earlier character lasts until the next.
    """

    name: ClassVar[str] = "align"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (f"{__package__.rpartition('.')[0]}.spoken_units",)
    aligners: tuple[str, ...] = ("pocketsphinx",)
    implausible: float = 0.2
    edge_db: float = 12.0
    closure_s: float = 0.15

    def backends(self) -> Sequence[tuple[str, str]]:
        return tuple(("aligner", name) for name in self.aligners)

    def run(self, records: Sequence[Piece], context: Context) -> StageResult[Piece]:
        kept: list[Piece] = []
        dropped: list[Dropped] = []
        for piece in records:
            samples = read_piece(context.recordings, piece)
            aligned = self._align(samples, piece)
            if aligned is None:
                dropped.append(drop(piece, "no alignment", (piece.text or "")[:200]))
                continue
            lengths = np.array([unit.end_s - unit.start_s for unit in aligned])
            share = float(((lengths < 0.03) | (lengths > 2.0)).mean())
            if share > self.implausible:
                dropped.append(drop(piece, "implausible alignment", f"{share:.2f} of the words"))
                continue
            kept.append(dataclasses.replace(piece, words=self._words(piece, aligned, samples)))
        return StageResult(kept, dropped)

    def _align(self, samples: Samples, piece: Piece) -> list[AlignedUnit] | None:
        for name in self.aligners:
            aligner: Aligner = load_backend("aligner", name)
            aligned = aligner(samples, piece.text or "", piece.language or "en")
            if aligned:
                return aligned
        return None

    def _words(self, piece: Piece, aligned: Sequence[AlignedUnit], samples: Samples) -> tuple[Word, ...]:
        power = _power_db(samples)
        words = []
        text = piece.text or ""
        for index, unit in enumerate(aligned):
            before = aligned[index - 1].end_s if index else 0.0
            after = aligned[index + 1].start_s if index + 1 < len(aligned) else len(samples) / ANALYSIS_RATE
            start, end = unit.start_s, unit.end_s
            if self.edge_db and start - before > 0.1 and not self._joined(text, aligned, index - 1):
                start = _onset(power, start, before, self.edge_db)
            if self._joined(text, aligned, index):
                end = after
            elif self.edge_db and after - end > 0.1:
                end = _offset(power, end, after, self.edge_db)
            words.append(
                Word(
                    text[unit.first : unit.end],
                    piece.start + round(start * SAMPLE_RATE),
                    piece.start + round(max(end, start) * SAMPLE_RATE),
                )
            )
        return tuple(words)

    def _joined(self, text: str, aligned: Sequence[AlignedUnit], index: int) -> bool:
        """Whether there is no pause between a character and the next."""
        if not 0 <= index < len(aligned) - 1:
            return False
        word, following = aligned[index], aligned[index + 1]
        if text[word.first] < "\u4e00" or PAUSE_MARKS & set(text[word.end : following.first]):
            return False
        return following.start_s - word.end_s < self.closure_s


def _power_db(samples: Samples) -> np.ndarray:
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64)
    return 10 * np.log10((frames**2).mean(axis=1) + 1e-10)


_REACH = 8  # frames of 10 ms


def _level(power: np.ndarray, quiet: np.ndarray, rise_db: float) -> float:
    """What counts as sound beside a pause: above its noise, and within 35 dB of the loud parts of the piece."""
    return max(float(np.quantile(quiet, 0.3)) + rise_db, float(np.quantile(power, 0.95)) - 35.0)


def _onset(power: np.ndarray, start: float, pause: float, rise_db: float) -> float:
    """Where the sound of a word after a pause rises, within 80 ms of `start`; times in seconds."""
    at = round(start * 100)
    quiet = power[round(pause * 100) : at]
    if len(quiet) < 3:
        return start
    level = _level(power, quiet, rise_db)
    first, last = max(round(pause * 100), at - _REACH), min(len(power), at + _REACH)
    loud = np.flatnonzero(power[first:last] > level)
    return (first + int(loud[0])) / 100 if len(loud) else start


def _offset(power: np.ndarray, end: float, pause_end: float, rise_db: float) -> float:
    """Where the sound of a word before a pause has fallen, within 80 ms of `end`."""
    at = round(end * 100)
    quiet = power[at : round(pause_end * 100)]
    if len(quiet) < 3:
        return end
    level = _level(power, quiet, rise_db)
    first, last = max(0, at - _REACH), min(len(power), at + _REACH)
    loud = np.flatnonzero(power[first:last] > level)
    return (first + int(loud[-1]) + 1) / 100 if len(loud) else end
