"""Whether texts say the same, and in which language."""

from __future__ import annotations

from baichuan_audio.evaluation.text import tokens
from baichuan_audio.text.language import only_language_of


def same(first: str, second: str, language: str) -> bool:
    """Whether two texts have the same tokens."""
    return tokens(first, language) == tokens(second, language)


def script(text: str) -> str | None:
    """The language of a text, "en" or "zh"; None for a mixture or a text without words."""
    return only_language_of(" ".join(tokens(text, "en")))
