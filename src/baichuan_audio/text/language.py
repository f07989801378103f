"""Language detection, Mandarin or English, by script.

Chinese characters and Latin letters with or without accents count; digits, punctuation, emoji and other scripts do not.
"""

from __future__ import annotations

import re

CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, for a class in a regular expression."""
LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
"""Latin letters, with and without accents, for a class in a regular expression."""
NAMES = {"en": "english", "zh": "chinese"}
"""Names in OpenAI's transcripts."""

_HAN = re.compile(f"[{CJK}]")
_WORD = re.compile(f"[{LATIN}]+(?:['’][{LATIN}]+)*")


def has_han(text: str) -> bool:
    """Whether the text has a Chinese character."""
    return _HAN.search(text) is not None


def voice_language(text: str) -> str:
    """The language that a voice needs to read the text: "zh" if it has a Chinese character, else "en"."""
    return "zh" if has_han(text) else "en"


def script_counts(text: str) -> dict[str, int]:
    """Words of English ("en") and characters of Mandarin ("zh") in a text."""
    return {"en": len(_WORD.findall(text)), "zh": len(_HAN.findall(text))}


def language_of(text: str) -> str | None:
    """ "zh" or "en": whichever has more characters or words; "zh" for a tie, None for neither."""
    counts = script_counts(text)
    if not any(counts.values()):
        return None
    return "zh" if counts["zh"] >= counts["en"] else "en"


def only_language_of(text: str) -> str | None:
    """The language of a text in one language; None for a mixture, and without words."""
    counts = script_counts(text)
    return language_of(text) if 0 in counts.values() else None


def language_code(name: str | None) -> str | None:
    """ "zh" or "en" for a code or name such as "zh-CN", "cmn", "Chinese", "en_US"; None for any other."""
    name = (name or "").strip().lower()
    for code, starts in (("zh", ("zh", "cmn", "chinese", "mandarin")), ("en", ("en", "eng", "english"))):
        if re.split(r"[-_ ]", name)[0] in starts:
            return code
    return None
