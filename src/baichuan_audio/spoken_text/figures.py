"""Figures to words: dates, times, telephone numbers, money, percent, units, fractions, ranges, sums, plain numbers.

Each rule is a pattern and what it says; they run one after another, the particular before the general. Patterns begin
where a number begins (never inside one) and repeat bounded pieces, so the time is linear in the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .languages import ENGLISH, MANDARIN, MONTHS, Language
from .units import CURRENCIES, UNITS

Speaker = Callable[["re.Match[str]"], Language]
Rule = tuple["re.Pattern[str]", Callable[["re.Match[str]", Language], str]]

NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,9}(?![0-9])|[0-9]{1,40})(?:\.[0-9]{1,40})?"
_START = r"(?<![0-9.,A-Za-z])"
_SIGNED = rf"(?:(?<![0-9A-Za-z)\]])-)?(?<![0-9.,]){NUMBER}"
_DASH = r" ?[-~–—] ?"
_MONTH = "|".join(rf"{month[:3]}(?:{month[3:]})?\.?" if month != "May" else month for month in MONTHS) + r"|Sept\.?"
_CURRENCY = "|".join(re.escape(sign) for sign in sorted(CURRENCIES, key=len, reverse=True))
_SCALE = r"(?: ?(thousand|million|billion|trillion|百万|千万|万亿|万|亿)|([KkMB])(?![A-Za-z]))"
_LONG_UNITS = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
_HALF = r"([AaPp])(?:\.[Mm]\.|[Mm](?![A-Za-z]))"
_CLOCK = rf"([01]?[0-9]|2[0-4]):([0-5][0-9])(?::([0-5][0-9]))?(?: ?{_HALF})?(?![0-9:])"
_ABOUT_A_CODE = re.compile(
    r"(?:\b(?:code|PIN|pin|number|No\.?|ID|room|flight)|密码|验证码|编号|号码|单号|代码)[ ：:是为#]{0,4}$"
)
_IN_A_YEAR = re.compile(r"(?:\b(?:in|In|since|Since|by|By|until|Until|before|after|from|From|year|of|to|and))[ ]$")
_COUNTED = "个只条张本位次天件杯瓶台辆种份名块倍岁周人座层头匹家间句点"


def spell(text: str, speaker: Speaker) -> str:
    """Everything written in figures in words; `speaker` says in which language a match is to be read."""
    for pattern, say in _RULES:
        text = pattern.sub(lambda match, say=say: _spaced(match, say(match, speaker(match))), text)  # type: ignore[misc]
    return text


def _spaced(match: re.Match[str], words: str) -> str:
    """The words, with a space between them and a Latin letter (or figure) that they would run into."""
    if words == match.group():
        return words
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    if before.isascii() and before.isalnum() and words[:1].isascii() and words[:1].isalnum():
        words = " " + words
    if after.isascii() and after.isalnum() and words[-1:].isascii() and words[-1:].isalnum():
        words += " "
    return words


# -- dates and times --------------------------------------------------------------------------------------------


def _date(match: re.Match[str], language: Language) -> str:
    year, month, day, before_time = match.group(1, 3, 4, 5)
    return language.date(year, int(month), int(day)) + (" " if before_time else "")


def _slash_date(match: re.Match[str], language: Language) -> str:
    """Month first, as in America, unless that cannot be."""
    month, day, year = int(match.group(1)), int(match.group(2)), match.group(3)
    if month > 12:
        month, day = day, month
    return language.date(year, month, day) if 1 <= month <= 12 and 1 <= day <= 31 else match.group()


def _month_first(match: re.Match[str], language: Language) -> str:
    name, day, year = match.group(1, 2, 3)
    if not 1 <= int(day) <= 31:
        return match.group()
    month = _month(name)
    return language.date(year, month, int(day))


def _day_first(match: re.Match[str], language: Language) -> str:
    day, name, year = match.group(1, 2, 3)
    if not 1 <= int(day) <= 31:
        return match.group()
    if language is MANDARIN:
        return language.date(year, _month(name), int(day))
    the = "" if match.string[: match.start()][-4:].lower() == "the " else "the "
    tail = f", {ENGLISH.year(year)}" if year else ""
    return f"{the}{ENGLISH.ordinal(int(day))} of {MONTHS[_month(name) - 1]}{tail}"


def _month_year(match: re.Match[str], language: Language) -> str:
    return f"{MONTHS[_month(match.group(1)) - 1]} {ENGLISH.year(match.group(2))}"


def _month(name: str) -> int:
    return next(number for number, month in enumerate(MONTHS, 1) if month[:3] == name[:3])


def _time(match: re.Match[str], language: Language) -> str:
    hour, minute, second, half = match.group(1, 2, 3, 4)
    return language.time(int(hour), int(minute), second, half and half.lower())


def _hour(match: re.Match[str], language: Language) -> str:
    return language.time(int(match.group(1)), 0, None, match.group(2).lower())


def _mandarin_years(match: re.Match[str], language: Language) -> str:
    return MANDARIN.digits(match.group(1)) + ("到" + MANDARIN.digits(match.group(2)) if match.group(2) else "")


def _decade(match: re.Match[str], language: Language) -> str:
    century, tens = match.group(1) or "", match.group(2)
    words = ENGLISH.year(century + tens) if century else ENGLISH.number(tens)
    return (words[:-1] + "ies") if words.endswith("y") else words + "s"


def _year(match: re.Match[str], language: Language) -> str:
    year = int(match.group())
    if language is MANDARIN or not (1900 <= year < 2100 or _IN_A_YEAR.search(match.string[: match.start()][-8:])):
        return match.group()
    return language.year(match.group())


# -- telephone numbers and other strings of digits ----------------------------------------------------------------


def _digit_groups(match: re.Match[str], language: Language) -> str:
    groups = re.findall(r"[0-9]+", match.group())
    plus = language.words["plus"] if match.group().startswith("+") else ""
    return plus + language.words["pause"].join(language.digits(group) for group in groups)


def _code(match: re.Match[str], language: Language) -> str:
    digits = match.group()
    is_code = _ABOUT_A_CODE.search(match.string[: match.start()][-12:])
    return language.digits(digits) if is_code or len(digits) > 12 else digits


def _version(match: re.Match[str], language: Language) -> str:
    return language.words["point"].join(language.number(part) for part in match.group().split("."))


# -- amounts -----------------------------------------------------------------------------------------------------


def _money(match: re.Match[str], language: Language) -> str:
    sign, symbol, amount, scale, letter = match.group(1, 2, 3, 4, 5)
    scale = scale or {"K": "thousand", "M": "million", "B": "billion"}.get((letter or "").upper(), "")
    return language.money(symbol, (sign or "") + amount, scale)


def _money_behind(match: re.Match[str], language: Language) -> str:
    return language.money(match.group(2), match.group(1), "")


def _percent(match: re.Match[str], language: Language) -> str:
    return language.percent(match.group(1), match.group(2))


def _percent_range(match: re.Match[str], language: Language) -> str:
    low, high = match.group(1, 2)
    if language is MANDARIN:
        return f"{language.percent(low)}到{language.percent(high)}"
    return f"{language.number(low)} to {language.percent(high)}"


def _unit(match: re.Match[str], language: Language) -> str:
    number, unit = match.group(1, 2)
    return language.unit(number, {"m2": "m²", "m3": "m³", "km2": "km²"}.get(unit, unit))


def _fraction(match: re.Match[str], language: Language) -> str:
    whole, above, below = match.group(1, 2, 3)
    if int(below) == 0 or max(len(above), len(below)) > 3:
        return match.group().replace("/", language.words["over"])
    if language is MANDARIN:
        return (f"{language.number(whole)}又" if whole else "") + language.fraction(above, below)
    proper = 0 < int(above) < int(below) <= 100
    words = language.fraction(above, below) if proper else f"{language.number(above)} over {language.number(below)}"
    if match.group() == "24/7":
        words = "twenty four seven"
    if whole and proper:
        return f"{language.number(whole)} and {'a' + words[3:] if words.startswith('one ') else words}"
    return f"{language.number(whole)} {words}" if whole else words


def _ordinal(match: re.Match[str], language: Language) -> str:
    return ENGLISH.ordinal(int(match.group(1)))


def _range(match: re.Match[str], language: Language) -> str:
    """3-5 is a range; 5 - 3 with spaces, or before an equals sign, is a difference."""
    low, dash, high = match.group(1, 2, 3)
    differs = dash == " - " or (dash == "-" and re.match(r" ?=", match.string[match.end() : match.end() + 2]))
    return low + language.words["less" if differs else "to"] + high


def _operator(match: re.Match[str], language: Language) -> str:
    names = {"+": "plus", "×": "times", "*": "times", "÷": "over", "/": "over", "=": "equals", "-": "less"}
    word = language.words[names.get(match.group(1), "power")]  # ** is a power
    return word if language is MANDARIN else f" {word.strip()} "


def _power(match: re.Match[str], language: Language) -> str:
    if language is MANDARIN:
        return f"的{language.number(match.group(1))}次方"
    return language.words["power"] + language.number(match.group(1))


def _sign(match: re.Match[str], language: Language) -> str:
    return language.words[{"-": "minus", "+": "plus", "~": "about", "≈": "about"}.get(match.group(), "#")]


def _number(match: re.Match[str], language: Language) -> str:
    after = match.string[match.end() : match.end() + 1]
    before = match.string[match.start() - 1 : match.start()]
    if language is MANDARIN and match.group() == "2" and after and after in _COUNTED and before != "第":
        return "两"
    return language.number(match.group())


def _rule(pattern: str, say: Callable[[re.Match[str], Language], str]) -> Rule:
    return re.compile(pattern), say


_A_YEAR = r"[12][0-9]{3}(?![0-9])"
_PLAIN = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)"
_DAY = r"([12][0-9]{3})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12][0-9]|3[01])"
_RULES: tuple[Rule, ...] = (
    _rule(r"[0-9]{16,}", lambda match, language: language.digits(match.group())),
    # dates and times
    _rule(rf"{_START}{_DAY}(?![0-9.]|[-/][0-9])(T(?=[0-9]))?", _date),
    _rule(rf"{_START}([0-9]{{1,2}})/([0-9]{{1,2}})/([12][0-9]{{3}})(?![0-9/])", _slash_date),
    _rule(rf"\b({_MONTH}) ([0-9]{{1,2}})(?:st|nd|rd|th)?(?:,? ([12][0-9]{{3}}))?(?![0-9:]|[.,][0-9])", _month_first),
    _rule(
        rf"{_START}([0-9]{{1,2}})(?:st|nd|rd|th)? (?:of )?({_MONTH})(?![a-z])(?:,? ({_A_YEAR}))?",
        _day_first,
    ),
    _rule(rf"\b({_MONTH}),? ({_A_YEAR})", _month_year),
    _rule(r"(?<=:[0-5][0-9]) ?[-~–—] ?(?=[0-9]{1,2}:[0-5][0-9])", lambda match, language: language.words["to"]),
    _rule(rf"{_START}{_CLOCK}", _time),
    _rule(rf"{_START}(1[0-2]|[1-9]) ?{_HALF}", _hour),
    _rule(r"(?<![0-9])([12][0-9]{3})(?: ?[-~–—到至] ?([12][0-9]{3}))?(?=年(?![前后来间以多])|学年)", _mandarin_years),
    _rule(r"(?<![0-9.,])(1[1-9]|20)([0-9]0)'?s(?![A-Za-z])", _decade),
    _rule(r"(?<=the )()'?([2-9]0)'?s(?![A-Za-z])", _decade),
    # telephone numbers and codes
    _rule(r"\+[0-9]{1,3}(?:[ -]\([0-9]{1,4}\)|[ -][0-9]{1,4})(?:[ -][0-9]{2,8}){1,4}(?![0-9])", _digit_groups),
    _rule(r"(?<![0-9-])(?:\([0-9]{3}\) ?|[0-9]{3}[- ])[0-9]{3,4}-[0-9]{4}(?![0-9-])", _digit_groups),
    _rule(r"(?<![0-9-])(?:0[0-9]{2,3}-[0-9]{7,8}|555-[0-9]{4})(?![0-9-])", _digit_groups),
    _rule(r"(?<![0-9-])1[3-9][0-9]([ -])[0-9]{4}\1[0-9]{4}(?![0-9-])", _digit_groups),
    _rule(r"(?<![0-9.,])1[3-9][0-9]{9}(?![0-9.,])", lambda match, language: language.digits(match.group())),
    _rule(r"(?<![0-9.,])[0-9]{3,40}(?![0-9]|[.,][0-9])", _code),
    _rule(r"(?<![0-9.])[0-9]{1,15}(?:\.[0-9]{1,15}){2,20}(?![0-9])", _version),
    # money, percent, units
    _rule(rf"(-?)({_CURRENCY}) ?({NUMBER}){_SCALE}?", _money),
    _rule(rf"({_SIGNED}) ?([€£])", _money_behind),
    _rule(rf"(?<![0-9.,-])({NUMBER})%?{_DASH}({NUMBER}) ?%", _percent_range),
    _rule(rf"({_SIGNED}) ?([%‰])", _percent),
    _rule(rf"(?<![0-9.,]){_PLAIN}(-|–|—|~| - | – | — ){_PLAIN}(?![0-9]|-[0-9])", _range),
    _rule(rf"({_SIGNED}) ?(m2|m3|km2|{_LONG_UNITS})(?![A-Za-z0-9²³/]|'[a-z])", _unit),
    # fractions and ordinals
    _rule(r"(?<![0-9./])(?:([0-9]{1,6}) )?([0-9]{1,9})/([0-9]{1,9})(?![0-9/])", _fraction),
    _rule(r"(?<![0-9.,])([0-9]{1,12})(?:st|nd|rd|th)(?![A-Za-z])", _ordinal),
    # sums
    _rule(r"(?<=[0-9)]) ?\^ ?(-?[0-9]{1,9})", _power),
    _rule(r"(?<=[0-9)]) ?(\*\*|[+×*÷=]) ?(?=[-(]?[0-9])", _operator),
    _rule(r"(?<=[0-9)]) ([-/]) (?=[-(]?[0-9])", _operator),
    _rule(r"(?<=[0-9]):(?=[0-9])", lambda match, language: language.words["score"]),
    _rule(r"(?<![0-9A-Za-z)\]])[-+~≈#](?=[0-9])|\bNo\. ?(?=[0-9])", _sign),
    _rule(r"(?<=[A-Za-z])-(?=[0-9])", lambda match, language: " "),
    # what is left
    _rule(r"(?<![0-9.,])(?:1[1-9]|20)[0-9]{2}(?![0-9]|[.,][0-9])", _year),
    _rule(rf"(?<![0-9.,]){NUMBER}", _number),
    _rule(r"(?<![0-9])\.[0-9]{1,40}|[0-9]{1,40}", lambda match, language: language.number(match.group())),
)
