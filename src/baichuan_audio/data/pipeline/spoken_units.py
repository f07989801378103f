"""A text as the units that are compared and aligned: English words, Mandarin characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...text.normalization import normalize_for_speech

_UNIT = re.compile(r"[\u4e00-\u9fff]|[A-Za-z]+(?:['’][A-Za-z]+)*|\d+(?:[.,]\d+)*")

PAUSE_MARKS = frozenset(",.!?;:，。！？；：、…")


@dataclass(frozen=True)
class Unit:
    """A word or character of a text: as it is compared, and where it stands."""

    spoken: str
    first: int
    end: int


def units(text: str) -> list[Unit]:
    """The words and characters of a text that is written as it is spoken (a number stays one unit)."""
    return [Unit(m[0].lower().replace("’", "'"), m.start(), m.end()) for m in _UNIT.finditer(text)]


def spoken(text: str, language: str | None) -> list[str]:
    """What two texts are compared by: numbers and signs in words, no case, no punctuation."""
    return [unit.spoken for unit in units(normalize_for_speech(text, language))]


def join(texts: Sequence[str], language: str | None) -> str:
    """Texts of neighbouring stretches as one."""
    return ("" if language == "zh" else " ").join(text.strip() for text in texts if text.strip())


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Insertions, deletions and substitutions that turn one into the other."""
    row = np.arange(len(second) + 1)
    ids: dict[str, int] = {}
    b = np.array([ids.setdefault(unit, len(ids)) for unit in second], np.int64)
    for unit in first:
        # Substitution or deletion at once; insertions by a running minimum.
        best = row + 1
        best[1:] = np.minimum(best[1:], row[:-1] + (b != ids.get(unit, -1)))
        row = np.minimum.accumulate(best - np.arange(len(best))) + np.arange(len(best))
    return int(row[-1])


def error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Errors a unit of the longer of the two, so that neither order is favoured; 0 where both are empty."""
    return edit_distance(reference, hypothesis) / max(1, len(reference), len(hypothesis))


def distribute(reference: Sequence[str], hypotheses: Sequence[Sequence[str]]) -> list[int]:
    """Where to cut a reference so that each part fits its hypothesis: the end of each part, in units of the reference.

    The edit distance's path of all hypotheses in a row, read at their borders.
    """
    flat = [unit for hypothesis in hypotheses for unit in hypothesis]
    costs = np.zeros((len(flat) + 1, len(reference) + 1), np.int32)
    costs[0] = np.arange(len(reference) + 1)
    for i, unit in enumerate(flat, 1):
        same = np.fromiter((unit != other for other in reference), np.int32, len(reference))
        best = costs[i - 1] + 1
        best[1:] = np.minimum(best[1:], costs[i - 1][:-1] + same)
        costs[i] = np.minimum.accumulate(best - np.arange(len(best))) + np.arange(len(best))
    borders = set(np.cumsum([len(hypothesis) for hypothesis in hypotheses]).tolist())
    ends: dict[int, int] = {}
    i, j = len(flat), len(reference)
    while True:
        if i in borders:
            ends.setdefault(i, j)
        if not i and not j:
            break
        if i and j and costs[i, j] == costs[i - 1, j - 1] + (flat[i - 1] != reference[j - 1]):
            i, j = i - 1, j - 1
        elif i and costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return [ends.get(border, 0) for border in np.cumsum([len(hypothesis) for hypothesis in hypotheses]).tolist()]
