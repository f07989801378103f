"""Mandarin without a Mandarin recogniser: does the true text fit the sound better than other texts do?

pocketsphinx's English acoustic model can align a given text, its pinyin spelt in English phones (our own table below).
The score of the true text against those of other answers tells a reply that says the right thing from one that says
something else. It hears no tones and forgives a wrong syllable: a check for gross mismatch, not a recogniser. Whisper
(`whisper.py`) tells more, where it can be had.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from baichuan_audio.data.alignment.pinyin_phones import all_syllables
from baichuan_audio.data.alignment.utterance import decode_utterance
from baichuan_audio.errors import MissingDependencyError
from baichuan_audio.evaluation.text import tokens

from .asr import (
    in_processes,
    padded_int16,
    pocketsphinx_decoder,
    pronunciations,
    write_dictionary,
)

_PADDING_SECONDS = 0.75  # with less, the aligner was seen to drop the last word


def syllables(text: str) -> list[str]:
    """Pinyin of a Mandarin text without tones; Latin words stay as they are."""
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError as error:
        raise MissingDependencyError("alignment needs pypinyin: pip install 'baichuan-audio[train]'.") from error
    result: list[str] = []
    for token in _runs(tokens(text, "zh")):
        result += [token] if token.isascii() else lazy_pinyin(token, style=Style.NORMAL, v_to_u=False)
    return result


def _runs(parts: Sequence[str]) -> Iterator[str]:
    """Consecutive characters joined again: readings hang on the neighbours."""
    run = ""
    for part in parts:
        if not part.isascii():
            run += part
            continue
        if run:
            yield run
        yield part
        run = ""
    if run:
        yield run


class Aligner:
    """Scores how well texts fit a waveform."""

    def __init__(self) -> None:
        self._known = {f"pinyin-{syllable}" for syllable in all_syllables()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pinyin.dict"
            write_dictionary({f"pinyin-{s}": [phones] for s, phones in all_syllables().items()}, path)
            self._decoder = pocketsphinx_decoder(dict=str(path), lm=None)

    def score(self, waveform: np.ndarray, text: str) -> float:
        """Log score of the best alignment of `text` to samples [S] at 16 kHz; -inf where there is none."""
        words = self._words(text)
        if not words:
            return -math.inf
        decoder = self._decoder
        decoder.set_align_text(" ".join(words))
        decode_utterance(decoder, padded_int16(waveform, _PADDING_SECONDS))
        if decoder.hyp() is None:
            return -math.inf
        segments = list(decoder.seg())
        aligned = [s.word.split("(")[0] for s in segments if not s.word.startswith(("<", "["))]
        return float(sum(s.ascore for s in segments)) if aligned == words else -math.inf

    def choose(self, waveform: np.ndarray, texts: Sequence[str]) -> int:
        """Index of the text that fits best; the last one where none fits at all."""
        scores = [self.score(waveform, text) for text in texts]
        best = max(scores)
        return len(texts) - 1 if best == -math.inf else scores.index(best)

    def _words(self, text: str) -> list[str]:
        """The text in words of the aligner's dictionary, or [] when one cannot be pronounced."""
        words = []
        for part in syllables(text):
            word = f"pinyin-{part}"
            if word not in self._known:
                if part not in pronunciations():  # neither a syllable nor an English word
                    return []
                self._decoder.add_word(word, pronunciations()[part][0], True)
                self._known.add(word)
            words.append(word)
        return words


def distractors(text: str, others: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Other texts of about the same length, none of which sounds the same; drawn repeatably."""
    target = syllables(text)
    pool = sorted({other for other in others if syllables(other) != target})
    random = np.random.default_rng((seed, len(text), *map(ord, text)))
    keys = [(abs(len(syllables(other)) - len(target)), random.random(), other) for other in pool]
    return [other for _, _, other in sorted(keys)[:count]]


def choices_right(
    waveforms: Sequence[np.ndarray],
    texts: Sequence[str],
    others: Sequence[str],
    num_texts: int = 10,
    processes: int = 1,
    recognizer: Callable[..., Any] = Aligner,
    recognizer_arguments: tuple[Any, ...] = (),
) -> Iterator[bool]:
    """For each waveform [S] at 16 kHz: does its text fit better than `num_texts` - 1 others of like length?

    `recognizer(*recognizer_arguments)` chooses, as an Aligner does.
    """
    calls = [
        (waveform, [text, *distractors(text, others, num_texts - 1)])
        for waveform, text in zip(waveforms, texts, strict=True)
    ]
    return (choice == 0 for choice in in_processes(recognizer, recognizer_arguments, "choose", calls, processes))
