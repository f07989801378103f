"""Recognisers by name. Each writes down what it hears; the ensemble of a recipe is a list of them."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ....errors import ConfigError
from ...alignment.utterance import decode_utterance
from ..audio_access import ANALYSIS_RATE, Samples
from ..spoken_units import join
from .registry import require

_SILENCE_S = 0.3


@dataclass(frozen=True)
class Hypothesis:
    """What a recogniser wrote. confidence: mean probability of its tokens in [0, 1], nan where it has none."""

    text: str
    confidence: float = math.nan


class Recogniser(Protocol):
    """Samples [S] at 16 kHz and their language ("en", "zh") -> a hypothesis; None for a language it cannot write."""

    def __call__(self, samples: Samples, language: str) -> Hypothesis | None: ...


class LanguageGuesser(Protocol):
    """Samples [S] at 16 kHz -> probability of each language by its code."""

    def probabilities(self, samples: Samples) -> dict[str, float]: ...


class Whisper:
    """faster-whisper; `argument`: a size ("base", "large-v3", fetched from the hub), or a folder in its format.

    Samples of up to 30 s are one window, encoded once for the guess of the language and for the text.
    """

    _remembered = 64

    def __init__(self, argument: str) -> None:
        library = require("faster_whisper", "the ASR backend whisper", "'baichuan-audio[whisper]'")
        tokenizer = require("faster_whisper.tokenizer", "the ASR backend whisper", "'baichuan-audio[whisper]'")
        try:
            self._model = library.WhisperModel(argument or "base", device="auto", compute_type="int8", cpu_threads=1)
        except Exception as error:  # of several libraries, none of them telling what to do
            raise ConfigError(
                f"Whisper model '{argument}' cannot be had: name a size like base, or a folder as faster-whisper reads "
                f"it ({str(error).splitlines()[0] if str(error) else type(error).__name__})."
            ) from error
        self._tokenizer = functools.cache(
            lambda language: tokenizer.Tokenizer(
                self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe", language=language
            )
        )
        self._encoded: OrderedDict[bytes, Any] = OrderedDict()

    def __call__(self, samples: Samples, language: str) -> Hypothesis | None:
        window = 30 * ANALYSIS_RATE - 2 * round(_SILENCE_S * ANALYSIS_RATE)
        parts = [samples[start : start + window] for start in range(0, max(1, len(samples)), window)]
        hypotheses = [self._write(part, language) for part in parts]
        text = join([hypothesis.text for hypothesis in hypotheses], language)
        return Hypothesis(text, min(hypothesis.confidence for hypothesis in hypotheses))

    def _write(self, samples: Samples, language: str) -> Hypothesis:
        tokenizer = self._tokenizer(language)
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        if language in _PROMPTS:
            prompt = [tokenizer.sot_prev, *tokenizer.encode(" " + _PROMPTS[language]), *prompt]
        seconds = len(samples) / ANALYSIS_RATE
        result = self._model.model.generate(
            self._encode(samples),
            [prompt],
            beam_size=1,
            return_scores=True,
            max_length=len(prompt) + 20 + round(12 * seconds),  # a loop shall not go on for ever
            suppress_blank=True,
        )[0]
        ids = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
        return Hypothesis(tokenizer.decode(ids).strip(), math.exp(result.scores[0]) if ids else 0.0)

    def probabilities(self, samples: Samples) -> dict[str, float]:
        guesses = self._model.model.detect_language(self._encode(samples))[0]
        return {str(token)[2:-2]: float(probability) for token, probability in guesses}

    def _encode(self, samples: Samples) -> Any:
        key = hashlib.sha256(samples.tobytes()).digest()
        if key not in self._encoded:
            features = self._model.feature_extractor(np.pad(samples, round(_SILENCE_S * ANALYSIS_RATE)))
            frames = self._model.feature_extractor.nb_max_frames
            features = np.pad(features[:, :frames], ((0, 0), (0, max(0, frames - features.shape[1]))))
            self._encoded[key] = self._model.encode(features)
            while len(self._encoded) > self._remembered:
                self._encoded.popitem(last=False)
        return self._encoded[key]


_PROMPTS = {"zh": "以下是普通话的句子，用简体中文写成。"}
"""Without it Whisper writes Mandarin in traditional characters or without punctuation, as it likes."""


class Pocketsphinx:
    """CMU pocketsphinx with its general English model: weak, but independent of every neural network."""

    def __init__(self) -> None:
        library = require("pocketsphinx", "the ASR backend pocketsphinx", "pocketsphinx")
        # The fast settings of its documentation: every second frame scored in full, fewer words a frame.
        self._decoder = library.Decoder(loglevel="FATAL", cmn="batch", ds=2, topn=2, maxwpf=5, maxhmmpf=3000)

    def __call__(self, samples: Samples, language: str) -> Hypothesis | None:
        if language != "en":
            return None
        decode_utterance(self._decoder, int16_bytes(samples))
        hypothesis = self._decoder.hyp()
        return Hypothesis(hypothesis.hypstr if hypothesis is not None else "")


class FunAsr:
    """FunASR by its own hub; `argument`: e.g. paraformer-zh or iic/SenseVoiceSmall."""

    def __init__(self, argument: str) -> None:
        library = require("funasr", "the ASR backend funasr", "funasr")
        self._model = library.AutoModel(model=argument or "paraformer-zh", disable_update=True)

    def __call__(self, samples: Samples, language: str) -> Hypothesis | None:
        rows = self._model.generate(input=samples, language=language)
        return Hypothesis("".join(str(row["text"]) for row in rows).strip())


class TransformersCtc:
    """Any CTC or sequence-to-sequence recogniser that `transformers` can load; `argument`: hub id or folder."""

    def __init__(self, argument: str) -> None:
        library = require("transformers", "the ASR backend transformers", "transformers")
        if not argument:
            raise ConfigError("the ASR backend transformers needs a model: transformers:HUB-ID-OR-FOLDER.")
        self._pipeline = library.pipeline("automatic-speech-recognition", model=argument)

    def __call__(self, samples: Samples, language: str) -> Hypothesis | None:
        return Hypothesis(str(self._pipeline({"raw": samples, "sampling_rate": ANALYSIS_RATE})["text"]).strip())


def int16_bytes(samples: Samples, silence_s: float = _SILENCE_S) -> bytes:
    """Samples as pocketsphinx takes them, faint noise around: it loses words that touch the ends, and zeros have no
    variance."""
    noise = np.random.default_rng(0).normal(0.0, 3.0, round(silence_s * ANALYSIS_RATE))
    return np.concatenate([noise, np.clip(samples, -1, 1) * 32767.0, noise]).round().astype(np.int16).tobytes()


BACKENDS: dict[str, Callable[[str], Any]] = {
    "whisper": Whisper,
    "pocketsphinx": lambda argument: Pocketsphinx(),
    "funasr": FunAsr,
    "transformers": TransformersCtc,
}
