"""Texts to be read aloud: from WordNet's files and a Mandarin text, with a held-out share."""

from __future__ import annotations

from pathlib import Path

import pytest

from baichuan_audio.data.pipeline.sources import read_texts
from baichuan_audio.errors import DataError
from nano.texts import english_items, sentence_items, write_items

WORDNET = """  1 This software and database is being provided to you
00001740 29 v 01 breathe 000 | draw air into the lungs; "I breathe better in clean air"; "She is (still) alive"
00002325 29 v 01 respire 000 | undergo 2 processes of life; take in air; do it; "the lungs were filled with air"
"""
MANDARIN = "不知道为什么这么受欢迎。ok；有段日子没去了\n什么收获都没有，太失望了！\n"


def test_definitions_and_examples_become_sentences_to_read(tmp_path: Path) -> None:
    (tmp_path / "wordnet.txt").write_text(WORDNET)
    (tmp_path / "zh.txt").write_text(MANDARIN, encoding="utf-8")
    items = [*english_items(tmp_path / "wordnet.txt", 0, 3), *sentence_items(tmp_path / "zh.txt", 0, 3, "MIT")]
    assert {item["text"] for item in items if item["language"] == "en"} == {
        "Draw air into the lungs.", "I breathe better in clean air.", "The lungs were filled with air."
    }  # fmt: skip
    write_items(items, tmp_path / "sentences.jsonl")
    assert [(item.language, item.kind) for item in read_texts(tmp_path / "sentences.jsonl")] == [
        ("en", "text"), ("en", "text"), ("en", "text"), ("zh", "text"), ("zh", "text"), ("zh", "text")
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"wordnet\.txt: it has 3 sentences in 'en' alone, 4 are wanted"):
        list(english_items(tmp_path / "wordnet.txt", 0, 4))
