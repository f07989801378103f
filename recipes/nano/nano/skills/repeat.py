"""Repeating a sentence, a few words or digits; "once more" and "now backwards" refer to the turn before."""

from __future__ import annotations

import random

from .base import NoContentError, Turn, draw, listed, phrased, split_of
from .sentences import digits, sentence, word_list

NAME = "repeat"
_ASK = {
    "en": (
        "Repeat after me: {text}",
        "Say after me: {text}",
        "Please say: {text}",
        "Please repeat: {text}",
        "Say this: {text}",
    ),
    "zh": ("请跟我说：{text}", "跟我读：{text}", "请重复：{text}", "请说：{text}", "重复一遍：{text}"),
}
_AGAIN = {
    "en": ("Once more, please.", "Again, please.", "Say it again."),
    "zh": ("再说一遍。", "请再来一次。", "再重复一遍。"),
}
_BACK = {"en": ("Now backwards.", "And backwards?", "Now in reverse."), "zh": ("倒过来说。", "现在反过来说。")}


def dialogue(rng: random.Random, language: str, split: str) -> list[Turn]:
    words: list[str] = []

    def first() -> tuple[str, Turn]:
        nonlocal words
        kind = rng.random()
        words = []
        if kind >= 0.45:
            words = (
                digits(rng, language, rng.randint(3, 5)) if kind < 0.7 else word_list(rng, language, rng.randint(2, 4))
            )
        text = listed(language, words) if words else _short_sentence(rng, language)
        _, phrasing = phrased(rng, _ASK[language])
        return f"{NAME}:{language}:{text}", Turn(phrasing.format(text=text), (text,))

    turns = [draw(split, first)]
    if rng.random() < 0.25:
        turns.append(Turn(phrased(rng, _AGAIN[language])[1], turns[0].reply))
    elif words and rng.random() < 0.4:
        turns.append(Turn(phrased(rng, _BACK[language])[1], (listed(language, words[::-1]),)))
    return turns


def _short_sentence(rng: random.Random, language: str) -> str:
    for _ in range(200):
        text = sentence(rng, language)
        if len(text.split()) <= 9 if language == "en" else len(text) <= 13:
            return text
    raise NoContentError(language)


def is_held_out(language: str, text: str) -> bool:
    """Whether a text belongs to test or validation: reading sentences keep the same rule."""
    return split_of(f"{NAME}:{language}:{text}") != "train"
