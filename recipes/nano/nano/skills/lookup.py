"""Skills that look one fact up: opposites, capitals, colours and translation.

Every fact is in training; held out is the fact together with the phrasing that asks for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from .base import Turn, capitalised, draw, follow_ups, phrased
from .tables import CAPITALS, COLOURS, OPPOSITES, TRANSLATIONS


@dataclass(frozen=True)
class Lookup:
    """A table with the ways to ask about an entry, to ask about another, and to answer."""

    name: str
    table: dict[str, dict[str, str]]
    ask: dict[str, tuple[str, ...]]
    more: dict[str, tuple[str, ...]]
    reply: dict[str, str]

    def dialogue(self, rng: random.Random, language: str, split: str) -> list[Turn]:
        table = self.table[language]

        def make(phrasings: tuple[str, ...], tag: str) -> tuple[str, Turn]:
            item = rng.choice(list(table))
            number, phrasing = phrased(rng, phrasings)
            reply = self.reply[language].format(item=item, Item=capitalised(item), value=table[item])
            key = f"{self.name}:{language}:{tag}{number}:{item}"
            return key, Turn(phrasing.format(item=item, Item=capitalised(item)), (reply,))

        first = draw(split, lambda: make(self.ask[language], "ask"))
        return follow_ups(rng, [first], lambda _: draw(split, lambda: make(self.more[language], "more")))


OPPOSITE = Lookup(
    "opposites",
    OPPOSITES,
    {
        "en": (
            "What is the opposite of {item}?",
            "Tell me the opposite of {item}.",
            "Which word is the opposite of {item}?",
            "What is the reverse of {item}?",
            "Do you know the opposite of {item}?",
        ),
        "zh": (
            "{item}的反义词是什么？",
            "请问{item}的反义词是什么？",
            "{item}的相反是什么？",
            "告诉我{item}的反义词。",
            "你知道{item}的反义词吗？",
        ),
    },
    {
        "en": ("And of {item}?", "What about {item}?", "And the opposite of {item}?"),
        "zh": ("那{item}呢？", "{item}呢？", "那{item}的反义词呢？"),
    },
    {"en": "The opposite of {item} is {value}.", "zh": "{item}的反义词是{value}。"},
)
CAPITAL = Lookup(
    "capitals",
    CAPITALS,
    {
        "en": (
            "What is the capital of {item}?",
            "Which city is the capital of {item}?",
            "Tell me the capital of {item}.",
            "What's the capital city of {item}?",
            "Do you know the capital of {item}?",
        ),
        "zh": (
            "{item}的首都是哪里？",
            "{item}的首都是什么？",
            "请问{item}的首都是哪里？",
            "告诉我{item}的首都。",
            "你知道{item}的首都是哪里吗？",
        ),
    },
    {
        "en": ("And of {item}?", "What about {item}?", "And {item}?"),
        "zh": ("那{item}呢？", "{item}呢？", "那{item}的呢？"),
    },
    {"en": "The capital of {item} is {value}.", "zh": "{item}的首都是{value}。"},
)
COLOUR = Lookup(
    "colours",
    COLOURS,
    {
        "en": (
            "What color is {item}?",
            "What is the color of {item}?",
            "Tell me the color of {item}.",
            "Which color is {item}?",
            "Do you know what color {item} is?",
        ),
        "zh": (
            "{item}是什么颜色？",
            "{item}是什么颜色的？",
            "请问{item}是什么颜色？",
            "{item}的颜色是什么？",
            "你知道{item}是什么颜色吗？",
        ),
    },
    {
        "en": ("And {item}?", "What about {item}?", "And what color is {item}?"),
        "zh": ("那{item}呢？", "{item}呢？", "那{item}是什么颜色？"),
    },
    {"en": "{Item} is {value}.", "zh": "{item}是{value}的。"},
)
TRANSLATION = Lookup(
    "translation",
    TRANSLATIONS,
    {
        "en": (
            "How do you say {item} in Chinese?",
            "What is {item} in Chinese?",
            "What is the Chinese word for {item}?",
            "Translate {item} into Chinese.",
            "Please say {item} in Chinese.",
        ),
        "zh": (
            "{item}用英语怎么说？",
            "{item}的英语是什么？",
            "请把{item}翻译成英语。",
            "英语里{item}怎么说？",
            "用英语说{item}。",
        ),
    },
    {
        "en": ("And {item}?", "What about {item}?", "And how about {item}?"),
        "zh": ("那{item}呢？", "{item}呢？", "那{item}怎么说？"),
    },
    {"en": "中文是{value}。", "zh": "In English it is {value}."},
)


def dialogues() -> dict[str, Callable[[random.Random, str, str], list[Turn]]]:
    return {skill.name: skill.dialogue for skill in (OPPOSITE, CAPITAL, COLOUR, TRANSLATION)}
