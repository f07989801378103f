"""From channels to one, and from any scale of samples to [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import AudioError

_SILENT = 1e-6  # 60 dB below the loudest channel
_CANCELLED = 0.5  # of the energy that the mean of unrelated channels has
_UNSCALED = 32.0  # floating-point samples above it are whole numbers that nobody divided
_FULL_SCALES = (2.0**15, 2.0**23, 2.0**31)
_ENERGY_STRIDE = 7
_OVERSHOOT = 1.5  # resampling may overshoot the largest whole number


class MonoMix:
    """Mixes blocks [N, C] to mono [N] by their mean, and finds out whether that was right.

    The mean loses what the channels hold with opposite signs, as a microphone with one wire swapped does, and is too
    quiet where channels are silent. take: for a number of channels, the one that stands for all of them.
    """

    def __init__(self, take: Mapping[int, int] | None = None) -> None:
        self._take = dict(take or {})
        self._energy: dict[int, Any] = {}  # channels -> energy of each, and of their mean

    def push(self, block: Any) -> Any:
        """block [N, C] -> mono [N], float32."""
        channels = block.shape[1]
        if channels == 1:
            return block[:, 0]
        if channels in self._take:
            return np.ascontiguousarray(block[:, self._take[channels]])
        mono = block @ np.full(channels, 1 / channels, np.float32)
        energy = np.append(_energy(block), _energy(mono[:, None]))
        self._energy[channels] = self._energy.get(channels, 0.0) + energy
        return mono

    def cancelled(self) -> dict[int, int]:
        """Where the mean lost most of the energy: number of channels -> the loudest of them, to be taken instead."""
        loudest = {}
        for channels, energy in self._energy.items():
            by_channel, active = energy[:-1], _active(energy[:-1])
            mean = energy[-1] * (channels / max(active, 1)) ** 2
            if active > 1 and mean < _CANCELLED * by_channel.sum() / active**2:
                loudest[channels] = int(by_channel.argmax())
        return loudest

    @property
    def gain(self) -> float:
        """What the mix is to be multiplied by, so that silent channels do not make it quieter."""
        if len(self._energy) != 1:
            return 1.0
        ((channels, energy),) = self._energy.items()
        active = _active(energy[:-1])
        return channels / active if active else 1.0


def mix_to_mono(samples: Any) -> Any:
    """samples [S, C] float -> mono [S]: the mean, or the loudest channel where the mean would cancel out."""
    mix = MonoMix()
    mono = mix.push(samples)
    if take := mix.cancelled():
        return MonoMix(take).push(samples)
    return mono * np.float32(mix.gain)


def full_scale(peak: float, where: str) -> float:
    """The number that stands for full scale in floating-point samples whose largest magnitude is `peak`.

    1.0 for samples in [-1, 1] or a little above; 2^15, 2^23 or 2^31 where whole numbers were stored as they were.
    Raises AudioError above that, and for what is not finite.
    """
    if not np.isfinite(peak):
        raise AudioError(f"{where}: some samples are NaN or infinite.")
    if peak <= _UNSCALED:
        return 1.0
    for scale in _FULL_SCALES:
        if peak <= scale * _OVERSHOOT:
            return scale
    raise AudioError(f"{where}: samples of up to {peak:.3g} are no audio; give [-1, 1].")


def integer_scale(peak: int) -> float:
    """The same for whole numbers of 32 or 64 bits: of 16, 24 or 32 bits, the fewest that hold `peak`."""
    return next((scale for scale in _FULL_SCALES if peak <= scale), _FULL_SCALES[-1])


def _active(energy: Any) -> int:
    """energy [C] -> how many of the channels are not silent."""
    return int((energy > energy.max() * _SILENT).sum())


def _energy(block: Any) -> Any:
    """block [N, C] -> [C]: energy around the mean, so that a constant offset counts for nothing; of some samples."""
    some = block[::_ENERGY_STRIDE].astype(np.float64)
    return some.var(axis=0) * len(some)
