"""English words letter by letter; in Mandarin, the parts that a character is made of."""

# ruff: noqa: E501, SIM905  (Chinese characters count twice; word lists read best as one string)

from __future__ import annotations

import random

from .base import Turn, capitalised, draw, follow_ups, phrased

NAME = "spelling"
WORDS = (
    "cat dog pig cow hen bee ant fox bat rat sun sky sea ice hat cup pen box bag bed bus car map key egg tea jam pie nut "
    "red big hot wet new old sad fun run sit eat day boy girl book door fish bird duck frog bear lion milk cake rice soup "
    "tree leaf rose rain snow wind moon star ship boat road park game ball hand foot nose face king gold blue green white "
    "black house horse mouse sheep apple lemon bread water table chair piano music tiger zebra happy queen"
).split()
# A character, and the two parts it is made of; no two of them sound alike, for they are asked for by voice.
CHARACTERS = {
    "明": "日月", "好": "女子", "林": "木木", "男": "田力", "尖": "小大", "尘": "小土", "从": "人人", "休": "人木", "信": "人言",
    "位": "人立", "仙": "人山", "伴": "人半", "岩": "山石", "看": "手目", "歪": "不正", "泉": "白水", "甜": "舌甘", "妈": "女马",
    "吗": "口马", "地": "土也", "她": "女也", "灯": "火丁", "杏": "木口", "朋": "月月", "双": "又又", "昌": "日日", "多": "夕夕",
    "吹": "口欠", "胖": "月半", "粉": "米分", "蚊": "虫文", "相": "木目", "村": "木寸", "时": "日寸", "对": "又寸", "加": "力口",
    "泪": "水目", "吐": "口土", "思": "田心", "秋": "禾火",
}  # fmt: skip
_ASK = {
    "en": (
        "How do you spell {item}?",
        "Spell the word {item}.",
        "Can you spell {item}?",
        "Please spell {item}.",
        "How is {item} spelled?",
    ),
    "zh": ("{item}字怎么写？", "请问{item}字怎么写？", "你知道{item}字怎么写吗？", "{item}字由什么组成？"),
}
_MORE = {"en": ("And {item}?", "What about {item}?", "And how about {item}?"), "zh": ("那{item}字呢？", "{item}字呢？")}


def dialogue(rng: random.Random, language: str, split: str) -> list[Turn]:
    items = WORDS if language == "en" else list(CHARACTERS)

    def make(phrasings: tuple[str, ...], tag: str) -> tuple[str, Turn]:
        item = rng.choice(items)
        number, phrasing = phrased(rng, phrasings)
        reply = spelled(item) if language == "en" else f"{item}是{CHARACTERS[item][0]}加{CHARACTERS[item][1]}。"
        return f"{NAME}:{language}:{tag}{number}:{item}", Turn(phrasing.format(item=item), (reply,))

    def more(_: Turn) -> Turn:
        return draw(split, lambda: make(_MORE[language], "more"))

    return follow_ups(rng, [draw(split, lambda: make(_ASK[language], "ask"))], more)


def spelled(word: str) -> str:
    """cat -> Cat is spelled C, A, T."""
    return f"{capitalised(word)} is spelled {', '.join(word.upper())}."
