"""The day or month before and after another; "and after that?" goes on from the answer before."""

# ruff: noqa: SIM905  (word lists read best as one string)

from __future__ import annotations

import random

from baichuan_audio.text.normalization.number_words import mandarin_number

from .base import Turn, capitalised, draw, follow_ups, phrased

NAME = "calendar"
CYCLES = {
    ("en", "day"): "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    ("en", "month"): ("January February March April May June July August September October November December".split()),
    ("zh", "day"): [f"星期{name}" for name in "一二三四五六天"],
    ("zh", "month"): [f"{mandarin_number(number)}月" for number in range(1, 13)],
}
_ASK = {
    "en": (
        "What {kind} comes {relation} {item}?",
        "Which {kind} is {relation} {item}?",
        "Tell me the {kind} {relation} {item}.",
        "Do you know which {kind} comes {relation} {item}?",
    ),
    "zh": (
        "{item}{relation}是{what}？",
        "请问{item}{relation}是{what}？",
        "你知道{item}{relation}是{what}吗？",
        "告诉我{item}{relation}是{what}。",
    ),
}
_THEN = {
    "en": ("And {relation} that?", "What comes {relation} that?"),
    "zh": ("那再{relation}呢？", "再{relation}是{what}？"),
}
_OTHER = {
    "en": ("And {relation} {item}?", "What about {relation} {item}?"),
    "zh": ("那{item}{relation}呢？", "{item}{relation}呢？"),
}
_RELATIONS = {("en", 1): "after", ("en", -1): "before", ("zh", 1): "之后", ("zh", -1): "之前"}
_WHAT = {"day": "星期几", "month": "几月"}


def neighbour(language: str, kind: str, item: str, step: int) -> str:
    cycle = CYCLES[language, kind]
    return cycle[(cycle.index(item) + step) % len(cycle)]


def dialogue(rng: random.Random, language: str, split: str) -> list[Turn]:
    kind = rng.choice(("day", "month"))
    last = ""

    def ask(phrasings: tuple[str, ...], tag: str, item: str) -> tuple[str, Turn]:
        nonlocal last
        step = rng.choice((1, -1))
        relation = _RELATIONS[language, step]
        number, phrasing = phrased(rng, phrasings)
        user = phrasing.format(kind=kind, relation=relation, item=item, what=_WHAT[kind])
        last = neighbour(language, kind, item, step)
        reply = f"{item}{relation}是{last}。" if language == "zh" else f"{capitalised(relation)} {item} comes {last}."
        return f"{NAME}:{language}:{tag}{number}:{item}:{step}", Turn(user, (reply,))

    def more(_: Turn) -> Turn:
        before = last

        def make() -> tuple[str, Turn]:
            if rng.random() < 0.6:
                return ask(_THEN[language], "then", before)
            return ask(_OTHER[language], "other", rng.choice(CYCLES[language, kind]))

        return draw(split, make)

    turn = draw(split, lambda: ask(_ASK[language], "ask", rng.choice(CYCLES[language, kind])))
    return follow_ups(rng, [turn], more)
