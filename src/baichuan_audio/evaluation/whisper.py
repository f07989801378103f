"""A second ear that knows nothing of the model: Whisper (arXiv 2212.04356), run by faster-whisper.

It was trained on people. Mandarin of formant synthesisers it can hardly write down, but asked which of several texts a
sound is, it knows: 39 of 40 recordings of the corpus's own answers; pocketsphinx's English phones know 13.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, MissingDependencyError
from .alignment import distractors
from .asr import SAMPLE_RATE, in_processes

_SILENCE_SECONDS = 0.3
_LEAST = 1e-12  # probability below which a token's counts as this


class Whisper:
    """Samples at 16 kHz -> words, or which of several texts they are.

    `model`: a size that faster-whisper knows ("base"; downloaded on first use) or a folder in its format.

    Raises MissingDependencyError without faster-whisper, ConfigError where the model cannot be had.
    """

    def __init__(self, model: str) -> None:
        try:
            import faster_whisper
        except ImportError as error:
            raise MissingDependencyError("this ear needs Whisper: pip install 'baichuan-audio[whisper]'.") from error
        try:
            self._model: Any = faster_whisper.WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=1)
        except Exception as error:  # of several libraries, none of them telling what to do
            raise ConfigError(
                f"Whisper model '{model}' cannot be had: name a size like base, or a folder as faster-whisper reads it "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__})."
            ) from error

    def transcribe(self, waveform: np.ndarray, language: str) -> str:
        """Samples [S] of `language` ("en", "zh") -> what is said.

        With its time marks, though nobody reads them: without, Whisper base ended a sentence at "chapter sixteen".
        """
        segments, _ = self._model.transcribe(
            _padded(waveform), language=language, temperature=0.0, condition_on_previous_text=False
        )
        return "".join(segment.text for segment in segments).strip()

    def choose(self, waveform: np.ndarray, texts: Sequence[str], language: str) -> int:
        """Index of the text that Whisper is likeliest to write of samples [S], at most 30 s."""
        scores = self.scores(waveform, texts, language)
        return int(np.argmax(scores))

    def scores(self, waveform: np.ndarray, texts: Sequence[str], language: str) -> list[float]:
        """Log probability of each text, to its end, given samples [S]."""
        import ctranslate2
        from faster_whisper.tokenizer import Tokenizer

        tokenizer = Tokenizer(self._model.hf_tokenizer, True, task="transcribe", language=language)
        features = self._model.feature_extractor(_padded(waveform))
        frames = self._model.feature_extractor.nb_max_frames
        features = np.pad(features[:, :frames], ((0, 0), (0, max(0, frames - features.shape[1]))))
        encoded = np.repeat(np.array(self._model.encode(features)), len(texts), axis=0)
        found = self._model.model.align(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(encoded)),
            [*tokenizer.sot_sequence, tokenizer.no_timestamps],
            [[*tokenizer.encode(text), tokenizer.eot] for text in texts],
            num_frames=frames,
        )
        return [float(np.log(np.maximum(each.text_token_probs, _LEAST)).sum()) for each in found]


def _padded(waveform: np.ndarray) -> np.ndarray:
    """With silence before and after, as in recordings of people."""
    return np.pad(waveform.astype(np.float32), round(_SILENCE_SECONDS * SAMPLE_RATE))


def choices_right(
    model: str,
    waveforms: Sequence[np.ndarray],
    texts: Sequence[str],
    others: Sequence[str],
    language: str,
    num_texts: int = 10,
    processes: int = 1,
) -> Iterator[bool]:
    """For each waveform [S] at 16 kHz: is its text likelier to Whisper than `num_texts` - 1 others of like length?"""
    calls = [
        (waveform, [text, *distractors(text, others, num_texts - 1)], language)
        for waveform, text in zip(waveforms, texts, strict=True)
    ]
    return (choice == 0 for choice in in_processes(Whisper, (model,), "choose", calls, processes))


def transcribe_all(model: str, waveforms: Sequence[np.ndarray], language: str, processes: int = 1) -> Iterator[str]:
    """What Whisper writes of each waveform [S] at 16 kHz."""
    return in_processes(Whisper, (model,), "transcribe", [(each, language) for each in waveforms], processes)
