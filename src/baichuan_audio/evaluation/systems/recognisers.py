"""Whisper: the independent recogniser that reads spoken replies back, and itself a system to measure beside others."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from ...data.store.atomic import file_digest
from ..results import EvaluationError
from ..suites.items import Item
from ..whisper import SAMPLE_RATE, Whisper
from .base import Earlier, Reply, item_waveform


class WhisperRecogniser:
    """Whisper by faster-whisper, loaded once when first asked; `model` is a size or a folder. Several threads, up to
    `workers`, may ask it at once."""

    def __init__(self, model: str, workers: int = 1) -> None:
        self._model, self._workers, self._lock = model, workers, threading.Lock()
        self._whisper: Whisper | None = None

    def provenance(self) -> dict[str, Any]:
        folder = Path(self._model)
        digest = file_digest(folder / "model.bin") if (folder / "model.bin").is_file() else ""
        return {"kind": "whisper", "model": folder.name, "weights": digest}

    def transcribe(self, waveform: np.ndarray, language: str) -> str:
        with self._lock:
            self._whisper = self._whisper or Whisper(self._model, language, self._workers)
        return self._whisper.in_language(language).transcribe(waveform)


class WhisperSystem:
    """A recogniser as the system under test. It is told each item's language, and replies to nothing."""

    def __init__(self, recogniser: WhisperRecogniser) -> None:
        self._recogniser = recogniser

    def provenance(self) -> dict[str, Any]:
        return self._recogniser.provenance()

    def answer(
        self, item: Item, spoken: bool, typed: bool = False, instruction: str = "", earlier: Earlier | None = None
    ) -> Reply:
        raise EvaluationError("Whisper transcribes, it does not reply; name another system.")

    def transcribe(self, item: Item) -> str:
        waveform, rate = item_waveform(item)
        return self._recogniser.transcribe(soxr.resample(waveform, rate, SAMPLE_RATE).astype(np.float32), item.language)
