"""Speech faster or slower at the same pitch, streamed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FRAME_S = 0.03
_SEARCH_S = 0.008

Samples = NDArray[np.float32]


class TimeStretch:
    """Waveform-similarity overlap-add (WSOLA: Verhelst and Roelands, ICASSP 1993).

    Each output frame begins near its nominal position in the input, where the input best continues the frame before.
    sample_rate in Hz; speed: 2.0 is twice as fast. The output is the same for any chunking.
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
        self._tail: Samples | None = None  # the input after the first half of the last frame

    def push(self, samples: Samples) -> Samples:
        """samples [S] -> the output [S'] that depends on no later samples."""
        self._samples = np.concatenate([self._samples, samples])
        pieces = []
        while (position := int(self._count * self._advance)) + self._search + 2 * self._hop <= self._end:
            pieces.append(self._next_frame(position))
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def flush(self) -> Samples:
        """The rest, as if silence followed."""
        left = round(self._end / self._speed) - self._count * self._hop
        return self.push(np.zeros(self._search + 2 * self._hop, np.float32))[: max(0, left)]

    @property
    def _end(self) -> int:
        return self._first + len(self._samples)

    def _next_frame(self, position: int) -> Samples:
        """Half a frame of output, taken near `position` of the input."""
        start = position if self._tail is None else self._best_start(position)
        frame = self._samples[start - self._first : start - self._first + 2 * self._hop]
        head = frame[: self._hop]
        output = head if self._tail is None else self._mix(self._tail, head)
        self._tail = frame[self._hop :].copy()
        self._count += 1
        kept = max(self._first, int(self._count * self._advance) - self._search)
        self._samples, self._first = self._samples[kept - self._first :], kept
        return output.copy()

    def _best_start(self, position: int) -> int:
        """Where, at most the search range from `position`, the input is most like the tail (normalised correlation)."""
        assert self._tail is not None
        low = max(position - self._search, self._first)
        region = self._samples[low - self._first : position + self._search + self._hop - self._first]
        correlation = np.correlate(region, self._tail, "valid")
        power = np.concatenate([[0.0], np.cumsum(region.astype(np.float64) ** 2)])
        power = power[self._hop :] - power[: -self._hop]
        return low + int(np.argmax(correlation / np.sqrt(power + 1e-6)))

    def _mix(self, fading: Samples, rising: Samples) -> Samples:
        rise = self._rise[: len(rising)]
        return fading * (1 - rise) + rising * rise
