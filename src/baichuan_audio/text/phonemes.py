"""Text -> phonemes, about eighty symbols: English phones of the CMU dictionary, Mandarin as toned pinyin.

The target of the tokenizer's phonetic text loss (connectionist temporal classification). A small encoder learns phones
many times faster than English letters.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError

_PHONES = [
    "AA",
    "AE",
    "AH",
    "AO",
    "AW",
    "AY",
    "B",
    "CH",
    "D",
    "DH",
    "EH",
    "ER",
    "EY",
    "F",
    "G",
    "HH",
    "IH",
    "IY",
    "JH",
    "K",
    "L",
    "M",
    "N",
    "NG",
    "OW",
    "OY",
    "P",
    "R",
    "S",
    "SH",
    "T",
    "TH",
    "UH",
    "UW",
    "V",
    "W",
    "Y",
    "Z",
    "ZH",
]
SYMBOLS: tuple[str, ...] = ("_", *" '12345abcdefghijklmnopqrstuvwxyz", *_PHONES)
"""Index 0 is the blank, 1 the gap between words or syllables; then tones, letters (pinyin) and phones (English)."""
_INDEX = {symbol: index for index, symbol in enumerate(SYMBOLS)}
_HAN = re.compile(r"[\u4e00-\u9fff]+")


def phonetic_symbols(text: str) -> list[int]:
    """Indices into SYMBOLS for a transcript in English, Mandarin or both; other characters are dropped.

    A word that is not in the dictionary becomes its letters. Raises MissingDependencyError when pypinyin (Chinese
    characters) or pocketsphinx (English words) is not installed.
    """
    gap = _INDEX[" "]
    return [symbol for _, _, unit in phonetic_units(text) for symbol in (gap, *unit)][1:]


def phonetic_units(text: str) -> list[tuple[int, int, list[int]]]:
    """The words or syllables of a text: start, end and phonemes of each."""
    units: list[tuple[int, int, list[int]]] = []
    for match in re.finditer(r"[\u4e00-\u9fff]+|[A-Za-z']+", text):
        piece = match[0].lower()
        if _HAN.match(piece):
            for index, syllable in enumerate(_pinyin(piece), match.start()):
                units.append((index, index + 1, [_INDEX[c] for c in syllable if c in _INDEX]))
        else:
            phonemes = [_INDEX[symbol] for symbol in _pronunciations().get(piece, tuple(piece))]
            units.append((match.start(), match.end(), phonemes))
    return units


@functools.lru_cache(maxsize=4096)
def _pinyin(run: str) -> tuple[str, ...]:
    return tuple(syllable.replace("ü", "v") for syllable in _reader()(run))


@functools.cache
def _reader() -> Any:
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError as error:
        raise MissingDependencyError(
            "Mandarin phonetics need pypinyin: pip install 'baichuan-audio[train]'."
        ) from error
    return functools.partial(lazy_pinyin, style=Style.TONE3, neutral_tone_with_five=True)


@functools.cache
def _pronunciations() -> dict[str, tuple[str, ...]]:
    """Word -> phones, the first pronunciation of each, from the dictionary in pocketsphinx (CMU, BSD)."""
    try:
        from pocketsphinx import get_model_path
    except ImportError as error:
        raise MissingDependencyError(
            "English phonetics need pocketsphinx: pip install 'baichuan-audio[train]'."
        ) from error
    pronunciations: dict[str, tuple[str, ...]] = {}
    for line in Path(get_model_path("en-us/cmudict-en-us.dict")).read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        if "(" not in word:
            pronunciations[word] = tuple(phones)
    return pronunciations
