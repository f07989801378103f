"""Text normalization for scoring: English words and Mandarin characters, numbers spelt out, no punctuation."""

from __future__ import annotations

import re
import unicodedata

from ..text.normalization.number_words import english_digits, english_number, mandarin_digits, mandarin_number

_MAX_NUMBER = 10**12
_NUMBER = re.compile(r"(?<![a-zA-Z0-9.])-?\d+(?:,\d{3})*(?:\.\d+)?")
_SYMBOLS_EN = {"%": " percent ", "+": " plus ", "=": " equals ", "&": " and ", "×": " times ", "÷": " divided by "}
_SYMBOLS_ZH = {"%": "百分之", "+": "加", "=": "等于", "×": "乘", "÷": "除以"}
_TOKEN = re.compile(r"[\u4e00-\u9fff]|[a-z]+(?:'[a-z]+)*")


def tokens(text: str, language: str) -> list[str]:
    """The tokens by which texts are compared: Latin words and Chinese characters.

    Case, punctuation, character width and the spelling of numbers make no difference. `language` ("en" or "zh") is the
    language in which numbers and symbols are spelt out.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("−", "-")
    chinese = language == "zh"
    text = _NUMBER.sub(lambda match: _spell(match.group(), chinese), text)
    for symbol, words in (_SYMBOLS_ZH if chinese else _SYMBOLS_EN).items():
        text = text.replace(symbol, words)
    return _TOKEN.findall(text)


def _spell(number: str, chinese: bool) -> str:
    whole, _, fraction = number.replace(",", "").partition(".")
    value = int(whole)
    if abs(value) >= _MAX_NUMBER:
        digits = whole.lstrip("-")
        whole_words = mandarin_digits(digits) if chinese else english_digits(digits)
    else:
        whole_words = mandarin_number(value) if chinese else english_number(value)
    if chinese:
        return whole_words + ("点" + mandarin_digits(fraction) if fraction else "")
    words = whole_words + ("" if not fraction else " point " + english_digits(fraction))
    return f" {words} "
