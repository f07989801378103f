"""Texts as the tokens that are compared: English words, Mandarin characters; numbers spelt out, no punctuation."""

from __future__ import annotations

import re
import unicodedata

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((1_000_000_000, "billion"), (1_000_000, "million"), (1_000, "thousand"), (100, "hundred"))
_DIGITS_ZH = "零一二三四五六七八九"
_PLACES_ZH = ((1000, "千"), (100, "百"), (10, "十"))
_LARGEST = 10**12
_NUMBER = re.compile(r"(?<![a-zA-Z0-9.])-?\d+(?:,\d{3})*(?:\.\d+)?")
_SYMBOLS_EN = {"%": " percent ", "+": " plus ", "=": " equals ", "&": " and ", "×": " times ", "÷": " divided by "}
_SYMBOLS_ZH = {"%": "百分之", "+": "加", "=": "等于", "×": "乘", "÷": "除以"}
_TOKEN = re.compile(r"[\u4e00-\u9fff]|[a-z]+(?:'[a-z]+)*")


def english_number(number: int) -> str:
    """A whole number in words: 121 -> "one hundred twenty one" (no "and", no hyphens)."""
    if number < 0:
        return "minus " + english_number(-number)
    if number < 20:
        return _ONES[number]
    if number < 100:
        rest = f" {_ONES[number % 10]}" if number % 10 else ""
        return _TENS[number // 10] + rest
    size, name = next(scale for scale in _SCALES if number >= scale[0])
    rest = f" {english_number(number % size)}" if number % size else ""
    return f"{english_number(number // size)} {name}{rest}"


def mandarin_number(number: int) -> str:
    """A whole number in characters: 121 -> 一百二十一, 12 -> 十二, 1005 -> 一千零五."""
    if number < 0:
        return "负" + mandarin_number(-number)
    for size, name in ((10**8, "亿"), (10**4, "万")):
        if number >= size:
            rest = number % size
            gap = "零" if 0 < rest < size // 10 else ""
            return mandarin_number(number // size) + name + gap + (mandarin_number(rest) if rest else "")
    if 10 <= number < 20:
        return "十" + (_DIGITS_ZH[number - 10] if number > 10 else "")
    text, skipped = "", False
    for size, name in (*_PLACES_ZH, (1, "")):
        digit = number // size % 10
        if digit:
            text += ("零" if skipped else "") + _DIGITS_ZH[digit] + name
        skipped = not digit and bool(text)
    return text or _DIGITS_ZH[0]


def tokens(text: str, language: str) -> list[str]:
    """The tokens by which texts are compared: Latin words and Chinese characters.

    Case, punctuation, width and the way numbers are written make no difference; `language` ("en" or "zh") says in
    which language numbers and signs are spelt out.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("−", "-")
    chinese = language == "zh"
    text = _NUMBER.sub(lambda match: _spell(match.group(), chinese), text)
    for symbol, words in (_SYMBOLS_ZH if chinese else _SYMBOLS_EN).items():
        text = text.replace(symbol, words)
    return _TOKEN.findall(text)


def same(first: str, second: str, language: str) -> bool:
    """Whether two texts have the same tokens."""
    return tokens(first, language) == tokens(second, language)


def script(text: str) -> str | None:
    """The language that a text is written in, "en" or "zh"; None for a mixture or no words at all."""
    kinds = {"en" if token.isascii() else "zh" for token in tokens(text, "en")}
    return kinds.pop() if len(kinds) == 1 else None


def _spell(number: str, chinese: bool) -> str:
    whole, _, fraction = number.replace(",", "").partition(".")
    value = int(whole)
    if abs(value) >= _LARGEST:  # read digit by digit
        whole_words = (
            "".join(_DIGITS_ZH[int(d)] for d in whole.lstrip("-"))
            if chinese
            else " ".join(_ONES[int(d)] for d in whole.lstrip("-"))
        )
    else:
        whole_words = mandarin_number(value) if chinese else english_number(value)
    if chinese:
        return whole_words + ("点" + "".join(_DIGITS_ZH[int(d)] for d in fraction) if fraction else "")
    words = whole_words + ("" if not fraction else " point " + " ".join(_ONES[int(d)] for d in fraction))
    return f" {words} "
