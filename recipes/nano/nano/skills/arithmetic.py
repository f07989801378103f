"""Sums, differences and products of small numbers; "and times two?" goes on from the result before.

A product up to twelve times twelve is a fact, as a capital is: nobody works it out. So `recital` tells all of them, and
twice and three times anything up to fifty, as tables; what is held out is asking for one ("what is two times five?").
"""

from __future__ import annotations

import random
from dataclasses import replace

from baichuan_audio.text.normalization.number_words import number_in

from .base import Turn, capitalised, draw, follow_ups, listed, phrased

NAME = "arithmetic"
PRACTISED = 8
"""Sums in a row."""
RECITED = 4
"""Turns of a recital."""
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
_ASK_BRIEFLY = {"en": ("{Sum}?", "{Sum}?", "What is {sum}?"), "zh": ("{sum}？", "{sum}？", "{sum}等于多少？")}
_RECITE = {
    "en": ("Say the {of} times table from {low} to {high}.", "The table of {of}, from {low} to {high}."),
    "zh": ("背一下{of}的乘法表，从{low}到{high}。", "{of}的乘法表，{low}到{high}。"),
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


def practice(rng: random.Random, language: str, split: str) -> list[Turn]:
    """Sums one after the other, most of them larger than `dialogue` asks and five of twelve differences: too many to be
    learnt by heart.

    What the split holds out is held out here too.
    """

    def make() -> tuple[str, Turn]:
        operation = rng.choices(OPERATIONS, (4, 5, 3))[0]
        if operation == "*":
            a, b = _factors(rng)
        else:
            small, sum_ = rng.randint(0, 20), rng.randint(0, rng.choice((40, 100)))
            a, b = max(sum_ - small, 0), min(small, sum_)
            if operation == "-":
                a = sum_
            elif rng.random() < 0.5:
                a, b = b, a
        return _turn(rng, language, a, operation, b, _ASK_BRIEFLY[language], False)

    turns = [draw(split, make) for _ in range(PRACTISED)]
    return [replace(turn, typed=None) if rng.random() < 0.5 else turn for turn in turns]


def _factors(rng: random.Random) -> tuple[int, int]:
    """Half of them from the tables up to twelve, which hold too few products to tell how they are made; the other half
    two to five times anything up to a hundred."""
    if rng.random() < 0.5:
        a, b = rng.randint(0, 12), rng.randint(0, 12)
    else:
        b = rng.choices((2, 3, 4, 5), (4, 3, 1, 1))[0]
        a = rng.randint(0, 100 // b)
    return (a, b) if rng.random() < 0.5 else (b, a)


def recital(rng: random.Random, language: str, split: str) -> list[Turn]:
    """Pieces of times tables, two to four lines that begin anywhere: "Two times five is ten, three times five ..."."""

    def make() -> tuple[str, Turn]:
        if rng.random() < 0.75:
            of, low, highest = rng.randint(0, 12), rng.randint(0, 11), 12
        else:
            of, low, highest = rng.randint(13, 50), 2, 3
        high = min(low + rng.randint(1, 3), highest)
        names = {name: number_in(language, number) for name, number in (("of", of), ("low", low), ("high", high))}
        lines = [_equation(language, times, "*", of) for times in range(low, high + 1)]
        question = rng.choice(_RECITE[language]).format(**names)
        return f"{NAME}:{language}:table:{of}:{low}-{high}", Turn(question, (listed(language, lines),))

    return [draw(split, make) for _ in range(RECITED)]


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
