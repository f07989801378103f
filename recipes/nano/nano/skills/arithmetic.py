"""Sums, differences and products of small numbers; "and times two?" goes on from the result before."""

from __future__ import annotations

import random

from baichuan_audio.text.normalization.number_words import number_in

from .base import Turn, capitalised, draw, follow_ups, phrased

NAME = "arithmetic"
OPERATIONS = ("+", "-", "*")
_WORDS = {"en": {"+": "plus", "-": "minus", "*": "times"}, "zh": {"+": "加", "-": "减", "*": "乘以"}}
_BLANK = {"en": " ", "zh": ""}
_SIGNS = {"+": "+", "-": "-", "*": "×"}
_ASK = {
    "en": (
        "What is {sum}?",
        "How much is {sum}?",
        "{Sum}?",
        "Can you tell me what {sum} is?",
        "Please work out {sum}.",
        "Do you know what {sum} is?",
    ),
    "zh": (
        "{sum}等于多少？",
        "{sum}是多少？",
        "请问{sum}等于几？",
        "算一下{sum}。",
        "你知道{sum}是多少吗？",
        "{sum}得多少？",
    ),
}
_GO_ON = {
    "en": ("And {step}?", "Now {step}.", "What about that {step}?", "And then {step}?"),
    "zh": ("再{step}呢？", "那再{step}等于多少？", "然后再{step}呢？", "接着再{step}。"),
}
_TYPED = ("{sum}", "{sum}=?", "{sum} = ?", "what is {sum}?")
_TYPED_ZH = ("{sum}", "{sum}=?", "{sum}等于多少？", "{sum}是多少")


def result(a: int, operation: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[operation]


def content_key(language: str, a: int, operation: str, b: int) -> str:
    """The operands in their order: the other order may be in training, so that the answer can be inferred."""
    return f"{NAME}:{language}:{a}{operation}{b}"


def dialogue(rng: random.Random, language: str, split: str) -> list[Turn]:
    value = 0

    def first() -> tuple[str, Turn]:
        nonlocal value
        operation = rng.choices(OPERATIONS, (4, 3, 3))[0]
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        if operation == "-" and a < b:
            a, b = b, a
        if operation == "*":
            a, b = rng.randint(0, 12), rng.randint(0, 10)
            if rng.random() < 0.5:
                a, b = b, a
            if a * b > 100:
                a, b = a % 10, b % 10
        value = result(a, operation, b)
        return _turn(rng, language, a, operation, b, _ASK[language], False)

    def more(_: Turn) -> Turn:
        def make() -> tuple[str, Turn]:
            nonlocal value
            choices = [("+", rng.randint(1, 10))] if start <= 90 else []
            choices += [("-", rng.randint(1, min(10, start)))] if start else []
            choices += [("*", b) for b in (2, 3) if start * b <= 100]
            operation, b = rng.choice(choices)
            value = result(start, operation, b)
            return _turn(rng, language, start, operation, b, _GO_ON[language], True)

        start = value
        return draw(split, make)

    return follow_ups(rng, [draw(split, first)], more)


def _turn(
    rng: random.Random, language: str, a: int, operation: str, b: int, phrasings: tuple[str, ...], follows: bool
) -> tuple[str, Turn]:
    step = _step(language, operation, number_in(language, b))
    sum_ = _sum(language, a, operation, b)
    _, phrasing = phrased(rng, phrasings)
    user = phrasing.format(sum=sum_, Sum=capitalised(sum_), step=step)
    sign = _SIGNS[operation] if rng.random() < 0.7 or operation != "*" else "*"
    if follows:
        typed = phrasing.format(step=_step(language, operation, str(b)))
    else:
        form = rng.choice(_TYPED_ZH if language == "zh" else _TYPED)
        typed = form.format(sum=rng.choice((f"{a}{sign}{b}", f"{a} {sign} {b}")))
    reply = capitalised(_equation(language, a, operation, b)) + ("。" if language == "zh" else ".")
    return content_key(language, a, operation, b), Turn(user, (reply,), typed)


def _step(language: str, operation: str, b: str) -> str:
    """Times five; 乘以五."""
    return f"{_WORDS[language][operation]}{_BLANK[language]}{b}"


def _sum(language: str, a: int, operation: str, b: int) -> str:
    """Two times five; 二乘以五."""
    return f"{number_in(language, a)}{_BLANK[language]}{_step(language, operation, number_in(language, b))}"


def _equation(language: str, a: int, operation: str, b: int) -> str:
    """Two times five is ten; 二乘以五等于十."""
    is_word = "等于" if language == "zh" else " is "
    return f"{_sum(language, a, operation, b)}{is_word}{number_in(language, result(a, operation, b))}"
