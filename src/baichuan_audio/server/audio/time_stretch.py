"""Speech faster or slower at the same pitch, while it streams."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FRAME_S = 0.03
_SEARCH_S = 0.008

Samples = NDArray[np.float32]


class TimeStretch:
    """Overlap-add with a search for the like wave form (WSOLA: Verhelst and Roelands, ICASSP 1993).

    Each output frame begins near its nominal place in the input, where the input best continues the frame before.
    sample_rate in Hz; speed: 2.0 is twice as fast. All pieces laid end to end are the same whatever the cut.
    """

    def __init__(self, sample_rate: int, speed: float) -> None:
        self._hop = int(_FRAME_S * sample_rate) // 2
        self._search = int(_SEARCH_S * sample_rate)
        self._speed = speed
        self._advance = self._hop * speed
        self._rise = np.linspace(0, 1, self._hop, endpoint=False, dtype=np.float32)
        self._samples: Samples = np.zeros(0, np.float32)
        self._first = 0  # index in the whole input of self._samples[0]
        self._count = 0  # output frames so far
        self._tail: Samples | None = None  # how the input went on after the last frame's first half

    def push(self, samples: Samples) -> Samples:
        """samples [S] -> [S'], what can be said now."""
        self._samples = np.concatenate([self._samples, samples])
        pieces = []
        while (place := int(self._count * self._advance)) + self._search + 2 * self._hop <= self._end:
            pieces.append(self._next_frame(place))
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def flush(self) -> Samples:
        """The rest, as if silence followed."""
        left = round(self._end / self._speed) - self._count * self._hop
        return self.push(np.zeros(self._search + 2 * self._hop, np.float32))[: max(0, left)]

    @property
    def _end(self) -> int:
        return self._first + len(self._samples)

    def _next_frame(self, place: int) -> Samples:
        """Half a frame of output, taken near `place` of the input."""
        start = place if self._tail is None else self._best_start(place)
        frame = self._samples[start - self._first : start - self._first + 2 * self._hop]
        head = frame[: self._hop]
        output = head if self._tail is None else self._mix(self._tail, head)
        self._tail = frame[self._hop :].copy()
        self._count += 1
        kept = max(self._first, int(self._count * self._advance) - self._search)
        self._samples, self._first = self._samples[kept - self._first :], kept
        return output.copy()

    def _best_start(self, place: int) -> int:
        """Where, at most the search range from `place`, the input is most like the tail (normalised correlation)."""
        assert self._tail is not None
        low = max(place - self._search, self._first)
        region = self._samples[low - self._first : place + self._search + self._hop - self._first]
        likeness = np.correlate(region, self._tail, "valid")
        power = np.concatenate([[0.0], np.cumsum(region.astype(np.float64) ** 2)])
        power = power[self._hop :] - power[: -self._hop]
        return low + int(np.argmax(likeness / np.sqrt(power + 1e-6)))

    def _mix(self, fading: Samples, rising: Samples) -> Samples:
        rise = self._rise[: len(rising)]
        return fading * (1 - rise) + rising * rise
