"""Whole numbers from 0 to 9,999 in words."""

from __future__ import annotations

# fmt: off
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
_DIGITS = "零一二三四五六七八九"
_PLACES = ("", "十", "百", "千")


def english_number(number: int) -> str:
    """24 -> twenty four; without hyphens, as a recogniser writes it."""
    _check(number)
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")
    size, word = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = f" {english_number(number % size)}" if number % size else ""
    return f"{_ONES[number // size]} {word}{rest}"


def chinese_number(number: int) -> str:
    """24 -> 二十四."""
    _check(number)
    if number < 10:
        return _DIGITS[number]
    text, gap = "", False
    for place in range(3, -1, -1):
        digit = number // 10**place % 10
        if digit:
            text += ("零" if gap and text else "") + _DIGITS[digit] + _PLACES[place]
        gap = digit == 0
    return text[1:] if text.startswith("一十") else text


def number_in(language: str, number: int) -> str:
    return chinese_number(number) if language == "zh" else english_number(number)


def _check(number: int) -> None:
    if not 0 <= number < 10_000:
        raise ValueError(f"{number} is outside 0 to 9,999")
