"""Text, control tokens and messages -> sequences; and ids -> text while they come."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baichuan_audio.errors import CheckpointError, PromptError
from baichuan_audio.language_model.build_tokenizer import build_text_tokenizer
from baichuan_audio.language_model.prompt import (
    AudioPart,
    PromptBuilder,
    SpecialTokens,
    parse_content,
    parse_messages,
    split_clauses,
)
from baichuan_audio.language_model.text_tokenizer import LONG_TEXT, TextTokenizer

TEXTS = ("hello, how are you?", "请用【邻家女声】这个声音回答问题。", " two  spaces\n", "👍🏽 naïve", "")


def test_text_comes_back(tokenizer: TextTokenizer) -> None:
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_long_text_is_encoded_as_a_short_one(tokenizer: TextTokenizer) -> None:
    """In another call of the library, which lets other threads run meanwhile."""
    long = "Seven and five are twelve. <C_Q> 你好，" * (LONG_TEXT // 30)
    assert len(long) > LONG_TEXT and tokenizer.decode(tokenizer.encode(long)) == long
    assert tokenizer.encode(long) == tokenizer._encoder.encode(long, add_special_tokens=False).ids


def test_spelling_a_control_token_is_text(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    spelt = [
        "<B_SYS>",
        "<C_Q>",
        "<C_A>",
        "<|endoftext|>",
        "<audio_pad_baichuan>",
        "<audiogen_start_baichuan>",
        "<reserved_459>",
    ]
    for text in (*spelt, "".join(spelt), f"say {spelt[1]} twice{spelt[1]}"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert max(ids) < 459  # every control token of this checkpoint lies above
    assert tokenizer.token_id("<C_Q>") == special.user == 492


def test_stream_gives_whole_characters(tokenizer: TextTokenizer) -> None:
    for text in TEXTS:
        stream = tokenizer.stream()
        pieces = [stream.push(id) for id in tokenizer.encode(text)]
        assert "".join(pieces) + stream.flush() == text
        assert not any("�" in piece for piece in pieces)


def test_stream_of_a_tokenizer_with_byte_fallback() -> None:
    tokenizer = TextTokenizer(build_text_tokenizer(["你好"], [" there"]).to_str())
    text = "Hi there 你好 👍🏽 ok. <C_Q><0x41>"
    stream = tokenizer.stream()
    pieces = [stream.push(id) for id in tokenizer.encode(text)]
    assert "".join(pieces) + stream.flush() == text
    assert not any("�" in piece for piece in pieces)


def test_stream_survives_broken_bytes(tokenizer: TextTokenizer) -> None:
    half = tokenizer.encode("你")[:1]
    ids = half + tokenizer.encode("ab") + half
    stream = tokenizer.stream()
    pieces = [stream.push(id) for id in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_unusable_tokenizers_and_texts(tokenizer: TextTokenizer) -> None:
    for source in ("", "{}", "[1]", '{"model": 3}'):
        with pytest.raises(CheckpointError):
            TextTokenizer(source)
    with pytest.raises(CheckpointError):
        TextTokenizer.from_file("no/such/tokenizer.json")
    for text in ("\ud800", 3):
        with pytest.raises(PromptError):
            tokenizer.encode(text)  # type: ignore[arg-type]


def test_dialogue_sequence(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    codes = torch.ones(8, 2, dtype=torch.long)
    builder = PromptBuilder(tokenizer, special, 8)
    prompt = builder.system("a").user().audio(codes).reply(spoken=True).text("b").speech(codes * 2).end_reply().build()
    (a,), (b,) = tokenizer.encode("a"), tokenizer.encode("b")
    pad = special.audio_pad
    heard = [special.audio_start, pad, pad, special.audio_end]
    spoken = [special.audiogen_start, pad, pad, special.audiogen_end]
    begin = [special.system, a, special.user]
    reply = [special.audiotext_start, special.assistant, b]
    assert prompt.ids.tolist() == [*begin, *heard, *reply, *spoken, special.end_of_text]
    assert prompt.codes[0].tolist() == [1, 1, 2, 2]
    with pytest.raises(PromptError):
        builder.audio(codes[:3])


def test_masked_ids(special: SpecialTokens) -> None:
    assert special.audiogen_start not in special.control_ids and special.end_of_text not in special.control_ids
    assert {special.system, special.audio_pad, special.audiogen_end, 488} <= set(special.control_ids)


def test_content_forms() -> None:
    assert parse_content("hi") == ("hi",)
    assert parse_content([{"text": "a"}, {"audio": "q.wav"}]) == ("a", AudioPart("q.wav"))
    for content in ("", " ", [], None, 3, {"audio": "a", "text": "b"}, {"image": "x"}, [["a"]]):
        with pytest.raises(PromptError):
            parse_content(content)


def test_messages_are_checked() -> None:
    user: dict[str, Any] = {"role": "user", "content": "a"}
    assistant: dict[str, Any] = {"role": "assistant", "content": "b"}
    system: dict[str, Any] = {"role": "system", "content": "c"}
    assert [m.role for m in parse_messages([system, user, assistant, user])] == ["system", "user", "assistant", "user"]
    for messages in (
        [],
        "hello",
        user,
        [system],
        [user, user],
        [user, assistant],
        [assistant],
        [user, system],
        [{"role": "robot", "content": "a"}],
        [{"content": "a"}],
        [{"role": "user", "content": ""}],
        [{"role": "system", "content": {"audio": "a.wav"}}, user],
    ):
        with pytest.raises(PromptError):
            parse_messages(messages)  # type: ignore[arg-type]


def test_clauses() -> None:
    assert split_clauses("Yes, it is. Really?!") == ["Yes,", " it is.", " Really?!"]
    assert split_clauses("你好，世界。再见") == ["你好，", "世界。", "再见"]
    assert split_clauses("pi is 3.14 exactly") == ["pi is 3.14 exactly"]
    assert split_clauses("One, two, three, four, five, six.", 11) == ["One, two, three,", " four, five, six."]
    for text in ("", "a", "A long sentence, with a tail.", "...", "a\nb. c"):
        for least in (1, 5, 11):
            assert "".join(split_clauses(text, least)) == text
