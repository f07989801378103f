"""Mixes channels to mono, and scales samples to [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import AudioError

_SILENT = 1e-6  # 60 dB below the loudest channel
_CANCELLED = 0.5  # of the energy of the mean of uncorrelated channels
_UNSCALED = 32.0  # floating-point samples above it are unscaled integers
_FULL_SCALES = (2.0**15, 2.0**23, 2.0**31)
_ENERGY_STRIDE = 7
_OVERSHOOT = 1.5  # resampling may overshoot the largest integer


class MonoMix:
    """Mixes blocks [N, C] to mono [N] by their mean, and measures whether the mean cancels out.

    The mean loses signals with opposite signs in the channels (a microphone with swapped wires), and is too quiet where
    channels are silent. take: for a number of channels, the index of the one to use instead of the mean.
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
        """Where the mean lost most of the energy: number of channels -> the index of the loudest, to use instead."""
        loudest = {}
        for channels, energy in self._energy.items():
            by_channel, active = energy[:-1], _active(energy[:-1])
            mean = energy[-1] * (channels / max(active, 1)) ** 2
            if active > 1 and mean < _CANCELLED * by_channel.sum() / active**2:
                loudest[channels] = int(by_channel.argmax())
        return loudest

    @property
    def gain(self) -> float:
        """Factor of the mix that compensates silent channels."""
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
    """The full scale of floating-point samples whose largest magnitude is `peak`.

    1.0 for samples in [-1, 1] or a little above; 2^15, 2^23 or 2^31 for unscaled integers. Raises AudioError above
    that, and for a peak that is not finite.
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
    """The full scale of 32- or 64-bit integers: that of 16, 24 or 32 bits, the least that holds `peak`."""
    return next((scale for scale in _FULL_SCALES if peak <= scale), _FULL_SCALES[-1])


def _active(energy: Any) -> int:
    """energy [C] -> number of channels that are not silent."""
    return int((energy > energy.max() * _SILENT).sum())


def _energy(block: Any) -> Any:
    """block [N, C] -> [C]: energy around the mean, so that a constant offset is ignored; of a subset of the samples."""
    subset = block[::_ENERGY_STRIDE].astype(np.float64)
    return subset.var(axis=0) * len(subset)
