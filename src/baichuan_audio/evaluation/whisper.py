"""An independent recogniser: Whisper (arXiv 2212.04356), run by faster-whisper."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np

from ..errors import ConfigError, needed_library

SAMPLE_RATE = 16_000
_SILENCE_SECONDS = 0.3


class Whisper:
    """Transcribes samples of `language` ("en", "zh") at 16 kHz.

    `model`: a size that faster-whisper knows ("base"; downloaded on first use) or a folder in its format. workers:
    threads that may call it at once, one CPU thread each, so that company changes no transcript.

    Raises MissingDependencyError without faster-whisper, ConfigError where the model cannot be loaded.
    """

    def __init__(self, model: str, language: str, workers: int = 1) -> None:
        with needed_library("Whisper needs faster-whisper: pip install 'baichuan-audio[whisper]'."):
            import faster_whisper
        try:
            self.model: Any = faster_whisper.WhisperModel(
                model, device="cpu", compute_type="int8", cpu_threads=1, num_workers=workers
            )
        except Exception as error:  # from several libraries, with messages that do not help
            raise ConfigError(
                f"Whisper model '{model}' cannot be loaded: give a size like base, or a faster-whisper folder "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__})."
            ) from error
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # else a line for every sound
        self.language = language

    def in_language(self, language: str) -> Whisper:
        """The same loaded model for another language."""
        other = copy.copy(self)
        other.language = language
        return other

    def transcribe(self, waveform: np.ndarray) -> str:
        """Samples [S] -> transcript.

        With timestamps, although they are not used: without them, Whisper base ended a sentence at "chapter sixteen".
        """
        segments, _ = self.model.transcribe(
            padded(waveform), language=self.language, temperature=0.0, condition_on_previous_text=False
        )
        return "".join(segment.text for segment in segments).strip()


def padded(waveform: np.ndarray) -> np.ndarray:
    """Samples [S] with silence before and after, as recordings have."""
    return np.pad(waveform.astype(np.float32), round(_SILENCE_SECONDS * SAMPLE_RATE))
