"""How many of a smaller unit make up one or a few of a larger one."""

from __future__ import annotations

import random

from baichuan_audio.text.normalization.number_words import english_number, mandarin_number

from .base import Turn, draw, follow_ups, phrased

NAME = "units"
# Larger unit, its plural, the smaller units in the plural, how many.
ENGLISH = (
    ("minute", "minutes", "seconds", 60),
    ("hour", "hours", "minutes", 60),
    ("day", "days", "hours", 24),
    ("week", "weeks", "days", 7),
    ("year", "years", "months", 12),
    ("century", "centuries", "years", 100),
    ("meter", "meters", "centimeters", 100),
    ("kilometer", "kilometers", "meters", 1000),
    ("kilogram", "kilograms", "grams", 1000),
    ("dollar", "dollars", "cents", 100),
    ("dozen", "dozen", "eggs", 12),
    ("foot", "feet", "inches", 12),
)
# The larger unit with its measure word, the smaller one with its own, how many.
CHINESE = (
    ("分钟", "秒", 60),
    ("小时", "分钟", 60),
    ("天", "小时", 24),
    ("周", "天", 7),
    ("年", "个月", 12),
    ("个世纪", "年", 100),
    ("米", "厘米", 100),
    ("公里", "米", 1000),
    ("公斤", "克", 1000),
    ("块钱", "毛钱", 10),
    ("打", "个鸡蛋", 12),
    ("斤", "两", 10),
)
_ASK = {
    "en": (
        "How many {small} are in {large}?",
        "How many {small} are there in {large}?",
        "{Large} is how many {small}?",
    ),
    "zh": ("{large}有多少{small}？", "{large}等于多少{small}？", "请问{large}是多少{small}？"),
}
_MORE = {"en": ("And in {large}?", "What about {large}?"), "zh": ("那{large}呢？", "{large}呢？")}


def dialogue(rng: random.Random, language: str, split: str) -> list[Turn]:
    unit = rng.randrange(len(ENGLISH if language == "en" else CHINESE))

    def make(phrasings: tuple[str, ...], tag: str) -> tuple[str, Turn]:
        amount = rng.choices((1, 2, 3, 4, 5), (5, 3, 2, 2, 2))[0]
        number, phrasing = phrased(rng, phrasings)
        turn = _english(unit, amount, phrasing) if language == "en" else _chinese(unit, amount, phrasing)
        return f"{NAME}:{language}:{tag}{number}:{unit}:{amount}", turn

    def more(_: Turn) -> Turn:
        return draw(split, lambda: make(_MORE[language], "more"))

    return follow_ups(rng, [draw(split, lambda: make(_ASK[language], "ask"))], more)


def _english(unit: int, amount: int, phrasing: str) -> Turn:
    one, many, small, factor = ENGLISH[unit]
    name = one if amount == 1 else many
    article = "an" if one == "hour" else "a"
    large = f"{article} {one}" if amount == 1 else f"{english_number(amount)} {name}"
    user = phrasing.format(small=small, large=large, Large=large[0].upper() + large[1:])
    typed = phrasing.format(small=small, large=f"{amount} {name}", Large=f"{amount} {name}")
    verb = "has" if amount == 1 else "have"
    subject = english_number(amount).capitalize()
    return Turn(user, (f"{subject} {name} {verb} {english_number(factor * amount)} {small}.",), typed)


def _chinese(unit: int, amount: int, phrasing: str) -> Turn:
    name, small, factor = CHINESE[unit]
    large = f"{'两' if amount == 2 and name != '两' else mandarin_number(amount)}{name}"
    typed = phrasing.format(small=small, large=f"{amount}{name}")
    reply = f"{large}有{mandarin_number(factor * amount)}{small}。"
    return Turn(phrasing.format(small=small, large=large), (reply,), typed)
