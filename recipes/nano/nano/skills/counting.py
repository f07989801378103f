"""Counting up and down over at most seven numbers."""

from __future__ import annotations

import random

from baichuan_audio.text.normalization.number_words import number_in

from .base import Turn, draw, follow_ups, listed, phrased

NAME = "counting"
_ASK = {
    ("en", "up"): ("Count from {a} to {b}.", "Please count from {a} to {b}.", "Can you count from {a} to {b}?"),
    ("en", "down"): (
        "Count down from {a} to {b}.",
        "Please count backwards from {a} to {b}.",
        "Can you count down from {a} to {b}?",
    ),
    ("zh", "up"): ("从{a}数到{b}。", "请从{a}数到{b}。", "你能从{a}数到{b}吗？"),
    ("zh", "down"): ("从{a}倒数到{b}。", "请从{a}倒数到{b}。", "你能从{a}倒着数到{b}吗？"),
}
_BACK = {
    "en": ("And backwards?", "Now the other way round.", "And in reverse?"),
    "zh": ("倒过来呢？", "那反过来数呢？"),
}
_NEXT = {"en": ("What comes next?", "And what is next?"), "zh": ("接下来是几？", "然后是几？")}


def count(a: int, b: int) -> list[int]:
    """The numbers from a to b, both included, up or down."""
    return list(range(a, b + 1)) if a <= b else list(range(a, b - 1, -1))


def dialogue(rng: random.Random, language: str, split: str) -> list[Turn]:
    ends = (1, 2)

    def first() -> tuple[str, Turn]:
        nonlocal ends
        low = rng.randint(0, 24) if rng.random() < 0.7 else rng.randint(0, 5)
        high = low + rng.randint(2, 6)
        ends = (low, high) if rng.random() < 0.6 else (high, low)
        direction = "up" if ends[0] < ends[1] else "down"
        _, phrasing = phrased(rng, _ASK[language, direction])
        words = [number_in(language, number) for number in ends]
        user = phrasing.format(a=words[0], b=words[1])
        typed = phrasing.format(a=ends[0], b=ends[1])
        return f"{NAME}:{language}:{ends[0]}-{ends[1]}", Turn(user, (_listed(language, count(*ends)),), typed)

    def more(_: Turn) -> Turn:
        def make() -> tuple[str, Turn]:
            nonlocal ends
            a, b = start
            after = b + (1 if a < b else -1)
            if after < 0 or rng.random() < 0.5:
                ends = (b, a)
                reply = _listed(language, count(b, a))
                return f"{NAME}:{language}:{a}-{b}:back", Turn(phrased(rng, _BACK[language])[1], (reply,))
            number = number_in(language, after)
            reply = f"接下来是{number}。" if language == "zh" else f"Next comes {number}."
            # The count goes on: "what comes next?" may be asked again.
            ends = (a, after)
            return f"{NAME}:{language}:{a}-{b}:next", Turn(phrased(rng, _NEXT[language])[1], (reply,))

        start = ends
        return draw(split, make)

    return follow_ups(rng, [draw(split, first)], more)


def _listed(language: str, numbers: list[int]) -> str:
    return listed(language, [number_in(language, number) for number in numbers])
