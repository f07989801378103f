"""Audio in which nobody speaks, made by rule: silence, noise, hum, knocks, breath, wind and simple music.

An item is a function of the configuration, its seed and its number; two forms are held out: training never has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..store.records import FRAME_SAMPLES, SAMPLE_RATE

Samples = NDArray[np.float64]

SILENCE = "silence"
HELD_OUT = ("wind", "melody")
"""One kind of noise and one of music that only validation has."""
_SILENCE_DB = (-120.0, -60.0)  # a muted microphone gives zeros, and so do 16 bits below about -100 dBFS
_FLOOR_DB = (-120.0, -80.0)  # noise of the microphone under everything else
_PEAK = 0.97
_SCALE_HZ = 220 * 2 ** (np.array([0, 2, 4, 7, 9, 12, 14, 16, 19, 21]) / 12)  # two octaves of a pentatonic scale


@dataclass(frozen=True)
class NoSpeechConfig:
    """count: items, 0 for none. validation: share of them that is held out, half of it of the forms HELD_OUT.

    seconds: range of the lengths, which are whole code frames. level_db: range of the root mean square against full
    scale; silence lies below it.
    """

    count: int = 0
    seed: int = 0
    validation: float = 0.1
    seconds: tuple[float, float] = (0.4, 8.0)
    level_db: tuple[float, float] = (-60.0, -10.0)

    def __post_init__(self) -> None:
        if self.count < 0 or self.seed < 0:
            raise ConfigError(f"no_speech: count and seed must be 0 or more, not {self.count} and {self.seed}.")
        if not 0 <= self.validation <= 1:
            raise ConfigError(f"no_speech: validation is a share from 0 to 1, not {self.validation}.")
        if not FRAME_SAMPLES / SAMPLE_RATE <= self.seconds[0] <= self.seconds[1] <= 30:
            raise ConfigError(f"no_speech: seconds must be a range within 0.08 to 30, not {list(self.seconds)}.")
        if not -90 <= self.level_db[0] <= self.level_db[1] <= 0:
            raise ConfigError(f"no_speech: level_db must be a range within -90 to 0, not {list(self.level_db)}.")


@dataclass(frozen=True)
class NoSpeechItem:
    """What one item will be: `samples` at 24 kHz of a form of FORMS at a level, drawn with `seed`."""

    id: str
    form: str
    samples: int
    level_db: float
    split: str
    seed: tuple[int, int]
    license: str

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE


def draw_item(config: NoSpeechConfig, index: int, license: str = "") -> NoSpeechItem:
    """Item `index` of a set, the same whatever the set's size."""
    seed = (config.seed, index)
    rng = np.random.default_rng(seed)
    split = "validation" if rng.random() < config.validation else "train"
    new = split == "validation" and rng.random() < 0.5
    form = str(rng.choice(HELD_OUT if new else [form for form in FORMS if form not in HELD_OUT]))
    first, last = (round(seconds * SAMPLE_RATE / FRAME_SAMPLES) for seconds in config.seconds)
    samples = FRAME_SAMPLES * int(rng.integers(first, last, endpoint=True))
    level = float(rng.uniform(*(_SILENCE_DB if form == SILENCE else config.level_db)))
    return NoSpeechItem(f"no-speech-{config.seed}-{index:06d}", form, samples, level, split, seed, license)


def render(item: NoSpeechItem) -> NDArray[np.float32]:
    """An item's waveform [S] in [-1, 1] at 24 kHz, at its level but for what its peaks forbid."""
    rng = np.random.default_rng((*item.seed, 1))
    sound = _at_level(FORMS[item.form](item.samples, rng), item.level_db)
    sound *= min(1.0, _PEAK / float(np.abs(sound).max()))
    if item.form != SILENCE:
        sound += _at_level(_microphone(item.samples, rng), rng.uniform(*_FLOOR_DB))
    return np.clip(sound, -1.0, 1.0).astype(np.float32)


def _at_level(sound: Samples, level_db: float) -> Samples:
    return sound * (10 ** (level_db / 20) / max(float(np.sqrt((sound**2).mean())), 1e-9))


def _noise(count: int, rng: np.random.Generator, slope: float) -> Samples:
    """Noise [count] whose amplitude falls with frequency to the power of `slope`: 0 white, 0.5 pink, 1 brown."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequencies = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 20.0)
    return np.fft.irfft(spectrum * frequencies**-slope, count)


def _white(count: int, rng: np.random.Generator) -> Samples:
    return _noise(count, rng, 0.0)


def _pink(count: int, rng: np.random.Generator) -> Samples:
    return _noise(count, rng, 0.5)


def _brown(count: int, rng: np.random.Generator) -> Samples:
    return _noise(count, rng, 1.0)


def _microphone(count: int, rng: np.random.Generator) -> Samples:
    return _noise(count, rng, rng.uniform(0.0, 0.7))


def _hum(count: int, rng: np.random.Generator) -> Samples:
    """Mains hum of 50 or 60 Hz with harmonics, some of them missing, and a little noise."""
    time = np.arange(count) / SAMPLE_RATE
    mains = float(rng.choice((50.0, 60.0)))
    sound = 0.05 * rng.standard_normal(count)
    for harmonic in range(1, 25):
        amplitude = rng.random() * (rng.random() < 0.7) / harmonic ** rng.uniform(0.3, 1.0)
        sound += amplitude * np.sin(2 * np.pi * mains * harmonic * time + rng.uniform(0, 2 * np.pi))
    return sound


def _knocks(count: int, rng: np.random.Generator) -> Samples:
    """Clicks and knocks at random times: resonances that decay within a few or some tens of milliseconds."""
    sound = np.zeros(count)
    for _ in range(1 + rng.poisson(2.0 * count / SAMPLE_RATE)):
        decay_s = float(rng.choice((0.002, 0.01, 0.04)))
        strike = _tone(rng.uniform(80.0, 4000.0), decay_s, 1, rng) + 0.3 * rng.random() * _burst(decay_s, rng)
        _add(sound, int(rng.integers(count)), rng.uniform(0.2, 1.0) * strike)
    return sound


def _breath(count: int, rng: np.random.Generator) -> Samples:
    """Noise in the band of the mouth that swells and fades, as breath does."""
    spectrum = np.fft.rfft(_noise(count, rng, 0.5))
    frequencies = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 1.0)
    octaves = np.log2(frequencies / rng.uniform(600.0, 2500.0))
    sound = np.fft.irfft(spectrum * np.exp(-((octaves / rng.uniform(0.8, 1.6)) ** 2)), count)
    time = np.arange(count) / SAMPLE_RATE
    swell = np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * time + rng.uniform(0, 2 * np.pi))
    return sound * (0.02 + np.maximum(swell, 0.0) ** 1.5)


def _wind(count: int, rng: np.random.Generator) -> Samples:
    """Low noise in gusts."""
    knots = rng.random(2 + round(3 * count / SAMPLE_RATE))
    gusts = np.interp(np.linspace(0, len(knots) - 1, count), np.arange(len(knots)), knots)
    return _noise(count, rng, rng.uniform(0.7, 1.2)) * (0.1 + gusts**2)


def _chords(count: int, rng: np.random.Generator) -> Samples:
    """Chords of three notes that are held and then fade."""
    sound, start = np.zeros(count), 0
    while start < count:
        seconds = rng.uniform(0.4, 1.6)
        for note in rng.choice(_SCALE_HZ, 3, replace=False):
            tone = _tone(note * float(rng.choice((0.5, 1.0))), rng.uniform(0.5, 2.0), 6, rng)
            ramp = np.minimum(1.0, np.arange(len(tone)) / (0.03 * SAMPLE_RATE))
            _add(sound, start, tone * ramp)
        start += round(seconds * SAMPLE_RATE)
    return sound


def _melody(count: int, rng: np.random.Generator) -> Samples:
    """Plucked single notes that step along a scale."""
    sound, start = np.zeros(count), 0
    beat, note = rng.uniform(0.12, 0.3), int(rng.integers(len(_SCALE_HZ)))
    while start < count:
        note = int(np.clip(note + rng.integers(-2, 3), 0, len(_SCALE_HZ) - 1))
        _add(sound, start, _tone(2 * float(_SCALE_HZ[note]), rng.uniform(0.1, 0.4), 4, rng))
        start += round(beat * int(rng.integers(1, 4)) * SAMPLE_RATE)
    return sound


def _drums(count: int, rng: np.random.Generator) -> Samples:
    """A beat of low strokes and bursts of noise."""
    sound = np.zeros(count)
    step = round(rng.uniform(0.12, 0.3) * SAMPLE_RATE)
    for number, start in enumerate(range(0, count, step)):
        if number % 4 == 0:
            _add(sound, start, _tone(rng.uniform(50.0, 90.0), 0.08, 2, rng))
        elif number % 4 == 2:
            _add(sound, start, 0.5 * _burst(0.04, rng))
        elif rng.random() < 0.7:
            _add(sound, start, 0.2 * _burst(0.01, rng))
    return sound


def _tone(frequency: float, decay_s: float, partials: int, rng: np.random.Generator) -> Samples:
    """A tone with partials that decays to a hundred and fiftieth within five times `decay_s`."""
    time = np.arange(round(5 * decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    waves = [
        np.sin(2 * np.pi * frequency * partial * time + rng.uniform(0, 2 * np.pi)) / partial
        for partial in range(1, partials + 1)
    ]
    return np.sum(waves, axis=0) * np.exp(-time / decay_s)


def _burst(decay_s: float, rng: np.random.Generator) -> Samples:
    """White noise that decays like a tone."""
    time = np.arange(round(5 * decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    return rng.standard_normal(len(time)) * np.exp(-time / decay_s)


def _add(sound: Samples, start: int, part: Samples) -> None:
    """Adds a part to a sound from `start` on, as far as the sound goes."""
    end = min(len(sound), start + len(part))
    sound[start:end] += part[: end - start]


FORMS: dict[str, Callable[[int, np.random.Generator], Samples]] = {
    SILENCE: _microphone,
    "white noise": _white,
    "pink noise": _pink,
    "brown noise": _brown,
    "hum": _hum,
    "knocks": _knocks,
    "breath": _breath,
    "wind": _wind,
    "chords": _chords,
    "melody": _melody,
    "drums": _drums,
}
"""Name -> samples [S] of that form at any level."""
