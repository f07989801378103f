"""Which language a text is written in: the one detector of this package. It knows Mandarin and English by their script.

Chinese characters count, Latin letters of any accent count ("café" is not Chinese), and nothing else does: figures,
marks, emoji and other scripts say neither.
"""

from __future__ import annotations

import re

CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, for a class in a regular expression."""
LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
"""Latin letters, with and without accents, for a class in a regular expression."""
NAMES = {"en": "english", "zh": "chinese"}
"""As OpenAI's transcripts call them."""

_HAN = re.compile(f"[{CJK}]")
_WORD = re.compile(f"[{LATIN}]+(?:['’][{LATIN}]+)*")


def has_han(text: str) -> bool:
    """Whether there is a Chinese character in it."""
    return _HAN.search(text) is not None


def voice_language(text: str) -> str:
    """Which language a voice must know to read it: "zh" where there is a Chinese character, else "en"."""
    return "zh" if has_han(text) else "en"


def script_counts(text: str) -> dict[str, int]:
    """Words of English ("en") and characters of Mandarin ("zh") in a text."""
    return {"en": len(_WORD.findall(text)), "zh": len(_HAN.findall(text))}


def language_of(text: str) -> str | None:
    """ "zh" or "en": of which there are more, characters or words; "zh" for as many, None where there is neither."""
    counts = script_counts(text)
    if not any(counts.values()):
        return None
    return "zh" if counts["zh"] >= counts["en"] else "en"


def only_language_of(text: str) -> str | None:
    """The language of a text that is written in one alone; None for a mixture, and where there are no words."""
    counts = script_counts(text)
    return language_of(text) if 0 in counts.values() else None


def language_code(name: str | None) -> str | None:
    """ "zh" or "en" for a code or name such as "zh-CN", "cmn", "Chinese", "en_US"; None for any other."""
    name = (name or "").strip().lower()
    for code, starts in (("zh", ("zh", "cmn", "chinese", "mandarin")), ("en", ("en", "eng", "english"))):
        if re.split(r"[-_ ]", name)[0] in starts:
            return code
    return None
