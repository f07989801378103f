"""Speech probabilities of windows -> segments of speech."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5  # speech probability that begins a segment
HYSTERESIS = 0.15  # speech continues until the probability is this far below the threshold
MARGIN_S = 0.35  # added on both sides of a segment, at most half the pause
MIN_PAUSE_S = 0.4  # a shorter pause does not end a segment (measured: docs/serving.md)
_MIN_WINDOWS = 3  # above the threshold in a segment: music often has one or two, a spoken digit five
_SHORT_WINDOWS = 12  # with fewer, a segment must also be louder than the background, which notes of a melody are not
_PROMINENCE = 2.0  # times the level of the background
_EDGE_S = 0.5  # speech this close to the beginning is extended to it, because the network has little context there
_SMOOTHING = 7  # windows averaged to choose a split point
_LEVEL_RANGE_DB = 60.0

Values = NDArray[np.float32]
Run = tuple[int, int]  # first window, window after the last
Span = tuple[float, float]  # seconds


def speech_segments(
    probabilities: Values, levels: Values, window_s: float, length_s: float, max_seconds: float | None = None
) -> list[Span]:
    """Speech probabilities [W] and levels [W] (root mean square) -> segments (start, end) in seconds, in order.

    Segments are at least MIN_PAUSE_S apart and have a margin of MARGIN_S on either side, at most half the pause; one
    longer than `max_seconds` is split where speech is weakest. length_s: of the recording. Empty without speech.
    """
    windows = min(len(probabilities), len(levels))
    probabilities, levels = probabilities[:windows], levels[:windows]
    runs = _runs(probabilities, window_s)
    background = np.ones(windows, bool)
    for run in runs:
        background[slice(*run)] = False
    runs = [run for run in runs if _is_speech(probabilities[slice(*run)], levels[slice(*run)], levels[background])]
    segments: list[Span] = []
    for number, (first, last) in enumerate(runs):
        start, end = first * window_s, last * window_s
        before = start - runs[number - 1][1] * window_s if number else np.inf
        after = runs[number + 1][0] * window_s - end if number + 1 < len(runs) else np.inf
        start = max(start - min(MARGIN_S, before / 2), 0.0) if start > _EDGE_S else 0.0
        end = min(end + min(MARGIN_S, after / 2), length_s)
        segments += _split(start, end, _split_scores(probabilities, levels), window_s, max_seconds)
    return segments


def _is_speech(probabilities: Values, levels: Values, background: Values) -> bool:
    """Whether a run is speech, not a short false detection.

    probabilities, levels: of its windows [R]. background: levels of the windows in no run [B].
    """
    speech = probabilities >= THRESHOLD
    count = int(speech.sum())
    if count < _MIN_WINDOWS or count >= _SHORT_WINDOWS or len(background) < count:
        return count >= _MIN_WINDOWS
    return bool(np.median(levels[speech]) >= _PROMINENCE * np.median(background))


def _runs(probabilities: Values, window_s: float) -> list[Run]:
    """Runs of speech without a pause of MIN_PAUSE_S.

    Speech begins at a window that reaches the threshold and ends at one that is HYSTERESIS below it.
    """
    decided = np.where(probabilities >= THRESHOLD, 1, np.where(probabilities < THRESHOLD - HYSTERESIS, 0, -1))
    latest = np.maximum.accumulate(np.where(decided >= 0, np.arange(len(decided)), 0))
    speech = np.flatnonzero(decided[latest] == 1)
    if not len(speech):
        return []
    breaks = np.flatnonzero((np.diff(speech) - 1) * window_s >= MIN_PAUSE_S)
    firsts, lasts = speech[np.r_[0, breaks + 1]], speech[np.r_[breaks, len(speech) - 1]]
    return [(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]


def _split_scores(probabilities: Values, levels: Values) -> Values:
    """Score of each window as a split point [W]: high where it is quiet and has little speech."""
    loudness = 20 * np.log10(np.maximum(levels / max(float(levels.max()), 1e-9), 10 ** (-_LEVEL_RANGE_DB / 20)))
    voice = probabilities + loudness / _LEVEL_RANGE_DB
    return -np.convolve(voice, np.ones(_SMOOTHING, np.float32) / _SMOOTHING, mode="same")


def _split(
    start: float, end: float, split_scores: Values, window_s: float, max_seconds: float | None
) -> Iterator[Span]:
    """Pieces of a segment no longer than `max_seconds`, each split in the second half of that length."""
    while max_seconds is not None and end - start > max_seconds:
        first = int((start + max_seconds / 2) / window_s) + 1
        last = max(int((start + max_seconds) / window_s), first + 1)
        middle = (first + int(np.argmax(split_scores[first:last])) + 0.5) * window_s
        yield start, middle
        start = middle
    yield start, end
