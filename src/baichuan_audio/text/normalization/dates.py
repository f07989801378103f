"""Dates, times, years and decades."""

from __future__ import annotations

import re

from .languages import ENGLISH, MANDARIN, MONTHS, Language
from .number_words import english_plural
from .rules import START, Rule, before, is_counted, rule

_MONTH = (
    "|".join(rf"{month[:3]}(?:{month[3:]})?\.?" if month != "May" else month for month in MONTHS)
    + r"|Sept\.?|"
    + "|".join(rf"{month[:3]}(?:{month[3:]})?\.?" for month in map(str.lower, MONTHS) if month not in ("may", "march"))
)
_HALF = r"([AaPp])(?:\.[Mm]\.|[Mm](?![A-Za-z]))"
_CLOCK = rf"([01]?[0-9]|2[0-4]):([0-5][0-9])(?::([0-5][0-9]))?(?: ?{_HALF})?(?![0-9:])分?"
_A_YEAR = r"[12][0-9]{3}(?![0-9])"
_DAY = r"([12][0-9]{3})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12][0-9]|3[01])"
_DAY_ONCE = r"[12][0-9]{3}[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12][0-9]|3[01])"
_IN_A_YEAR = re.compile(
    r"\b(?:in|since|by|until|before|after|from|year|of|to|and|circa|around|till|during)[ ]$", re.IGNORECASE
)
_ON_A_DAY = re.compile(
    r"\b(?:on|by|until|since|before|after|from|due|dated?"
    r"|shipped|delivered|arrive[sd]|born|starts?|begins?|ends?|expires?|posted|held"
    r"|(?:week|day|night|morning|evening) of)[ ]$",
    re.IGNORECASE,
)
_RATIO = re.compile(
    r"(?:\b(?:ratio|scale|score|odds|aspect|rate)(?: (?:of|is|was))?[ :]{1,2}|[比例分率数]例?[是为：: ]{0,2})$"
)
_LASTED = re.compile(r"(?:[过近达约满共花用活长]了?|历经|历时)$")


def _date(match: re.Match[str], language: Language) -> str:
    year, month, day, before_time = match.group(1, 3, 4, 5)
    return language.date(year, int(month), int(day)) + (" " if before_time else "")


def _slash_date(match: re.Match[str], language: Language) -> str:
    """Month first, as in America, unless that is impossible."""
    month, day, year = int(match.group(1)), int(match.group(2)), match.group(3)
    if month > 12:
        month, day = day, month
    return language.date(year, month, day) if 1 <= month <= 12 and 1 <= day <= 31 else match.group()


def _dotted_date(match: re.Match[str], language: Language) -> str:
    """Day first, as in Europe."""
    day, month, year = int(match.group(1)), int(match.group(2)), match.group(3)
    return language.date(year, month, day) if 1 <= month <= 12 and 1 <= day <= 31 else match.group()


def _year_month(match: re.Match[str], language: Language) -> str:
    year, month = match.group(1), int(match.group(2))
    if language is MANDARIN:
        return f"{language.year(year)}年{language.number(str(month))}月"
    return f"{MONTHS[month - 1]} {language.year(year)}"


def _month_day(match: re.Match[str], language: Language) -> str:
    """08-08 and 08/15, in Mandarin."""
    month, day = match.group(1, 2)
    return (
        language.date(None, int(month), int(day))
        if language is MANDARIN and "0" in month[0] + day[0]
        else match.group()
    )


def _short_date(match: re.Match[str], language: Language) -> str:
    """`on 3/15`; `9/11` is the day of that name."""
    month, day = int(match.group(1)), int(match.group(2))
    if language is MANDARIN or not (1 <= month <= 12 and 1 <= day <= 31):
        return match.group()
    if (month, day) == (9, 11):
        return "nine eleven"
    return language.date(None, month, day) if _ON_A_DAY.search(before(match)) else match.group()


def _month_first(match: re.Match[str], language: Language) -> str:
    name, day, year = match.group(1, 2, 3)
    return language.date(year, _month(name), int(day)) if 1 <= int(day) <= 31 else match.group()


def _day_first(match: re.Match[str], language: Language) -> str:
    day, name, year = match.group(1, 2, 3)
    if not 1 <= int(day) <= 31:
        return match.group()
    if language is MANDARIN:
        return language.date(year, _month(name), int(day))
    the = "" if before(match, 4).lower() == "the " else "the "
    tail = f", {ENGLISH.year(year)}" if year else ""
    return f"{the}{ENGLISH.ordinal(int(day))} of {MONTHS[_month(name) - 1]}{tail}"


def _month_year(match: re.Match[str], language: Language) -> str:
    return f"{MONTHS[_month(match.group(1)) - 1]} {ENGLISH.year(match.group(2))}"


def _month(name: str) -> int:
    return next(number for number, month in enumerate(MONTHS, 1) if month[:3] == name[:3].capitalize())


def _time(match: re.Match[str], language: Language) -> str:
    hour, minute, second, half = match.group(1, 2, 3, 4)
    second = second or None
    if second is None and half is None and _RATIO.search(before(match)):
        return language.number(hour) + language.words["score"] + language.number(minute)
    return language.time(int(hour), int(minute), second, half and half.lower())


def _hour(match: re.Match[str], language: Language) -> str:
    return language.time(int(match.group(1)), 0, None, match.group(2).lower())


def _duration(match: re.Match[str], language: Language) -> str:
    """`2h30m`, `1h 5min 3s`."""
    parts = [
        language.unit(number, unit)
        for number, unit in zip(match.group(1, 2, 3), ("h", "min", "s"), strict=True)
        if number
    ]
    return ("" if language is MANDARIN else " ").join(parts)


def _mandarin_years(match: re.Match[str], language: Language) -> str:
    if _LASTED.search(before(match, 4)) and not match.group(2):
        return match.group()
    return MANDARIN.digits(match.group(1)) + ("到" + MANDARIN.digits(match.group(2)) if match.group(2) else "")


def _decade(match: re.Match[str], language: Language) -> str:
    return english_plural(ENGLISH.year(match.group(1)))


def _short_decade(match: re.Match[str], language: Language) -> str:
    if match.group(2) == "00":
        return match.group(1) + "two thousands"
    return match.group(1) + english_plural(ENGLISH.number(match.group(2)))


def _short_year(match: re.Match[str], language: Language) -> str:
    """born in '98."""
    digits = match.group(1)
    if language is MANDARIN:
        return MANDARIN.digits(digits)
    return "oh " + ENGLISH.number(digits[1]) if digits[0] == "0" else ENGLISH.number(digits)


def _year(match: re.Match[str], language: Language) -> str:
    year = int(match.group())
    stated = _IN_A_YEAR.search(before(match))
    if language is MANDARIN or is_counted(match) or not (1900 <= year < 2100 or stated):
        return match.group()
    return language.year(match.group())


def _to(match: re.Match[str], language: Language) -> str:
    return language.words["to"]


def _season(match: re.Match[str], language: Language) -> str:
    """2020/21."""
    first, second = match.group(1, 2)
    if int(second) != (int(first) + 1) % 100:
        return match.group()
    joint = "到" if language is MANDARIN else " "
    return language.year(first) + joint + (language.digits if language is MANDARIN else language.number)(second)


def _mandarin_digits(match: re.Match[str], language: Language) -> str:
    return MANDARIN.digits(match.group())


def _without_zeros(match: re.Match[str], language: Language) -> str:
    return match.group(1) or match.group(2)


def _from(match: re.Match[str], language: Language) -> str:
    return match.group(1) + language.words["to"]


RULES: tuple[Rule, ...] = (
    rule(r"(?<=[0-9](?:st|nd|rd|th))[-–](?=[0-9]{1,3}(?:st|nd|rd|th)\b)", _to),
    rule(rf"{START}({_DAY_ONCE}) ?[-~–—至到] ?(?={_DAY_ONCE}(?![0-9]))", _from),
    rule(rf"{START}{_DAY}(?![0-9]|[-/.][0-9])(T(?=[0-9]))?", _date),
    rule(rf"{START}([0-9]{{1,2}})/([0-9]{{1,2}})/([12][0-9]{{3}})(?![0-9/])", _slash_date),
    rule(rf"{START}([0-9]{{1,2}})-([0-9]{{1,2}})-((?:19|20)[0-9]{{2}})(?![0-9-])", _slash_date),
    rule(rf"{START}([0-9]{{1,2}})\.([0-9]{{1,2}})\.((?:19|20)[0-9]{{2}})(?![0-9.])", _dotted_date),
    rule(rf"{START}((?:19|20)[0-9]{{2}})[-/](0[1-9])(?![0-9/-]|[.,][0-9])", _year_month),
    rule(rf"{START}((?:19|20)[0-9]{{2}})/(1[0-2])(?![0-9/-]|[.,][0-9])", _year_month),
    rule(rf"{START}(0[1-9]|1[0-2])[-/](0[1-9]|[12][0-9]|3[01])(?![0-9/-]|[.,][0-9])", _month_day),
    rule(rf"{START}([0-9]{{1,2}})/([0-9]{{1,2}})(?![0-9/])", _short_date),
    rule(rf"{START}(1[0-2]|0?[1-9])\.([0-5][0-9])() ?{_HALF}", _time),
    rule(rf"\b({_MONTH}) ([0-9]{{1,2}})(?:st|nd|rd|th)?(?:,? ([12][0-9]{{3}}))?(?![0-9:]|[.,][0-9])", _month_first),
    rule(rf"{START}([0-9]{{1,2}})(?:st|nd|rd|th)? (?:of )?({_MONTH})(?![a-z])(?:,? ({_A_YEAR}))?", _day_first),
    rule(rf"\b({_MONTH}),? ({_A_YEAR})", _month_year),
    rule(r"(?<=:[0-5][0-9]) ?[-~–—] ?(?=[0-9]{1,2}:[0-5][0-9]|次日|翌日|第二天)", _to),
    rule(rf"{START}{_CLOCK}", _time),
    rule(r"(?<=[AaPpMm.][Mm.]) ?[-–—] ?(?=1?[0-9](?::[0-5][0-9])? ?[AaPp]\.?[Mm])", _to),
    rule(rf"{START}(1[0-2]|[1-9])[-–](?=(?:1[0-2]|[1-9])(?::[0-5][0-9])? ?{_HALF})", _from),
    rule(rf"{START}(1[0-2]|[1-9]) ?{_HALF}", _hour),
    rule(rf"{START}((?:19|20)[0-9]{{2}})[/-]([0-9]{{2}})(?![0-9/-]|[.,][0-9])", _season),
    rule(rf"{START}([0-9]{{1,3}})h ?([0-9]{{1,2}})m(?:in)?(?: ?([0-9]{{1,2}})s)?(?![A-Za-z0-9])", _duration),
    rule(
        r"(?<![0-9.,])(?:19[5-9]|20[0-4])[0-9](?=[款版级届春夏秋冬]|财年|赛季|北京|上海|杭州|巴黎|东京|世界|奥运|全国|中国|欧洲杯)",
        _mandarin_digits,
    ),
    rule(r"(?<![0-9.,])([12][0-9]{3}) ?[-~–—到至] ?([12][0-9]{3})(?=年)", _mandarin_years),
    rule(
        r"(?<![0-9.,])([12][0-9]{3})(?: ?[-~–—到至] ?([12][0-9]{3}))?(?=年(?![前后来间以多]|的历史|时间)|学年)",
        _mandarin_years,
    ),
    rule(r"(?<=[0-9][米秒])[0-9]{2}(?![0-9个人厘毫])", _mandarin_digits),
    rule(r"(?<![0-9])[0-9][05](?=后(?![面来天期年])|[、/和及][0-9][05]后)", _mandarin_digits),
    rule(r"(?<![0-9.,:])0([1-9])(?=月|日|号)|(?<=第)0{1,3}([1-9][0-9]{0,3})(?![0-9])", _without_zeros),
    rule(r"(?<![0-9.,])((?:1[1-9]|20)[0-9]0)'?s(?![A-Za-z])", _decade),
    rule(r"(?<![A-Za-z0-9])['’]([0-9]{2})(?![0-9A-Za-z'’])", _short_year),
    rule(r"(?<![A-Za-z0-9])()['’]([02-9]0)s(?![A-Za-z])", _short_decade),
    rule(r"\b((?:the|his|her|their|my|your|our|early|late|mid)[ -])'?([02-9]0)'?s(?![A-Za-z])", _short_decade),
)

YEARS: tuple[Rule, ...] = (rule(r"(?<![0-9.,])(?:1[0-9]|20)[0-9]{2}(?![0-9]|[.,][0-9])", _year),)
"""Applied after all more specific rules."""
