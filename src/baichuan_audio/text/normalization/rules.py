"""Shared parts of the number rules: a rule is a pattern and the reading of its match.

Patterns start at a number and repeat bounded pieces, and only a few characters around a match are examined, so the time
is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .languages import Language
from .units import UNITS

Say = Callable[["re.Match[str]", Language], str]
Rule = tuple["re.Pattern[str]", Say]

NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,9}(?![0-9])|[0-9]{1,40})(?:\.[0-9]{1,40})?"
_POINT_FIRST = r"(?<![0-9.])\.[0-9]{1,40}"
PLAIN = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)"
START = r"(?<![0-9.,A-Za-z])"
SIGNED = rf"(?:(?<![0-9A-Za-z)\]])-)?(?:(?<![0-9.,]){NUMBER}|{_POINT_FIRST})"
DASH = r" ?[-~–—] ?"


_UNITS = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
_COUNTED = re.compile(
    r" (?!(?:was|is|has|as|its|this|plus|versus|series|less|across|news|Olympics)\b)(?:[a-z]{2,20}s\b|people\b)"
    rf"|%| ?(?:{_UNITS})(?![A-Za-z0-9])"
)


def rule(pattern: str, say: Say) -> Rule:
    """A rule from its pattern; `say(match, language)` gives the words, or the unchanged match to skip it."""
    return re.compile(pattern), say


def before(match: re.Match[str], characters: int = 16) -> str:
    """The text before a match, at most `characters` long."""
    return match.string[max(0, match.start() - characters) : match.start()]


def after(match: re.Match[str], characters: int = 16) -> str:
    """The text after a match, at most `characters` long."""
    return match.string[match.end() : match.end() + characters]


def is_counted(match: re.Match[str]) -> bool:
    """Whether a number is a count: an English plural or a unit follows."""
    return _COUNTED.match(after(match, 24)) is not None


def space(match: re.Match[str], language: Language) -> str:
    """In place of what matched."""
    return " "


def nothing(match: re.Match[str], language: Language) -> str:
    """What matched is not read."""
    return ""


def digits(match: re.Match[str], language: Language) -> str:
    """Digit by digit; anything between digits becomes a pause."""
    groups = re.findall(r"[0-9]+", match.group())
    plus = language.words["plus"] if match.group().startswith("+") else ""
    return plus + language.words["pause"].join(language.digits(group) for group in groups)
