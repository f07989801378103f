"""Transcripts of pieces, joined while their texts arrive, against joining the whole texts."""

from __future__ import annotations

import pytest

from baichuan_audio.generation.transcription import TranscriptAssembler, join_texts


@pytest.mark.parametrize(
    "pieces",
    [
        [["Hello", " there. "], [" How", " are you?"]],
        [[" "], ["one", "  ", "two "], ["", " "], ["three"]],
        [["你好", "。"], ["再见 "], ["bye"], ["now"]],
        [],
    ],
)
def test_streamed_texts_join_like_whole_ones(pieces: list[list[str]]) -> None:
    assembler, added = TranscriptAssembler(), []
    for piece in pieces:
        assembler.begin_piece()
        added += [assembler.push(text) for text in piece]
    assert assembler.text == "".join(added) == join_texts(["".join(piece).strip() for piece in pieces])


def test_a_space_stands_between_words_only() -> None:
    assert join_texts(["one", "", "two", "三", "four"]) == "one two三four"
