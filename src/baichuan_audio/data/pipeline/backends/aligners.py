"""Forced alignment by name: when each word (or character) of a given text is said."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ....errors import ConfigError
from ....text.normalization import normalize_for_speech
from ...alignment.pinyin_phones import all_syllables
from ...alignment.utterance import decode_utterance
from ...alignment.viterbi import ctc_path
from ..audio_access import ANALYSIS_RATE, Samples
from ..spoken_units import units
from .asr import int16_bytes
from .registry import require


@dataclass(frozen=True)
class AlignedUnit:
    """Characters `first` to `end` of the text, said from `start_s` to `end_s`."""

    first: int
    end: int
    start_s: float
    end_s: float


class Aligner(Protocol):
    """Samples [S] at 16 kHz, what is said in them, its language -> a time for each unit of the text (`units`), or None
    where no alignment is found."""

    def __call__(self, samples: Samples, text: str, language: str) -> list[AlignedUnit] | None: ...


class Pocketsphinx:
    """CMU pocketsphinx: English words by its dictionary, Mandarin syllables spelt in English phones.

    It drops last words that touch the end of the sound, so silence is put around, more where it fails.
    """

    _paddings_s = (0.3, 0.75)

    def __init__(self) -> None:
        library = require("pocketsphinx", "the aligner pocketsphinx", "pocketsphinx")
        english = Path(library.get_model_path("en-us/cmudict-en-us.dict")).read_text(encoding="utf-8")
        lines = [f"pinyin-{syllable} {phones}" for syllable, phones in sorted(all_syllables().items())]
        self._known = {line.partition(" ")[0] for line in [*english.splitlines(), *lines]}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "words.dict"
            path.write_text(english + "".join(line + "\n" for line in lines), encoding="utf-8")
            # Wide beams: the text is given, so it is only a question of finding a path at all.
            self._decoder = library.Decoder(
                dict=str(path),
                lm=None,
                loglevel="FATAL",
                cmn="batch",
                bestpath=False,
                beam=1e-200,
                wbeam=1e-200,
                pbeam=1e-200,
            )

    def __call__(self, samples: Samples, text: str, language: str) -> list[AlignedUnit] | None:
        named = [(unit.first, unit.end, self._words(word)) for unit, word in pronounced(text, language)]
        words = [word for _, _, spoken in named for word in spoken]
        if not words or any(not spoken for _, _, spoken in named):
            return None
        for padding in self._paddings_s:
            times = self._align(samples, words, padding)
            if times is not None:
                offset, aligned = 0, []
                for first, end, spoken in named:
                    span = times[offset : offset + len(spoken)]
                    aligned.append(AlignedUnit(first, end, span[0][0], span[-1][1]))
                    offset += len(spoken)
                return aligned
        return None

    def _words(self, spoken: Sequence[str]) -> list[str]:
        """Words of the dictionary; one that it lacks is added, pronounced letter by letter."""
        for word in spoken:
            if word not in self._known:
                phones = " ".join(_LETTERS[letter] for letter in word if letter in _LETTERS)
                if not phones:
                    return []
                self._decoder.add_word(word, phones, True)
                self._known.add(word)
        return list(spoken)

    def _align(self, samples: Samples, words: Sequence[str], padding_s: float) -> list[tuple[float, float]] | None:
        decoder = self._decoder
        try:
            decoder.set_align_text(" ".join(words))
            decode_utterance(decoder, int16_bytes(samples, padding_s))
            if decoder.hyp() is None:
                return None
            segments = [segment for segment in decoder.seg() if not segment.word.startswith(("<", "["))]
        except (RuntimeError, ValueError):
            return None
        if [segment.word.partition("(")[0] for segment in segments] != list(words):
            return None
        longest = len(samples) / ANALYSIS_RATE
        return [
            (
                min(max(segment.start_frame / 100 - padding_s, 0.0), longest),
                min(max((segment.end_frame + 1) / 100 - padding_s, 0.0), longest),
            )
            for segment in segments
        ]


class Proportional:
    """Shares the time out by letters: no alignment, but a baseline for measurements and for tests."""

    def __call__(self, samples: Samples, text: str, language: str) -> list[AlignedUnit] | None:
        named = units(text)
        weights = np.cumsum([0, *(len(unit.spoken) + 1 for unit in named)])
        if not named:
            return None
        times = weights / weights[-1] * len(samples) / ANALYSIS_RATE
        return [
            AlignedUnit(unit.first, unit.end, float(start), float(end))
            for unit, start, end in zip(named, times[:-1], times[1:], strict=True)
        ]


class TransformersCtc:
    """A CTC network over characters by `transformers`; `argument`: hub id or folder. The path is our own Viterbi."""

    def __init__(self, argument: str) -> None:
        library = require("transformers", "the aligner ctc", "transformers")
        if not argument:
            raise ConfigError("the aligner ctc needs a model: ctc:HUB-ID-OR-FOLDER.")
        self._processor = library.AutoProcessor.from_pretrained(argument)
        self._model = library.AutoModelForCTC.from_pretrained(argument).eval()

    def __call__(self, samples: Samples, text: str, language: str) -> list[AlignedUnit] | None:
        import torch

        inputs = self._processor(samples, sampling_rate=ANALYSIS_RATE, return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(**inputs).logits[0].log_softmax(-1).numpy()
        tokenizer = self._processor.tokenizer
        return align_by_ctc(
            logits, text, language, tokenizer.get_vocab(), tokenizer.pad_token_id, len(samples) / ANALYSIS_RATE
        )


def align_by_ctc(
    log_probabilities: np.ndarray, text: str, language: str, vocabulary: dict[str, int], blank: int, seconds: float
) -> list[AlignedUnit] | None:
    """Log-probabilities [T, V] over characters -> a time for each unit; characters outside the vocabulary are passed
    over, a unit of nothing but such is None for all."""
    symbols: list[int] = []
    owners: list[int] = []
    named = units(text)
    for index, unit in enumerate(named):
        for character in unit.spoken:
            symbol = vocabulary.get(character, vocabulary.get(character.upper()))
            if symbol is not None:
                symbols.append(symbol)
                owners.append(index)
    if set(owners) != set(range(len(named))):
        return None
    path = ctc_path(log_probabilities, symbols, blank)
    if path is None:
        return None
    step = seconds / len(log_probabilities)
    places = np.array(owners)
    return [
        AlignedUnit(
            unit.first,
            unit.end,
            float(path[0][places == index].min()) * step,
            float(path[1][places == index].max() + 1) * step,
        )
        for index, unit in enumerate(named)
    ]


class QwenAligner:
    """Qwen3-ForcedAligner by the package qwen-asr; `argument` is its hub id."""

    def __init__(self, argument: str) -> None:
        library = require("qwen_asr", "the aligner qwen3", "qwen-asr")
        self._model = library.Qwen3ForcedAligner.from_pretrained(argument or "Qwen/Qwen3-ForcedAligner-0.6B")

    def __call__(self, samples: Samples, text: str, language: str) -> list[AlignedUnit] | None:
        name = {"zh": "Chinese", "en": "English"}.get(language, language)
        items = self._model.align(audio=(samples, ANALYSIS_RATE), text=text, language=name)[0]
        named = units(text)
        if len(items) != len(named):
            return None
        return [
            AlignedUnit(unit.first, unit.end, float(item.start_time), float(item.end_time))
            for unit, item in zip(named, items, strict=True)
        ]


def pronounced(text: str, language: str) -> list[tuple[Any, list[str]]]:
    """Each unit of a text with the words of the aligner's dictionary that say it."""
    readings = _pinyin_of(text)
    named: list[tuple[Any, list[str]]] = []
    for unit in units(text):
        if unit.spoken[0].isdigit():
            digits = normalize_for_speech(text[unit.first : unit.end], language)
            inner = _pinyin_of(digits)
            words = [_word(part.spoken, inner.get(part.first)) for part in units(digits)]
        else:
            words = [_word(unit.spoken, readings.get(unit.first))]
        named.append((unit, [word for word in words if word]))
    return named


def _word(spoken: str, reading: str | None) -> str:
    return f"pinyin-{reading}" if reading else spoken


def _pinyin_of(text: str) -> dict[int, str]:
    """Place of each Chinese character -> its syllable without tone."""
    syllables: dict[int, str] = {}
    for run in re.finditer(r"[\u4e00-\u9fff]+", text):
        for position, syllable in enumerate(_reader()(run[0]), run.start()):
            syllables[position] = syllable
    return syllables


@functools.cache
def _reader() -> Callable[[str], list[str]]:
    library = require("pypinyin", "aligning Mandarin", "pypinyin")
    return functools.partial(library.lazy_pinyin, style=library.Style.NORMAL, v_to_u=False)


_LETTERS = {
    "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH", "i": "IH", "j": "JH", "k": "K",
    "l": "L", "m": "M", "n": "N", "o": "OW", "p": "P", "q": "K", "r": "R", "s": "S", "t": "T", "u": "AH", "v": "V",
    "w": "W", "x": "K S", "y": "IY", "z": "Z",
}  # fmt: skip
"""What a letter most often sounds like: enough to find where a word unknown to the dictionary stands."""

BACKENDS: dict[str, Callable[[str], Any]] = {
    "pocketsphinx": lambda argument: Pocketsphinx(),
    "proportional": lambda argument: Proportional(),
    "ctc": TransformersCtc,
    "qwen3": QwenAligner,
}
