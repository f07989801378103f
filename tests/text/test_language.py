"""The language of a text, by its script alone."""

from __future__ import annotations

import pytest

from baichuan_audio.text.language import language_code, language_of, only_language_of, voice_language


@pytest.mark.parametrize(
    ("text", "language", "alone", "voice"),
    [
        ("hello", "en", "en", "en"),
        ("Un café crème, señor", "en", "en", "en"),
        ("It’s “5” — €3 … 😀", "en", "en", "en"),
        ("你好", "zh", "zh", "zh"),
        ("今天是 Monday 吗天气好", "zh", None, "zh"),
        ("How do you say 猫 in English?", "en", None, "zh"),
        ("iPhone 15 很贵", "zh", None, "zh"),
        ("5加3等于几？", "zh", "zh", "zh"),
        ("12:30 😀 ，。", None, None, "en"),
        ("", None, None, "en"),
        ("Привет", None, None, "en"),
    ],
)
def test_by_script(text: str, language: str | None, alone: str | None, voice: str):
    assert (language_of(text), only_language_of(text), voice_language(text)) == (language, alone, voice)


def test_names_and_codes():
    assert {language_code(name) for name in ("zh", "zh-CN", "zh_TW", "cmn", "Chinese", "mandarin")} == {"zh"}
    assert {language_code(name) for name in ("en", "en-GB", "ENGLISH", "eng")} == {"en"}
    assert {language_code(name) for name in (None, "", "fr", "zhuang", "enets")} == {None}
