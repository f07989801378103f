"""A bare word is said, and the reply names it: the skill for recordings of real people (digits, single words).

The words are a closed list, so nothing is held out by content: held out are the speakers.
"""

from __future__ import annotations

import random

from baichuan_audio.text.normalization.number_words import number_in

from .base import Turn

NAME = "hear"
WORDS = {
    "en": ("athena", "computer", "snowboy", "view glass", "jarvis", "smart mirror", "alexa", "amelia"),
    "zh": ("电脑", "镜子", "音乐", "电话", "苹果", "老师", "北京", "上海"),
}


def word_turn(language: str, word: str) -> Turn:
    """The turn for one word or digit in words."""
    if language == "zh":
        return Turn(f"{word}。", (f"我听到的是{word}。",))
    return Turn(f"{word.capitalize()}.", (f"I heard {word}.",))


def dialogue(rng: random.Random, language: str, split: str) -> list[Turn]:
    word = number_in(language, rng.randrange(10)) if rng.random() < 0.6 else rng.choice(WORDS[language])
    return [word_turn(language, word)]
