"""What a text sounds like, in some thirty symbols: English letters, Mandarin as toned pinyin.

The target of the tokenizer's phonetic text loss (connectionist temporal classification).
"""

from __future__ import annotations

import functools
import re
from typing import Any

from ..errors import MissingDependencyError

SYMBOLS = "_ '12345abcdefghijklmnopqrstuvwxyz"
"""Index 0 is the blank, 1 the gap between words or syllables."""
_INDEX = {symbol: index for index, symbol in enumerate(SYMBOLS)}
_HAN = re.compile(r"[\u4e00-\u9fff]+")


def phonetic_symbols(text: str) -> list[int]:
    """Indices into SYMBOLS for a transcript in English, Mandarin or both; other characters are dropped.

    Raises MissingDependencyError when the text holds Chinese characters and pypinyin is not installed.
    """
    spelled = _HAN.sub(lambda run: " " + _pinyin(run.group()) + " ", text)
    words = "".join(c if c in _INDEX and c != "_" else " " for c in spelled.lower()).split()
    return [_INDEX[c] for c in " ".join(words)]


@functools.lru_cache(maxsize=4096)
def _pinyin(run: str) -> str:
    return " ".join(_reader()(run)).replace("ü", "v")


@functools.cache
def _reader() -> Any:
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError as error:
        raise MissingDependencyError(
            "Mandarin phonetics need pypinyin: pip install 'baichuan-audio[train]'."
        ) from error
    return functools.partial(lazy_pinyin, style=Style.TONE3, neutral_tone_with_five=True)
