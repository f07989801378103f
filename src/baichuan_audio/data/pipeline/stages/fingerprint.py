"""A fingerprint of a recording's sound that survives another codec, level and bit depth.

After Haitsma and Kalker, "A highly robust audio fingerprinting system" (ISMIR 2002): the signs of differences of band
energies along frequency and time, 16 bits for every 128 ms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...store.records import SAMPLE_RATE
from ..audio_access import Samples

_HOP = int(0.128 * SAMPLE_RATE)
_WINDOW = 3 * _HOP
_BANDS = 17
_EDGES_HZ = np.geomspace(200, 3000, _BANDS + 1)


class Fingerprint:
    """Takes a recording block by block."""

    def __init__(self) -> None:
        self._rest: Samples = np.zeros(0, np.float32)
        self._energies: list[NDArray[np.float64]] = []
        bins = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)
        self._first = np.searchsorted(bins, _EDGES_HZ)
        self._window = np.hanning(_WINDOW)

    def note(self, block: Samples) -> None:
        samples = np.concatenate([self._rest, block])
        start = 0
        while start + _WINDOW <= len(samples):
            power = np.abs(np.fft.rfft(samples[start : start + _WINDOW] * self._window)) ** 2
            self._energies.append(np.add.reduceat(power, self._first)[:_BANDS])
            start += _HOP
        self._rest = samples[start:]

    def finish(self) -> str:
        """Four hexadecimal digits for each step of 128 ms."""
        if len(self._energies) < 2:
            return ""
        energies = np.log(np.array(self._energies) + 1e-9)
        slope = energies[:, 1:] - energies[:, :-1]
        bits = (slope[1:] - slope[:-1]) > 0
        return np.packbits(bits, axis=1).tobytes().hex()


def stretch_of(fingerprint: str, start: int, end: int) -> str:
    """The fingerprint of samples `start` to `end` of a recording."""
    return fingerprint[4 * round(start / _HOP) : 4 * max(0, (end - _WINDOW) // _HOP)]


def bits_of(fingerprint: str) -> NDArray[np.uint8]:
    """A fingerprint as bits [N, 16]."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(fingerprint), np.uint8)).reshape(-1, 16)


def difference(first: str, second: str, shift: int = 2) -> float:
    """Share of bits that differ at the best of a few shifts: about 0 for the same sound, 0.5 for another."""
    one, two = bits_of(first), bits_of(second)
    best = 1.0
    for by in range(-shift, shift + 1):
        a, b = one[max(0, by) :], two[max(0, -by) :]
        count = min(len(a), len(b))
        if count >= 4:
            best = min(best, float((a[:count] != b[:count]).mean()))
    return best
