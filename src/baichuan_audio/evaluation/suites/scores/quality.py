"""Measures of a sound's quality, each by a library of the field: MOS predictors, PESQ, STOI, likeness of voices."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....data.pipeline.backends import mos, speakers
from ....errors import ConfigError, MissingDependencyError
from ...results import library_versions

RATE = 16_000
"""Of all sounds that are measured here, in Hz."""
MEASURES = ("dnsmos", "distillmos", "utmos", "similarity", "pesq", "stoi")
DEFAULT_MEASURES = ("dnsmos", "similarity", "pesq", "stoi")
_PACKAGES = {"dnsmos": "speechmos", "distillmos": "distillmos", "similarity": "resemblyzer", "stoi": "pystoi"}
_INTRUSIVE = ("pesq", "stoi")


class QualityMeasures:
    """The measures named in `names`, of sounds [S] float32 at RATE.

    Raises ConfigError for an unknown name, MissingDependencyError where a measure's package is missing: a measure is
    never replaced by another.
    """

    def __init__(self, names: Sequence[str] = DEFAULT_MEASURES) -> None:
        if unknown := [name for name in names if name not in MEASURES]:
            raise ConfigError(f"there is no measure '{', '.join(unknown)}'; there are {', '.join(MEASURES)}.")
        self.names = tuple(name for name in MEASURES if name in names)
        self._opinions = {name: mos.BACKENDS[name]("") for name in self.names if name in mos.BACKENDS}
        self._encoder = speakers.BACKENDS["resemblyzer"]("") if "similarity" in self.names else None
        self._modules = {name: _module(_PACKAGES.get(name, name)) for name in self.names if name in _INTRUSIVE}

    def provenance(self) -> dict[str, Any]:
        packages = [_PACKAGES.get(name, name) for name in self.names]
        return {"measures": list(self.names), "versions": library_versions(*packages)}

    def opinions(self, sound: np.ndarray) -> dict[str, float]:
        """Predicted mean opinion scores, 1 to 5."""
        return {name: _rounded(predict(sound)["ovrl"]) for name, predict in self._opinions.items()}

    def similarity(self, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        """Cosine of the two voices' embeddings, under "similarity" where it is measured."""
        if self._encoder is None:
            return {}
        return {"similarity": _rounded(float(self._embedding(first) @ self._embedding(second)))}

    def against(self, original: np.ndarray, sound: np.ndarray) -> dict[str, float | None]:
        """PESQ (wide band) and STOI of `sound` against the original, over the shorter length.

        None for digital silence, and where the library finds no speech.
        """
        length = min(len(original), len(sound))
        result: dict[str, float | None] = {}
        for name, module in self._modules.items():
            measure = _pesq if name == "pesq" else _stoi
            # PESQ divides by the loudest sample
            silent = not (original[:length].any() and sound[:length].any())
            value = None if silent else measure(module, original[:length], sound[:length])
            result[name] = None if value is None else _rounded(value)
        return result

    def _embedding(self, sound: np.ndarray) -> np.ndarray:
        assert self._encoder is not None
        size = round(self._encoder.window_s * RATE)
        starts = range(0, max(len(sound) - size // 2, 1), size // 2)
        embeddings = self._encoder([sound[start : start + size] for start in starts])
        total: np.ndarray = embeddings.mean(axis=0)
        return total / max(float(np.linalg.norm(total)), 1e-9)


def _pesq(module: Any, original: np.ndarray, sound: np.ndarray) -> float | None:
    try:
        return float(module.pesq(RATE, original, sound, "wb"))
    except (module.NoUtterancesError, module.BufferTooShortError):
        return None


def _stoi(module: Any, original: np.ndarray, sound: np.ndarray) -> float | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # its way to say that too little speech is left
        try:
            return float(module.stoi(original, sound, RATE))
        except RuntimeWarning:
            return None


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"the measure {name} needs the package {name}: pip install 'baichuan-audio[eval]', or leave it out of "
            "--measures."
        ) from error


def _rounded(value: float) -> float:
    """Nine digits after the point, so that files are stable and figures still equal the libraries'."""
    return round(float(value), 9)
