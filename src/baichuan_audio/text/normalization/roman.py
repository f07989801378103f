"""Roman numerals, where the words around them show that they are numerals."""

from __future__ import annotations

import re

from .languages import ENGLISH, MANDARIN, Language
from .rules import Rule, before, rule

_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
_NUMERAL = r"(X{0,3}(?:IX|IV|V?I{0,3}))"
_KEYWORDS = (
    "World War|War|Chapter|Part|Volume|Vol\\.|Act|Scene|Section|Phase|Type|Level|Class|Book|Appendix|Article|Stage"
    "|Grade|Tier|Super Bowl|Title|Round|Episode|Unit"
)
_REIGNING = re.compile(
    r"\b(?:King|Queen|Pope|Emperor|Tsar|Prince|Henry|Louis|Elizabeth|George|Edward|Charles|James|William|Richard|Napoleon"
    r"|Mary|Philip|Frederick|Alexander|Nicholas|Peter|Catherine|Leo|Pius|Benedict|Gregory|Innocent|Urban|Otto|Ivan|John"
    r"|Paul|Ramses|Rameses|Ptolemy|Harald|Gustav|Christian|Ferdinand|Francis|Joseph|Maria|Margaret|Leopold|Alfonso) $"
)


def _value(numeral: str) -> int:
    values = [_VALUES[letter] for letter in numeral]
    return sum(-value if value < after else value for value, after in zip(values, [*values[1:], 0], strict=True))


def _after_keyword(match: re.Match[str], language: Language) -> str:
    return match.group(1) + language.number(str(_value(match.group(2))))


def _after_name(match: re.Match[str], language: Language) -> str:
    value = _value(match.group(1))
    return f"the {ENGLISH.ordinal(value)}" if _REIGNING.search(before(match, 24)) else ENGLISH.number(str(value))


def _world_war(match: re.Match[str], language: Language) -> str:
    return "World War " + ENGLISH.number(str(len(match.group(1))))


def _mandarin(match: re.Match[str], language: Language) -> str:
    return MANDARIN.number(str(_value(match.group(1))))


RULES: tuple[Rule, ...] = (
    rule(rf"\b((?:{_KEYWORDS}) )(?=[IVX]){_NUMERAL}(?![A-Za-z'’])", _after_keyword),
    rule(r"\bWW(I{1,2})(?![A-Za-z])", _world_war),
    rule(rf"(?<=[a-z] )(?=[IVX]{{2}}){_NUMERAL}(?![A-Za-z'’])", _after_name),
    rule(rf"(?<=第)(?=[IVX]){_NUMERAL}(?![A-Za-z])", _mandarin),
    rule(rf"(?<![A-Za-z])(?=[IVX]{{1}}){_NUMERAL}(?=[级期型卷章世类度](?![A-Za-z]))", _mandarin),
)
