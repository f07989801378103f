"""Numbers in words, in English and in Mandarin; without hyphens and without "and", as speech recognizers write them."""

from __future__ import annotations

# fmt: off
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = (
    (10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"),
)
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}
# fmt: on
_DIGITS = "零一二三四五六七八九"
_PLACES = ((1000, "千"), (100, "百"), (10, "十"), (1, ""))
MOST_DIGITS = 15
"""A longer number is read digit by digit."""


def english_number(number: int) -> str:
    """121 -> one hundred twenty one."""
    if number < 0:
        return "minus " + english_number(-number)
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")
    size, name = next(scale for scale in _SCALES if number >= scale[0])
    rest = f" {english_number(number % size)}" if number % size else ""
    return f"{english_number(number // size)} {name}{rest}"


def english_plural(words: str) -> str:
    """twenty -> twenties."""
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


def english_ordinal(number: int) -> str:
    """21 -> twenty first."""
    before, _, last = english_number(number).rpartition(" ")
    ordinal = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return f"{before} {ordinal}" if before else ordinal


def english_year(year: int) -> str:
    """1984 -> nineteen eighty four, 2005 -> two thousand five, 1900 -> nineteen hundred."""
    century, rest = divmod(year, 100)
    if year < 1000 or (century % 10 == 0 and rest < 10):
        return english_number(year)
    if not rest:
        return english_number(century) + " hundred"
    return f"{english_number(century)} {'oh ' if rest < 10 else ''}{english_number(rest)}"


def english_digits(digits: str) -> str:
    """305 -> three zero five."""
    return " ".join(_ONES[int(digit)] for digit in digits)


def mandarin_number(number: int) -> str:
    """121 -> 一百二十一, 12 -> 十二, 1005 -> 一千零五."""
    if number < 0:
        return "负" + mandarin_number(-number)
    for size, name in ((10**8, "亿"), (10**4, "万")):
        if number >= size:
            rest = number % size
            gap = "零" if 0 < rest < size // 10 else ""
            return mandarin_number(number // size) + name + gap + (mandarin_number(rest) if rest else "")
    if 10 <= number < 20:
        return "十" + (_DIGITS[number - 10] if number > 10 else "")
    text, skipped = "", False
    for size, name in _PLACES:
        digit = number // size % 10
        if digit:
            text += ("零" if skipped else "") + _DIGITS[digit] + name
        skipped = not digit and bool(text)
    return text or _DIGITS[0]


def mandarin_digits(digits: str) -> str:
    """305 -> 三零五."""
    return "".join(_DIGITS[int(digit)] for digit in digits)


def number_in(language: str, number: int) -> str:
    """The number in words of "en" or "zh"."""
    return mandarin_number(number) if language == "zh" else english_number(number)
