"""Words for numbers in English and Mandarin. Numbers are given as written: `1,234.5`, `007`, `-3`."""

from __future__ import annotations

from typing import ClassVar, Protocol

from . import number_words
from .units import CURRENCIES, UNITS

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


class Language(Protocol):
    """The number words and phrases of one language."""

    name: ClassVar[str]
    words: ClassVar[dict[str, str]]

    def digits(self, digits: str) -> str: ...
    def number(self, number: str) -> str: ...
    def year(self, year: str) -> str: ...
    def date(self, year: str | None, month: int, day: int) -> str: ...
    def time(self, hour: int, minute: int, second: str | None, half: str | None) -> str: ...
    def money(self, symbol: str, amount: str, scale: str) -> str: ...
    def percent(self, number: str, sign: str = "%") -> str: ...
    def unit(self, number: str, unit: str) -> str: ...
    def fraction(self, above: str, below: str) -> str: ...


def _split(number: str) -> tuple[bool, str, str]:
    """Sign, integer digits and fractional digits of a number as written."""
    plain = number.replace(",", "").lstrip("-+")
    whole, _, behind = plain.partition(".")
    return number.startswith("-"), whole or "0", behind


class English:
    """English."""

    name: ClassVar[str] = "en"
    # fmt: off
    words: ClassVar[dict[str, str]] = {
        "dot": " dot ", "at": " at ", "_": " underscore ", "-": " dash ", "+": " plus ", "to": " to ",
        "minus": "minus ", "plus": " plus ", "less": " minus ", "times": " times ", "over": " divided by ",
        "equals": " equals ", "and": " and ", "about": "about ", "#": "number ", "power": " to the power of ",
        "point": " point ", "<": " less than ", ">": " greater than ", "score": " to ",
        "code": "Code left out.", "stop": ".", "pause": ", ",
        "at least": " greater than or equal to ", "at most": " less than or equal to ", "differs": " is not equal to ",
        "about equal": " is approximately ", "plus or minus": " plus or minus ", "infinity": " infinity ",
        "root": "the square root of ", "fraction": "{0} over {1}", "raised": " to the power of {0} ",
        "nth root": "the root {0} of {1}", "pi": " pi ", "port": " port ",
    }
    # fmt: on

    def digits(self, digits: str) -> str:
        return number_words.english_digits(digits)

    def number(self, number: str) -> str:
        negative, whole, behind = _split(number)
        if len(whole) > number_words.MOST_DIGITS or (len(whole) > 1 and whole[0] == "0"):
            words = self.digits(whole)
        else:
            words = number_words.english_number(int(whole))
        return ("minus " if negative else "") + words + (f" point {self.digits(behind)}" if behind else "")

    def ordinal(self, number: int) -> str:
        return number_words.english_ordinal(number)

    def year(self, year: str) -> str:
        return number_words.english_year(int(year))

    def date(self, year: str | None, month: int, day: int) -> str:
        return f"{MONTHS[month - 1]} {self.ordinal(day)}" + (f", {self.year(year)}" if year else "")

    def time(self, hour: int, minute: int, second: str | None, half: str | None) -> str:
        words = number_words.english_number(hour)
        if minute:
            words += f" {'oh ' if minute < 10 else ''}{number_words.english_number(minute)}"
        elif half is None:
            words += " o'clock" if hour <= 12 else " hundred"
        if second is not None:
            words += f" and {self.unit(str(int(second)), 's')}"
        return words + (f" {half.upper()}M" if half else "")

    def money(self, symbol: str, amount: str, scale: str) -> str:
        one, many, cent = CURRENCIES[symbol].english
        negative, whole, behind = _split(amount)
        if scale:
            return f"{self.number(amount)} {scale} {many}"
        sign = "minus " if negative else ""
        if len(behind) != 2 or not cent:
            return f"{self.number(amount)} {one if self._is_one(amount) else many}"
        parts = [] if int(whole) == 0 and int(behind) else [f"{self.number(whole)} {one if whole == '1' else many}"]
        if int(behind):
            cents = cent if int(behind) == 1 or not cent.endswith("t") else cent + "s"
            parts.append(f"{number_words.english_number(int(behind))} {cents}")
        return sign + " and ".join(parts)

    def percent(self, number: str, sign: str = "%") -> str:
        return f"{self.number(number)} {'percent' if sign == '%' else 'per mille'}"

    def unit(self, number: str, unit: str) -> str:
        one, many, _ = UNITS[unit]
        return f"{self.number(number)} {one if self._is_one(number) else many}"

    def fraction(self, above: str, below: str) -> str:
        count, parts = int(above), int(below)
        name = {2: "half", 4: "quarter"}.get(parts) or number_words.english_ordinal(parts)
        if count != 1:
            name = "halves" if parts == 2 else name + "s"
        return f"{number_words.english_number(count)} {name}"

    @staticmethod
    def _is_one(number: str) -> bool:
        return number.lstrip("-+") == "1"


class Mandarin:
    """Mandarin in simplified characters."""

    name: ClassVar[str] = "zh"
    # fmt: off
    words: ClassVar[dict[str, str]] = {
        "dot": "点", "at": "艾特", "_": "下划线", "-": "杠", "+": "加", "to": "到", "minus": "负", "plus": "加",
        "less": "减", "times": "乘", "over": "除以", "equals": "等于", "and": "和", "about": "约", "#": "",
        "power": "的", "point": "点", "<": "小于", ">": "大于", "score": "比", "code": "代码略。", "stop": "。",
        "pause": "，", "at least": "大于等于", "at most": "小于等于", "differs": "不等于", "about equal": "约等于",
        "plus or minus": "正负", "infinity": "无穷大", "root": "根号", "fraction": "{1}分之{0}",
        "raised": "的{0}次方", "nth root": "{1}的{0}次方根", "pi": "派", "port": "端口",
    }
    # fmt: on

    def digits(self, digits: str) -> str:
        return number_words.mandarin_digits(digits)

    def number(self, number: str) -> str:
        negative, whole, behind = _split(number)
        if len(whole) > number_words.MOST_DIGITS or (len(whole) > 1 and whole[0] == "0"):
            words = self.digits(whole)
        else:
            words = number_words.mandarin_number(int(whole))
        return ("负" if negative else "") + words + (f"点{self.digits(behind)}" if behind else "")

    def year(self, year: str) -> str:
        return self.digits(year)

    def date(self, year: str | None, month: int, day: int) -> str:
        words = f"{number_words.mandarin_number(month)}月{number_words.mandarin_number(day)}日"
        return f"{self.digits(year)}年{words}" if year else words

    def time(self, hour: int, minute: int, second: str | None, half: str | None) -> str:
        words = {"a": "上午", "p": "下午", None: ""}[half] + number_words.mandarin_number(hour) + "点"
        if minute or second:
            words += ("零" if 0 < minute < 10 else "") + number_words.mandarin_number(minute) + "分"
        return words + (f"{number_words.mandarin_number(int(second))}秒" if second else "")

    def money(self, symbol: str, amount: str, scale: str) -> str:
        negative, whole, behind = _split(amount)
        behind = behind.rstrip("0")
        scale = {"thousand": "千", "million": "百万", "billion": "十亿", "trillion": "万亿"}.get(scale, scale)
        plain = ("-" if negative else "") + whole + (f".{behind}" if behind else "")
        return self.number(plain) + scale + CURRENCIES[symbol].mandarin

    def percent(self, number: str, sign: str = "%") -> str:
        sign = "百分之" if sign == "%" else "千分之"
        return ("负" if number.startswith("-") else "") + sign + self.number(number.lstrip("-"))

    def unit(self, number: str, unit: str) -> str:
        return self.number(number) + UNITS[unit][2]

    def fraction(self, above: str, below: str) -> str:
        whole = {"100": "百", "1000": "千", "10000": "万"}.get(below) or self.number(below)
        return f"{whole}分之{self.number(above)}"


ENGLISH, MANDARIN = English(), Mandarin()
