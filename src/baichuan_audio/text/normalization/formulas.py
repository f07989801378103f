"""Signs: powers, sums, comparisons, and names of signs beside numbers."""

from __future__ import annotations

import re

from .languages import MANDARIN, Language
from .latex import GREEK
from .rules import Rule, after, rule, space

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_OPERATORS = {"+": "plus", "×": "times", "*": "times", "÷": "over", "/": "over", "=": "equals", "-": "less"}
_COMPARISONS = {
    "≥": "at least", "⩾": "at least", ">=": "at least", "≤": "at most", "⩽": "at most", "<=": "at most",
    "≠": "differs", "!=": "differs", "≈": "about equal", "≒": "about equal", "±": "plus or minus", ">": ">", "<": "<",
    "≡": "equals", "==": "equals", "∞": "infinity",
}  # fmt: skip
_GREEK = {
    "α": "阿尔法", "β": "贝塔", "γ": "伽马", "δ": "德尔塔", "ε": "艾普西隆", "η": "伊塔", "θ": "西塔", "λ": "拉姆达",
    "μ": "缪", "ρ": "柔", "σ": "西格玛", "τ": "陶", "φ": "斐", "ψ": "普西", "ω": "欧米伽", "Γ": "伽马",
    "Δ": "德尔塔", "Θ": "西塔", "Λ": "拉姆达", "Σ": "西格玛", "Φ": "斐", "Ψ": "普西", "Ω": "欧米伽",
}  # fmt: skip
_GREEK_NAMES = {letter: name.lower() for name, letter in GREEK.items() if not name.startswith("var")}
_SIGN_NAMES = {"-": "minus", "+": "plus", "~": "about", "≈": "about"}


def _operator(match: re.Match[str], language: Language) -> str:
    word = language.words[_OPERATORS.get(match.group(1), "power")]  # ** is a power
    return word if language is MANDARIN else f" {word.strip()} "


def _minus(match: re.Match[str], language: Language) -> str:
    return language.words["less"]


def _power(match: re.Match[str], language: Language) -> str:
    power = match.group(1).translate(_SUPERSCRIPTS)
    if language is MANDARIN:
        return {"2": "的平方", "3": "的立方"}.get(power, f"的{language.number(power)}次方")
    return {"2": " squared", "3": " cubed"}.get(power, language.words["power"] + language.number(power))


def _comparison(match: re.Match[str], language: Language) -> str:
    word = language.words[_COMPARISONS[match.group(1)]]
    return word.strip() if language is MANDARIN else f" {word.strip()} "


def _bound(match: re.Match[str], language: Language) -> str:
    """<5, with nothing before it."""
    return _comparison(match, language).lstrip()


def _root(match: re.Match[str], language: Language) -> str:
    return language.words["root"]


def _pi(match: re.Match[str], language: Language) -> str:
    return language.words["pi"]


def _sign(match: re.Match[str], language: Language) -> str:
    return language.words[_SIGN_NAMES[match.group()]]


def _more(match: re.Match[str], language: Language) -> str:
    """1000+条."""
    return "多" if language is MANDARIN else " plus "


def _greek(match: re.Match[str], language: Language) -> str:
    return _GREEK[match.group()] if language is MANDARIN else _GREEK_NAMES[match.group()]


def _pluses(match: re.Match[str], language: Language) -> str:
    """C++, A+."""
    return ("加" if language is MANDARIN else " plus") * len(match.group())


def _between(match: re.Match[str], language: Language) -> str:
    return language.words["score"]


def _by(match: re.Match[str], language: Language) -> str:
    low, high = match.group(1, 2)
    if language is MANDARIN:
        return f"{language.number(low)}乘{language.number(high)}"
    return f"{language.number(low)} by {language.number(high)}"


def _of_sizes(match: re.Match[str], language: Language) -> str:
    """3 cm x 4 cm; but 3 x 10^8 is a product."""
    if re.match(r"10 ?\^", after(match, 4)):
        return " × "
    return "乘" if language is MANDARIN else " by "


_OPERAND_BEFORE = r"(?<=[0-9A-Za-z)\u4e00-\u9fff])"
RULES: tuple[Rule, ...] = (
    rule(r"(?<=[⁰¹²³⁴⁵⁶⁷⁸⁹)])(-)(?=[0-9A-Za-z(])|(?<=[0-9A-Za-z])-(?=[0-9A-Za-z]{1,9} ?=)", _minus),
    rule(r"(?<=[0-9A-Za-z)]) ?\^ ?\(?([-+]?[0-9]{1,9})\)?", _power),
    rule(r"(?<=[0-9A-Za-z)\u4e00-\u9fff])([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9})", _power),
    rule(r"(?<=[A-Z])\+{1,2}(?![0-9A-Za-z+=(])", _pluses),
    rule(r"√ ?", _root),
    rule(r" ?π ?", _pi),
    rule(rf"{_OPERAND_BEFORE} ?(\*\*|[×÷]) ?(?=[-(]?[0-9A-Za-z\u4e00-\u9fff])", _operator),
    rule(rf"{_OPERAND_BEFORE} ?([+=]) ?(?=[-+(√]?[0-9A-Za-z\u4e00-\u9fff])", _operator),
    rule(r"(?<=[0-9)]) ([-/]) (?=[-(]?[0-9])", _operator),
    rule(r"(?:(?<=[0-9][a-z])|(?<=[ (][a-z])) (-) (?=[(]?[0-9])", _operator),
    rule(r"(?<=[0-9)])(-)(?=\()", _operator),
    rule(r"(?<=[0-9])(\+)(?![0-9+])", _operator),
    rule(r"(?<=[0-9]):(?=[0-9])", _between),
    rule(r"(?<![0-9A-Za-z)\]])[-+~≈](?=[0-9])", _sign),
    rule(r"(?<=[A-Za-z])-(?=[0-9])", space),
    rule(rf"(?<![\u0370-\u03ff])[{''.join(_GREEK)}](?![\u0370-\u03ff])", _greek),
)

COMPARISONS: tuple[Rule, ...] = (
    rule(r"(?<=[0-9万亿])\+(?=[条个人名位家次篇部款种座场天年岁万亿]|评论|用户)", _more),
    rule(r"(?<![0-9A-Za-z])([1-9][0-9]{2,3})[x×*]([1-9][0-9]{2,3})(?![0-9A-Za-z]| ?=)", _by),
    rule(r"(?<![0-9A-Za-z])([1-9][0-9]{0,2})x([1-9][0-9]{0,2})(?![0-9A-Za-z])", _by),
    rule(r"(?<=[0-9A-Za-z²]) x (?=[0-9])", _of_sizes),
    rule(r"(?<=[0-9)]) ?([*×÷]) ?(?=[-(]?[0-9])", _operator),
    rule(r" ?(>=|<=|!=|==|[≥⩾≤⩽≠≈≒±≡∞])[≥⩾≤⩽≠≈≒±≡∞]{0,99} ?(?=[^ ]|$)", _comparison),
    rule(r"(?<=[0-9A-Za-z)%\u4e00-\u9fff]) ?([<>]) ?(?=[-+(]?[0-9])", _comparison),
    rule(r"(?<=[0-9)%]) ?([<>]) ?(?=[-(]?[A-Za-z])", _comparison),
    rule(r"(?<=\b[A-Za-z])([<>])(?=[A-Za-z]\b)", _comparison),
    rule(r"(?:^|(?<=[ (（，、：]))(<) ?(?=[0-9])", _bound),
    rule(r"(?<=[ (（，、：])(>) ?(?=[0-9])", _bound),  # first in a line it marks a quotation
    rule(r"(?<![0-9A-Za-z)\]])\+(?=[0-9$€£¥])", _sign),
    rule(r"(?<=\b[A-Za-z]) ([<>]) (?=[A-Za-z]\b)", _comparison),
)
"""Applied before amounts become words."""
