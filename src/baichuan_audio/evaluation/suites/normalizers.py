"""Normalisers of transcripts: raw text -> the tokens that are compared, each with a name and a fingerprint.

They alone decide whether an error rate is 73 or 88 % for the same hypotheses, so every score names the one it used, and
raw text is kept so that another can be applied later without the model.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Mapping

from ...data.store.atomic import text_digest
from ...errors import ConfigError, needed_library
from ...text.normalization import normalize_for_speech
from ..text import tokens

_PROBES = (
    "Mr. Smith's COLOUR cost $3.50, won't it? Twenty-one [noise] (hm) 21st",
    "我在2023年5月3日花了3.5元，百分之50的 iPhone 15。還有蘋果。",
)
_PLAIN = re.compile(r"[^\w\s']|_")


def _whisper_english(text: str) -> list[str]:
    return _whisper_normalizer()(text).split()


@functools.cache
def _whisper_normalizer() -> Callable[[str], str]:
    with needed_library("this normaliser needs whisper-normalizer: pip install 'baichuan-audio[eval]'."):
        from whisper_normalizer.english import EnglishTextNormalizer
    normalizer: Callable[[str], str] = EnglishTextNormalizer()
    return normalizer


def _plain_english(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", text).replace("’", "'").lower()
    return _PLAIN.sub(" ", text).split()


def _mandarin_characters(text: str) -> list[str]:
    with needed_library("this normaliser needs zhconv: pip install 'baichuan-audio[eval]'."):
        import zhconv
    return tokens(normalize_for_speech(zhconv.convert(text, "zh-hans"), "zh"), "zh")


NORMALIZERS: Mapping[str, Callable[[str], list[str]]] = {
    "whisper-en": _whisper_english,
    "plain-en": _plain_english,
    "characters-zh": _mandarin_characters,
}
"""whisper-en: Whisper's own for English (arXiv 2212.04356, appendix C), words. plain-en: lower case, no punctuation,
nothing else. characters-zh: simplified script, figures in words, then characters; Latin words stay whole."""
DEFAULTS = {"en": "whisper-en", "zh": "characters-zh"}


def normalize(name: str, text: str) -> list[str]:
    """The tokens of a raw transcript. Raises ConfigError for a name that is not in NORMALIZERS."""
    if name not in NORMALIZERS:
        raise ConfigError(f"there is no normaliser '{name}'; there are {', '.join(NORMALIZERS)}.")
    return NORMALIZERS[name](text)


def fingerprint(name: str) -> str:
    """Hash of what a normaliser makes of texts that touch all its rules: another version shows itself."""
    return text_digest(name, *(" ".join(normalize(name, probe)) for probe in _PROBES))
