"""A second independent recognizer: Whisper (arXiv 2212.04356), run by faster-whisper.

It was trained on human speech. It hardly transcribes Mandarin of formant synthesizers, but it nearly always selects the
right one of several texts (docs/evaluation.md).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, MissingDependencyError
from .asr import SAMPLE_RATE
from .text import tokens

_SILENCE_SECONDS = 0.3
_MIN_PROBABILITY = 1e-12  # of a token


class Whisper:
    """Transcribes samples of `language` ("en", "zh") at 16 kHz, or selects one of several texts.

    `model`: a size that faster-whisper knows ("base"; downloaded on first use) or a folder in its format. workers:
    threads that may call it at once, one CPU thread each, so that company changes no transcript.

    Raises MissingDependencyError without faster-whisper, ConfigError where the model cannot be loaded.
    """

    def __init__(self, model: str, language: str, workers: int = 1) -> None:
        try:
            import faster_whisper
        except ImportError as error:
            raise MissingDependencyError(
                "Whisper needs faster-whisper: pip install 'baichuan-audio[whisper]'."
            ) from error
        try:
            self._model: Any = faster_whisper.WhisperModel(
                model, device="cpu", compute_type="int8", cpu_threads=1, num_workers=workers
            )
        except Exception as error:  # from several libraries, with messages that do not help
            raise ConfigError(
                f"Whisper model '{model}' cannot be loaded: give a size like base, or a faster-whisper folder "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__})."
            ) from error
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # else a line for every sound
        self._language = language

    def in_language(self, language: str) -> Whisper:
        """The same loaded model for another language."""
        other = copy.copy(self)
        other._language = language
        return other

    def transcribe(self, waveform: np.ndarray) -> str:
        """Samples [S] -> transcript.

        With timestamps, although they are not used: without them, Whisper base ended a sentence at "chapter sixteen".
        """
        segments, _ = self._model.transcribe(
            _padded(waveform), language=self._language, temperature=0.0, condition_on_previous_text=False
        )
        return "".join(segment.text for segment in segments).strip()

    def choose(self, waveform: np.ndarray, texts: Sequence[str]) -> int:
        """Index of the most likely text of samples [S], at most 30 s."""
        return int(np.argmax(self.scores(waveform, texts)))

    def scores(self, waveform: np.ndarray, texts: Sequence[str]) -> list[float]:
        """Log probability of each text's words, including its end, given samples [S].

        Of the words without punctuation: a comma is inaudible, and lowers a text's score by 7 to 12 nats.
        """
        import ctranslate2
        from faster_whisper.tokenizer import Tokenizer

        tokenizer = Tokenizer(self._model.hf_tokenizer, True, task="transcribe", language=self._language)
        between = "" if self._language == "zh" else " "
        features = self._model.feature_extractor(_padded(waveform))
        frames = self._model.feature_extractor.nb_max_frames
        features = np.pad(features[:, :frames], ((0, 0), (0, max(0, frames - features.shape[1]))))
        encoded = np.repeat(np.array(self._model.encode(features)), len(texts), axis=0)
        alignments = self._model.model.align(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(encoded)),
            [*tokenizer.sot_sequence, tokenizer.no_timestamps],
            [[*tokenizer.encode(between.join(tokens(text, self._language))), tokenizer.eot] for text in texts],
            num_frames=frames,
        )
        return [
            float(np.log(np.maximum(alignment.text_token_probs, _MIN_PROBABILITY)).sum()) for alignment in alignments
        ]


def _padded(waveform: np.ndarray) -> np.ndarray:
    """Samples with silence before and after, as recordings have."""
    return np.pad(waveform.astype(np.float32), round(_SILENCE_SECONDS * SAMPLE_RATE))
