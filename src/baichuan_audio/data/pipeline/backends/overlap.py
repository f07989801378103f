"""Overlap detection by name: where two or more people speak at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..audio_access import ANALYSIS_RATE, Samples
from .registry import require


class OverlapDetector(Protocol):
    """Samples [S] at 16 kHz -> seconds in which more than one person speaks."""

    def __call__(self, samples: Samples) -> float: ...


class Pyannote:
    """pyannote.audio's overlapped speech detection; `argument` is its pipeline's hub id."""

    def __init__(self, argument: str) -> None:
        library = require("pyannote.audio", "the overlap backend pyannote", "pyannote.audio")
        self._pipeline = library.Pipeline.from_pretrained(argument or "pyannote/overlapped-speech-detection")

    def __call__(self, samples: Samples) -> float:
        import torch

        overlap = self._pipeline({"waveform": torch.from_numpy(samples)[None], "sample_rate": ANALYSIS_RATE})
        return float(overlap.get_timeline().support().duration())


BACKENDS: dict[str, Callable[[str], Any]] = {"pyannote": Pyannote}
