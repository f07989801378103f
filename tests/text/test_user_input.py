"""What people type: the same words without the accidents of keyboards and clipboards, and no control token."""

from __future__ import annotations

import random

import pytest

from baichuan_audio.errors import ConfigError, PromptError
from baichuan_audio.text.user_input import STEPS, input_steps, normalize_user_text

SAFE = [
    ("What is seven plus two?", "What is seven plus two?"),
    ("\ufeffWhat is\u200b seven?\r\n", "What is seven?"),
    ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
    ("\n \n  code:\n  x = 1\n\n", "  code:\n  x = 1"),
    ("７加２等于几？", "7加2等于几？"),
    ("ＷＨＡＴ　ｉｓ　５０％？", "WHAT is 50%？"),
    ("你好，世界。（好）：“是”～！", "你好，世界。（好）：“是”～！"),
    ("cafe\u0301 5² ① ½ Ⅳ ㎏", "café 5² ① ½ Ⅳ ㎏"),
    ("Hello 👨‍👩‍👧 ❤️ 😀", "Hello 👨‍👩‍👧 ❤️ 😀"),
    ("WHAT IS\nTHIS", "WHAT IS\nTHIS"),
    (" and more ", " and more "),
    ("می‌خواهم", "می‌خواهم"),
    ("\x00a\x1bb\x7fc\td", "abc\td"),
]
ALL_STEPS = [
    ("What is seven\r\nplus two?\r\n", "What is seven plus two?"),
    ("樱桃的\n颜色是什么？🍒", "樱桃的颜色是什么？"),
    ("Is 7️⃣ + 2 > 8? 👍🏽🇨🇳 ❤️ ☺", "Is 7 + 2 > 8? "),
    ("WHAT IS SEVEN PLUS TWO?", "What is seven plus two?"),
    ("HELLO! HOW ARE YOU? I'M FINE. IS IT A DOG?", "Hello! How are you? I'm fine. Is it a dog?"),
    ("How do you spell CAT? What comes after B?", "How do you spell cat? What comes after B?"),
    ("WHAT COMES AFTER B?", "What comes after B?"),
    ("HELLO用中文怎么说？", "Hello用中文怎么说？"),
    ("Nice 𝐬𝐞𝐯𝐞𝐧𝟕 :) ;-) f:)", "Nice seven7   f:)".replace("   ", " ")),
    ("-5°C ™ ½", "-5°C ™ ½"),
    ("I am 5, A B C, I'm", "I am 5, A B C, I'm"),
]


@pytest.mark.parametrize(("text", "normalized"), SAFE)
def test_what_is_safe_for_every_model(text: str, normalized: str):
    assert normalize_user_text(text) == normalized
    assert normalize_user_text(normalized) == normalized


@pytest.mark.parametrize(("text", "normalized"), ALL_STEPS)
def test_what_a_small_model_needs(text: str, normalized: str):
    assert normalize_user_text(text, STEPS) == normalized
    assert normalize_user_text(normalized, STEPS) == normalized


def test_ordinary_sentences_stay():
    for text in (
        "I like tea, and A is a letter.",
        "樱桃的颜色是什么？",
        "He said: \u201cyes\u201d \u2014 and no…",
        "2 > 1 & 3*4",
    ):
        assert normalize_user_text(text, STEPS) == normalize_user_text(text) == text


def test_hostile_texts_take_bounded_time():
    rng = random.Random(0)
    for piece in ("\n ", "\r", " \t", "A", "A'", "A ", "😀", "\u200d", "Ａ\n", "a\u0301", "\ufeff"):
        normalize_user_text(piece * (100_000 // len(piece)), STEPS)
    normalize_user_text("".join(chr(rng.randrange(0x110000)) for _ in range(100_000)), STEPS)


def test_only_texts_and_known_steps():
    with pytest.raises(PromptError, match="must be a string, not int"):
        normalize_user_text(7)  # type: ignore[arg-type]
    assert input_steps({}) == () and input_steps({"text_input_normalization": ["join_lines"]}) == ("join_lines",)
    for wrong in (["joinlines"], "join_lines", [7]):
        with pytest.raises(ConfigError, match="text_input_normalization must be a list of join_lines"):
            input_steps({"text_input_normalization": wrong})
