"""Independent recognisers that read spoken replies back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...data.store.atomic import file_digest


class WhisperRecogniser:
    """Whisper by faster-whisper; `model` is a size or a folder."""

    def __init__(self, model: str) -> None:
        self._model, self._languages = model, dict[str, Any]()

    def provenance(self) -> dict[str, Any]:
        folder = Path(self._model)
        digest = file_digest(folder / "model.bin") if (folder / "model.bin").is_file() else ""
        return {"kind": "whisper", "model": folder.name, "weights": digest}

    def transcribe(self, waveform: np.ndarray, language: str) -> str:
        from ..whisper import Whisper

        if language not in self._languages:
            self._languages[language] = Whisper(self._model, language)
        return str(self._languages[language].transcribe(waveform))
