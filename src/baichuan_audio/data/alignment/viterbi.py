"""The most probable path of a given text through the output of a CTC network (Graves et al. 2006)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def ctc_path(
    log_probabilities: np.ndarray, symbols: Sequence[int], blank: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """First and last frame of each of `symbols` [N] in log-probabilities [T, V]; None if T is too short."""
    length, states = len(log_probabilities), 2 * len(symbols) + 1
    if not symbols or length < len(symbols):
        return None
    with_blanks = np.full(states, blank, dtype=np.int64)
    with_blanks[1::2] = symbols
    scores = log_probabilities[:, with_blanks]
    may_skip = np.zeros(states, dtype=bool)  # the blank between two symbols that differ
    may_skip[3::2] = with_blanks[3::2] != with_blanks[1:-2:2]
    best = np.full(states, -np.inf)
    best[:2] = scores[0, :2]
    steps = np.zeros((length, states), dtype=np.int8)
    for time in range(1, length):
        one = np.concatenate([[-np.inf], best[:-1]])
        two = np.where(may_skip, np.concatenate([[-np.inf, -np.inf], best[:-2]]), -np.inf)
        ways = np.stack([best, one, two])
        steps[time] = ways.argmax(0)
        best = ways.max(0) + scores[time]
    state = states - 1 if best[-1] >= best[-2] else states - 2
    if not np.isfinite(best[state]):
        return None
    first, last = np.zeros(len(symbols), np.int64), np.full(len(symbols), -1, np.int64)
    for time in range(length - 1, -1, -1):
        if state % 2:
            first[state // 2] = time
            last[state // 2] = max(last[state // 2], time)
        state -= int(steps[time, state])
    return first, last
