"""A second ear that knows nothing of the model: Whisper (arXiv 2212.04356), run by faster-whisper.

It was trained on people. Mandarin of formant synthesisers it can hardly write down, but asked which of several texts a
sound is, it nearly always knows (docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, MissingDependencyError
from .asr import SAMPLE_RATE
from .text import tokens

_SILENCE_SECONDS = 0.3
_LEAST = 1e-12  # probability below which a token's counts as this


class Whisper:
    """Samples of `language` ("en", "zh") at 16 kHz -> words, or which of several texts they are.

    `model`: a size that faster-whisper knows ("base"; downloaded on first use) or a folder in its format.

    Raises MissingDependencyError without faster-whisper, ConfigError where the model cannot be had.
    """

    def __init__(self, model: str, language: str) -> None:
        try:
            import faster_whisper
            from faster_whisper.tokenizer import Tokenizer
        except ImportError as error:
            raise MissingDependencyError("this ear needs Whisper: pip install 'baichuan-audio[whisper]'.") from error
        try:
            self._model: Any = faster_whisper.WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=1)
        except Exception as error:  # of several libraries, none of them telling what to do
            raise ConfigError(
                f"Whisper model '{model}' cannot be had: name a size like base, or a folder as faster-whisper reads it "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__})."
            ) from error
        self._language = language
        self._tokenizer = Tokenizer(self._model.hf_tokenizer, True, task="transcribe", language=language)

    def transcribe(self, waveform: np.ndarray) -> str:
        """Samples [S] -> what is said.

        With its time marks, though nobody reads them: without, Whisper base ended a sentence at "chapter sixteen".
        """
        segments, _ = self._model.transcribe(
            _padded(waveform), language=self._language, temperature=0.0, condition_on_previous_text=False
        )
        return "".join(segment.text for segment in segments).strip()

    def choose(self, waveform: np.ndarray, texts: Sequence[str]) -> int:
        """Index of the text that Whisper is likeliest to write of samples [S], at most 30 s."""
        return int(np.argmax(self.scores(waveform, texts)))

    def scores(self, waveform: np.ndarray, texts: Sequence[str]) -> list[float]:
        """Log probability of each text's words, to its end, given samples [S].

        Of the words alone: nobody hears a comma, and Whisper, unsure of it, takes 7 to 12 nats off a text that has one.
        """
        import ctranslate2

        tokenizer, between = self._tokenizer, "" if self._language == "zh" else " "
        features = self._model.feature_extractor(_padded(waveform))
        frames = self._model.feature_extractor.nb_max_frames
        features = np.pad(features[:, :frames], ((0, 0), (0, max(0, frames - features.shape[1]))))
        encoded = np.repeat(np.array(self._model.encode(features)), len(texts), axis=0)
        found = self._model.model.align(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(encoded)),
            [*tokenizer.sot_sequence, tokenizer.no_timestamps],
            [[*tokenizer.encode(between.join(tokens(text, self._language))), tokenizer.eot] for text in texts],
            num_frames=frames,
        )
        return [float(np.log(np.maximum(each.text_token_probs, _LEAST)).sum()) for each in found]


def _padded(waveform: np.ndarray) -> np.ndarray:
    """With silence before and after, as in recordings of people."""
    return np.pad(waveform.astype(np.float32), round(_SILENCE_SECONDS * SAMPLE_RATE))
