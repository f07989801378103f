"""Cuts a piece into clauses, at punctuation and at natural pauses, in true silence and between whole words.

A cut lies where code frames meet (every 80 ms from the piece's beginning) wherever a pause holds such a place, so that
the frames of a clause are whole frames of its own sound.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...store.records import FRAME_SAMPLES, SAMPLE_RATE, Clause, Piece, Word
from ..audio_access import Samples, read_piece
from ..engine.stage import Context, Stage, StageResult
from ..spoken_units import PAUSE_MARKS, units

_AROUND = SAMPLE_RATE // 100  # half of the window in which a cut must be quiet
_STEP = _AROUND // 2


@dataclass(frozen=True)
class Cut(Stage[Piece, Piece]):
    """mark_pause_s: the least pause at a punctuation mark; pause_s: without one.

    quiet_db: so far below the level of the piece's speech a cut has to lie, and within `floor_db` of its quietest
    parts, in a stretch that is as quiet for `quiet_s`: the closure of a consonant is shorter. shortest_s: of a clause.
    longest_s: in a clause that is longer, short pauses without a mark are used too.
    """

    name: ClassVar[str] = "cut"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (f"{__package__.rpartition('.')[0]}.spoken_units",)
    mark_pause_s: float = 0.08
    pause_s: float = 0.3
    quiet_db: float = 15.0
    floor_db: float = 6.0
    quiet_s: float = 0.06
    shortest_s: float = 0.8
    longest_s: float = 12.0

    def run(self, records: Sequence[Piece], context: Context) -> StageResult[Piece]:
        return StageResult(
            [dataclasses.replace(piece, clauses=self.clauses(piece, _samples(piece, context))) for piece in records]
        )

    def clauses(self, piece: Piece, samples: Samples) -> tuple[Clause, ...]:
        """samples [S]: the piece at 24 kHz. Every word and every sample is in one clause."""
        text, named, words = piece.text or "", units(piece.text or ""), piece.words
        limit = self._limit(samples)
        borders = [0]
        places = [piece.start]
        for index in range(1, len(words)):
            between = text[named[index - 1].end : named[index].first]
            marked = bool(PAUSE_MARKS & set(between))
            pause = (words[index].start - words[index - 1].end) / SAMPLE_RATE
            long_so_far = words[index - 1].end - places[-1] > self.longest_s * SAMPLE_RATE
            least = self.mark_pause_s if marked or long_so_far else self.pause_s
            if pause < least or words[index - 1].end - places[-1] < self.shortest_s * SAMPLE_RATE:
                continue
            if piece.end - words[index].start < self.shortest_s * SAMPLE_RATE:
                continue
            border = self._place(piece.start, samples, words[index - 1], words[index], limit)
            if border is not None:
                borders.append(index)
                places.append(border)
        firsts = [named[border].first if border else 0 for border in borders]
        return tuple(
            Clause(text[first:last].strip(), start, end)
            for first, last, start, end in zip(
                firsts, [*firsts[1:], len(text)], places, [*places[1:], piece.end], strict=True
            )
        )

    def _limit(self, samples: Samples) -> float:
        """The most power of a cut, in dB."""
        frames = samples[: len(samples) // 480 * 480].reshape(-1, 480).astype(np.float64)
        if not len(frames):
            return -120.0
        power = np.sort((frames**2).mean(axis=1))
        level = float(10 * np.log10(power[len(power) // 2 :].mean() + 1e-12))
        floor = float(10 * np.log10(np.quantile(power, 0.05) + 1e-12))
        return min(level - self.quiet_db, max(floor + self.floor_db, level - 35.0))

    def _place(self, origin: int, samples: Samples, before: Word, after: Word, limit: float) -> int | None:
        """The best sample to cut at between two words; None where none is quiet."""
        first, last = before.end + _AROUND, after.start - _AROUND
        if last <= first:
            first = last = (before.end + after.start) // 2
        grid = np.arange(-(-(first - origin) // FRAME_SAMPLES), (last - origin) // FRAME_SAMPLES + 1) * FRAME_SAMPLES
        fine = np.arange(first - origin, last - origin + 1, _STEP)
        for candidates in (grid, fine):
            quiet = [sample for sample in candidates.tolist() if self._is_quiet(samples, sample, limit)]
            if quiet:
                return origin + min(quiet, key=lambda sample: _power(samples, sample))
        return None

    def _is_quiet(self, samples: Samples, middle: int, limit: float) -> bool:
        """Whether a sample lies in a stretch of `quiet_s` below the limit."""
        steps = round(self.quiet_s * SAMPLE_RATE / _STEP) - 2 * _AROUND // _STEP
        quiet = 0
        for way in (1, -1):
            reach = (_is_below(samples, middle + way * step * _STEP, limit) for step in range(steps + 1))
            quiet += sum(itertools.takewhile(bool, reach))
        return quiet > steps + 1  # the middle counts twice


def _samples(piece: Piece, context: Context) -> Samples:
    return read_piece(context.recordings, piece, SAMPLE_RATE)


def _power(samples: Samples, middle: int) -> float:
    window = samples[max(0, middle - _AROUND) : middle + _AROUND]
    return float((window.astype(np.float64) ** 2).mean()) if len(window) else 0.0


def _is_below(samples: Samples, middle: int, limit: float) -> bool:
    return bool(10 * np.log10(_power(samples, middle) + 1e-12) <= limit)
