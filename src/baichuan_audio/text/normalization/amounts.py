"""Amounts: money, percentages, ranges, scores, units, fractions, ordinals."""

from __future__ import annotations

import re

from .languages import ENGLISH, MANDARIN, Language
from .number_words import english_plural
from .rules import DASH, NUMBER, PLAIN, SIGNED, Rule, after, before, nothing, rule, space
from .units import CURRENCIES, CURRENCY_CODES, UNITS

_CURRENCY = "|".join(re.escape(sign) for sign in sorted(CURRENCIES, key=len, reverse=True))
_CODES = "|".join(CURRENCY_CODES)
_SCALE = r"(?: ?(thousand|million|billion|trillion|百万|千万|万亿|万|亿)|(bn|mn|tn|[KkMBbm])(?![A-Za-z]))"
_A_SCALE = "[KkMBbm万亿]"
_SCALE_LETTERS = {
    "k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "tn": "trillion",
}  # fmt: skip
_CURRENCY_NAME = (
    r"(?: ?(?:美元|美金|欧元|英镑|日元|港币|港元|人民币|元|块钱|块|dollars?|euros?|pounds?|yuan)(?![a-z]))?"
)
_LONG_UNITS = "|".join(re.escape(unit) for unit in sorted(UNITS.keys() - {"in"}, key=len, reverse=True))
_OUTCOME = re.compile(r" ?(?:获胜|取胜|胜出|胜|战胜|击败|大胜|险胜|完胜|惜败|负|不敌|领先|落后|战平|平局|逼平|击退)")
_PLAYED = re.compile(
    r"(?:比分|以|比赛|决赛)[是为：: ]{0,2}$"
    r"|\b(?:won|wins?|lost|lose|beat|leads?|led|scored?|tied|drew|victory|defeat)(?: (?:by|of|was|is|them|it|game))?"
    r"[: ]{1,2}$"
)
_ENDS_A_NAME, _SIZE = re.compile("[A-Za-z]-?$"), re.compile("[A-Z](?![A-Za-z])")
_PERIODS = "second|minute|hour|day|night|week|month|quarter|year|person|page|item|piece|unit|seat|user|ticket|word"
_EACH = rf"({_LONG_UNITS}|{_PERIODS})(?![A-Za-z0-9²³/])"
_PEOPLE_AND_THINGS = (
    "users|people|views|downloads|subscribers|followers|dollars|euros|parameters|tokens|records|rows|customers|visitors"
    "|copies|likes|streams|players|readers|members|fans|jobs|words|samples|images|requests|units|homes|years"
)
_MARKS = re.compile(
    r"\b(?:got|gets?|scored?|scores|rated|rating|grade|mark|gave (?:it|them|him|her))(?: (?:of|is|was|a))?[ :]{1,2}$"
)
_PLURAL = re.compile(r" (?!cups|inches|miles|pounds)[a-z]{3,15}s\b")
_SQUARES = {"m2": "m²", "m3": "m³", "km2": "km²", "cm2": "cm²", "cm3": "cm³"}


def _money(match: re.Match[str], language: Language) -> str:
    sign, symbol, amount, scale, letter = match.group(1, 2, 3, 4, 5)
    scale = scale or _SCALE_LETTERS.get((letter or "").lower(), "")
    return language.money(symbol, (sign or "") + ("0" + amount if amount.startswith(".") else amount), scale)


def _money_range(match: re.Match[str], language: Language) -> str:
    symbol, low, high = match.group(1, 2, 3)
    return f"{language.number(low)}{language.words['to']}{language.money(symbol, high, '')}"


def _money_behind(match: re.Match[str], language: Language) -> str:
    return language.money(match.group(2), match.group(1), "")


def _money_code(match: re.Match[str], language: Language) -> str:
    return language.money(CURRENCY_CODES[match.group(1)], match.group(2), "")


def _code_behind(match: re.Match[str], language: Language) -> str:
    return language.money(CURRENCY_CODES[match.group(2)], match.group(1), "")


def _cents(match: re.Match[str], language: Language) -> str:
    number = match.group(1)
    if language is MANDARIN:
        return language.number(number) + "美分"
    return f"{language.number(number)} {'cent' if number == '1' else 'cents'}"


def _percent(match: re.Match[str], language: Language) -> str:
    return language.percent(match.group(1), match.group(2))


def _percent_range(match: re.Match[str], language: Language) -> str:
    low, high = match.group(1, 2)
    if language is MANDARIN:
        return f"{language.percent(low)}到{language.percent(high)}"
    return f"{language.number(low)} to {language.percent(high)}"


def _unit(match: re.Match[str], language: Language) -> str:
    number, unit = match.group(1, 2)
    return language.unit(number, _SQUARES.get(unit, unit))


def _feet_and_inches(match: re.Match[str], language: Language) -> str:
    """6'2" is a length, 3'20" a time."""
    joint = "" if language is MANDARIN else " "
    units = ("ft", "in") if int(match.group(2)) < 12 else ("min", "s")
    return language.unit(match.group(1), units[0]) + joint + language.unit(match.group(2), units[1])


def _angle(match: re.Match[str], language: Language) -> str:
    """39°54′20″."""
    joint = "" if language is MANDARIN else " "
    names = ("度", "分", "秒") if language is MANDARIN else ("degrees", "minutes", "seconds")
    parts = zip(match.group(1, 2, 3), names, strict=True)
    return joint.join(f"{language.number(number)}{joint}{name}" for number, name in parts if number)


def _scientific(match: re.Match[str], language: Language) -> str:
    """6.02e23 as 6.02×10^23."""
    return f"{match.group(1)}×10^{match.group(2)}"


def _ten_thousands(match: re.Match[str], language: Language) -> str:
    """300w, as people write 300万 in chats."""
    return f"{match.group(1)}万" if language is MANDARIN else match.group()


def _per(match: re.Match[str], language: Language) -> str:
    return "每"


def _per_unit(match: re.Match[str], language: Language) -> str:
    """$5/month, 9.99€/kg, 60 frames/s: the amount stays for later rules."""
    amount, unit = match.group(1, 2)
    if language is MANDARIN:
        return f"{amount}每{UNITS[unit][2]}" if unit in UNITS else match.group()
    return f"{amount} per {UNITS[unit][0] if unit in UNITS else unit}"


def _unit_range(match: re.Match[str], language: Language) -> str:
    """The dash of 10kg-15kg."""
    return match.group(1) + language.words["to"]


def _scaled(match: re.Match[str], language: Language) -> str:
    """5bn, 3.5M users."""
    return f"{match.group(1)} {_SCALE_LETTERS[match.group(2).lower()]}" if language is ENGLISH else match.group()


def _decimal_comma(match: re.Match[str], language: Language) -> str:
    """€1.099,00 and 1.099,00 € as €1099.00."""
    before_it, whole, cents, behind = match.group(1, 2, 3, 4)
    return f"{before_it or behind}{whole.replace('.', '')}.{cents}"


def _tens(match: re.Match[str], language: Language) -> str:
    """100s of people."""
    return english_plural(ENGLISH.number(match.group(1)).removeprefix("one "))


def _times(match: re.Match[str], language: Language) -> str:
    """3x as fast; 2x + 1 is algebra."""
    number = language.number(match.group(1))
    return f"{number}倍" if language is MANDARIN else f"{number} times"


def _has_a_name(below: int) -> bool:
    return below <= 100 or below in (1000, 10_000, 1_000_000)


def _fraction(match: re.Match[str], language: Language) -> str:
    whole, above, below = match.group(1, 2, 3)
    if int(below) == 0 or (max(len(above), len(below)) > 3 and not _has_a_name(int(below))):
        return match.group().replace("/", language.words["over"])
    if language is MANDARIN:
        return (f"{language.number(whole)}又" if whole else "") + language.fraction(above, below)
    proper = 0 < int(above) < int(below) and _has_a_name(int(below))
    words = language.fraction(above, below) if proper else f"{language.number(above)} over {language.number(below)}"
    if above == below and whole is None:  # fifty fifty
        words = f"{language.number(above)} {language.number(below)}"
    if match.group() == "24/7":
        words = "twenty four seven"
    if whole and proper:
        return f"{language.number(whole)} and {'a' + words[3:] if words.startswith('one ') else words}"
    return f"{language.number(whole)} {words}" if whole else words


def _out_of(match: re.Match[str], language: Language) -> str:
    """3.85/4.00, got 15/20, 9/10 dentists."""
    above, below = match.group(1, 2)
    if language is MANDARIN:
        return f"{language.number(above)}，满分{language.number(below)}" if "." in above else match.group()
    given = _MARKS.search(before(match)) and not after(match).startswith(" of")
    marked = given or (below in ("5", "10", "100") and _PLURAL.match(after(match, 20)))
    is_mark = "." in above or (above != "1" and marked)
    return f"{language.number(above)} out of {language.number(below)}" if is_mark else match.group()


def _part(match: re.Match[str], language: Language) -> str:
    """1/100th."""
    return language.fraction(match.group(1), match.group(2))


def _per_amount(match: re.Match[str], language: Language) -> str:
    """The stroke of 250 kcal/100 g."""
    return "每" if language is MANDARIN else " per "


def _fraction_of_unit(match: re.Match[str], language: Language) -> str:
    """2 1/2 tsp."""
    one, many, mandarin = UNITS[match.group(4)]
    if language is MANDARIN:
        return _fraction(match, language) + mandarin
    return f"{_fraction(match, language)} {many if match.group(1) else one}"


def _ordinal(match: re.Match[str], language: Language) -> str:
    return ENGLISH.ordinal(int(match.group(1)))


def _range(match: re.Match[str], language: Language) -> str:
    """3-5 is a range; 5 - 3 with spaces, or before an equals sign, is a difference; 2-1 won is a score; of a name like
    Model2.5-7B neither."""
    low, dash, high = match.group(1, 2, 3)
    if low == high == "50" and dash == "-" and language is ENGLISH:
        return f"{low} {high}"
    if dash == "-" and _ENDS_A_NAME.search(before(match, 2)) and _SIZE.match(after(match, 2)):
        return f"{low} {high}"
    if dash == " - " or (dash == "-" and re.match(r" ?=", after(match, 2))):
        return low + language.words["less"] + high
    scored = _PLAYED.search(before(match)) or _OUTCOME.match(after(match, 4))
    return low + language.words["score" if scored else "to"] + high


def _blood_pressure(match: re.Match[str], language: Language) -> str:
    high, low = match.group(1, 2)
    return f"{language.number(high)}，{low}" if language is MANDARIN else f"{language.number(high)} over {low}"


def _to(match: re.Match[str], language: Language) -> str:
    return language.words["to"]


def _spaced_thousands(match: re.Match[str], language: Language) -> str:
    return match.group().replace(" ", "")


RULES: tuple[Rule, ...] = (
    rule(r"(?<=[A-Za-z])\.(?=[0-9])", space),
    rule(r"(€) ?([0-9]{1,3}(?:\.[0-9]{3}){1,4}),([0-9]{2})(?![0-9])()", _decimal_comma),
    rule(r"()(?<![0-9.,€])([0-9]{1,3}(?:\.[0-9]{3}){1,4}),([0-9]{2}) ?(€)", _decimal_comma),
    rule(r"(?<![0-9A-Za-z.,])(10{1,3})s(?= of )", _tens),
    rule(r"(?<![0-9.,] )(?<![0-9.,])[1-9][0-9]{0,2}(?: [0-9]{3}){1,6}(?! ?[0-9]|[.,][0-9])", _spaced_thousands),
    rule(rf"(?<=[0-9]{_A_SCALE})[-~–—](?={_CURRENCY} ?[0-9])", _to),
    rule(rf"((?:{_CURRENCY}) ?{NUMBER}[KkMB]?|{NUMBER} ?[€£$¥])/{_EACH}", _per_unit),
    rule(rf"((?<![0-9.,]){NUMBER} [a-z]{{3,14}})/{_EACH}", _per_unit),
    rule(rf"((?<![0-9./]){NUMBER})/({_PERIODS})(?![A-Za-z0-9])", _per_unit),
    rule(rf"(?<=[0-9])( ?(?:{_LONG_UNITS}))[-~–—](?=-?[0-9])", _unit_range),
    rule(rf"({_CURRENCY}) ?({NUMBER})[-~–—](?:(?:{_CURRENCY}) ?)?({NUMBER}){_CURRENCY_NAME}", _money_range),
    rule(rf"(-?)({_CURRENCY}) ?(-?{NUMBER}|\.[0-9]{{1,4}}){_SCALE}?{_CURRENCY_NAME}", _money),
    rule(rf"({SIGNED}) ?([€£$¥])(?![0-9])", _money_behind),
    rule(rf"({SIGNED}) ?[¢￠]", _cents),
    rule(rf"(?<![A-Za-z])({_CODES}) ?({NUMBER})", _money_code),
    rule(rf"({SIGNED}) ?({_CODES})(?![A-Za-z])", _code_behind),
    rule(rf"(?<![0-9.,-])({NUMBER})%?{DASH}({NUMBER}) ?%", _percent_range),
    rule(rf"({SIGNED}) ?([%‰])", _percent),
    rule(rf"(?<![0-9.,]){PLAIN}(-|–|—|~| - | – | — ){PLAIN}(?![0-9]|-[0-9])", _range),
    rule(r"(?:(?<=[0-9][年月日号点时分元度岁米])|(?<=[周期拜][一二三四五六日天]))[-~–—](?=[0-9周星礼])", _to),
    rule(r"(?<![0-9.])([0-9]{1,3})°([0-9]{1,2})[′'](?:([0-9]{1,2})[″\"])?", _angle),
    rule(r"(?<![0-9A-Za-z.])([0-9]{1,3}\.[0-9]{1,15})[eE]([-+]?[0-9]{1,3})(?![0-9A-Za-z])", _scientific),
    rule(r"(?<![0-9A-Za-z.-])([0-9]{1,3})(?:e|E(?=[-+]))([-+]?[0-9]{1,3})(?![0-9A-Za-z-])", _scientific),
    rule(r"(?<![0-9.,])([0-9]{1,6}(?:\.[0-9]{1,3})?)[wW](?=[+个人元块张次份名粉播点])", _ten_thousands),
    rule(r"(?<=[0-9万亿][元块次米升斤克度])/(?=[\u4e00-\u9fff])", _per),
    rule(r"(?<=[0-9])['′](?= ?(?:minute|分钟))", nothing),
    rule(r"(?<![0-9A-Za-z'])([0-9]{1,2})['′] ?([0-9]{1,2})(?:\"|″|'')", _feet_and_inches),
    rule(rf"({NUMBER}) ?(?:ft|feet|foot) ([0-9]{{1,2}}) ?in(?:ches)?(?![A-Za-z])", _feet_and_inches),
    rule(r"(?:(?<=kcal)|(?<=kJ)|(?<=mg)|(?<=g))/(?=100 ?(?:g|m[lL])(?![A-Za-z]))", _per_amount),
    rule(r"(?<![0-9./])([0-9]{1,2})/([1-9][0-9]{1,3})(?:st|nd|rd|th)s?(?![A-Za-z])", _part),
    rule(rf"(?<![0-9./,]){PLAIN}/([1-9][0-9]{{0,2}}(?:\.[0-9]{{1,2}})?)(?![0-9/]|\.[0-9])", _out_of),
    rule(r"(?<![0-9./])([0-9]{2,3})/([0-9]{2,3})(?= ?(?:mmHg|毫米汞柱))", _blood_pressure),
    rule(
        rf"(?<![0-9./])(?:([0-9]{{1,6}}) )?([0-9]{{1,2}})/([1-9][0-9]?) ?({_LONG_UNITS})(?![A-Za-z0-9²³/])",
        _fraction_of_unit,
    ),
    rule(rf"(?<!\^)(?<!\^-)({SIGNED}) ?(m2|m3|km2|cm2|cm3|{_LONG_UNITS})(?![A-Za-z0-9²³]|/(?![0-9])|'[a-z])", _unit),
    rule(r"(?<![0-9./])(?:([0-9]{1,6}) )?([0-9]{1,9})/([0-9]{1,9})(?![0-9/])", _fraction),
    rule(r"(?<![0-9.,])([0-9]{1,12})(?:st|nd|rd|th)(?![A-Za-z])", _ordinal),
    rule(rf"(?<![0-9A-Za-z.,])({NUMBER})(bn|mn|tn)(?![A-Za-z0-9])", _scaled),
    rule(rf"(?<![0-9A-Za-z.,])({NUMBER})([KkMB])(?=\+? (?:[a-z]{{4,10}} ){{0,2}}(?:{_PEOPLE_AND_THINGS})\b)", _scaled),
    rule(r"(?<![0-9A-Za-z.=+*/^(-])(?<![=+*/^-] )([0-9]{1,4}(?:\.[0-9]{1,2})?)[xX](?![A-Za-z0-9]| ?[-+=*/^)])", _times),
)
