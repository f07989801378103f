"""Numbers to words: all rules of this package in order, the specific before the general."""

from __future__ import annotations

import re
from collections.abc import Callable

from . import amounts, dates, formulas, identifiers, roman
from .languages import MANDARIN, Language
from .rules import NUMBER, Rule, rule

LanguagePicker = Callable[["re.Match[str]"], Language]
"""Chooses the language in which a match is read."""

_COUNTED = (
    "个只条张本位次天件杯瓶台辆种份名块倍岁周人座层头匹家间句点片颗粒支枚套双对袋箱桶碗盘篇顿艘架笔束朵根滴棵株万亿"
)
_MEASURES = ("小时", "分钟", "公里", "公斤", "星期", "礼拜", "千克", "多个")


def numbers_to_words(text: str, pick: LanguagePicker) -> str:
    """`text` with all numbers in words."""
    for pattern, say in _RULES:
        text = pattern.sub(lambda match, say=say: _spaced(match, say(match, pick(match))), text)  # type: ignore[misc]
    return text


def _spaced(match: re.Match[str], words: str) -> str:
    """The words, separated by a space from an adjacent Latin letter or digit."""
    if words == match.group():
        return words
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    if before.isascii() and before.isalnum() and words[:1].isascii() and words[:1].isalnum():
        words = " " + words
    if after.isascii() and after.isalnum() and words[-1:].isascii() and words[-1:].isalnum():
        words += " "
    return words


def _digits(match: re.Match[str], language: Language) -> str:
    return language.digits(match.group())


def _number(match: re.Match[str], language: Language) -> str:
    after = match.string[match.end() : match.end() + 1]
    before = match.string[match.start() - 1 : match.start()]
    named = before == "第" or (before.isascii() and before.isalpha())
    counted = after and (after in _COUNTED or match.string[match.end() : match.end() + 2] in _MEASURES)
    if language is MANDARIN and match.group() == "2" and counted and not named:
        return "两"
    return language.number(match.group())


def _any_number(match: re.Match[str], language: Language) -> str:
    return language.number(match.group())


_RULES: tuple[Rule, ...] = (
    *roman.RULES,
    rule(r"(?<![0-9])[0-9]{16}[0-9]*(?![0-9Xx])", _digits),
    *dates.RULES,
    *identifiers.RULES,
    *formulas.COMPARISONS,
    *amounts.RULES,
    *identifiers.BESIDE_LETTERS,
    *formulas.RULES,
    *dates.YEARS,
    rule(rf"(?<![0-9.,]){NUMBER}", _number),
    rule(r"(?<![0-9])\.[0-9]{1,40}|[0-9]{1,40}", _any_number),
)
