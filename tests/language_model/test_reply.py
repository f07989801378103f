"""The rules of a reply, on a session that says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from baichuan_audio.language_model.prompt import SpecialTokens
from baichuan_audio.language_model.reply import (
    ReplySampling,
    write_spoken_reply,
    write_text_reply,
)
from baichuan_audio.language_model.runaway import repeats_itself
from baichuan_audio.language_model.sampling import Sampling
from baichuan_audio.language_model.sequence import Answer, Step, TextStep, Token
from baichuan_audio.language_model.session import Session
from baichuan_audio.language_model.text_tokenizer import TextTokenizer

FRAMES = 3


class Script:
    """Says its ids one after another; what is taken back was only a look ahead, and is said again."""

    _codebook_sizes = (2,) * 8

    def __init__(self, special: SpecialTokens, ids: Sequence[int]) -> None:
        self.special, self.left, self.ids, self.frames = special, list(ids), [special.assistant], 0

    @property
    def last(self) -> int:
        return self.ids[-1]

    def answer(self, step: Step) -> Answer:
        if isinstance(step, TextStep):
            return self.left.pop(0) if self.left else self.special.end_of_text
        self.frames += 1
        return (0,) * 8 if self.frames <= FRAMES else None

    def take_back(self) -> int:
        if self.ids[-1] != self.special.end_of_text:
            self.left.insert(0, self.ids[-1])
        return self.ids.pop()

    def append(self, token: Token) -> None:
        self.ids.append(self.special.audio_pad if isinstance(token, tuple) else token)

    def begin_segment(self) -> None:
        self.frames = 0
        if self.ids[-1] != self.special.audiogen_start:
            self.ids.append(self.special.audiogen_start)


def _spoken(
    tokenizer: TextTokenizer, special: SpecialTokens, *parts: str | int, **limits: Any
) -> tuple[list[str], Script]:
    """Text segments of the reply to a script of texts and ids, "|" where speech stood."""
    ids = [id for part in parts for id in (tokenizer.encode(part) if isinstance(part, str) else [part])]
    script = Script(special, ids)
    pieces = write_spoken_reply(cast(Session, script), tokenizer, ReplySampling(**limits))
    said = ""
    for piece in pieces:
        assert isinstance(piece, str) or piece.shape == (8, FRAMES)
        said += piece if isinstance(piece, str) else "|"
    assert script.ids[-1] == special.end_of_text and script.ids.count(special.end_of_text) == 1
    return said.split("|"), script


def test_first_segment_ends_by_its_mark_only(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    said, script = _spoken(tokenizer, special, "one, two. three!", special.audiogen_start, special.end_of_text)
    assert said == ["one, two. three!", ""]
    assert script.ids.count(special.audiogen_start) == 1


def test_later_segments_end_with_their_clause(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    start = special.audiogen_start
    said, script = _spoken(tokenizer, special, "a", start, "b, c! pi 3.14. d。e", start, special.end_of_text)
    assert said == ["a", "b,", " c!", " pi 3.14.", " d。", "e", ""]
    assert script.ids.count(start) == 6


def test_end_after_text_is_spoken_and_after_none_is_not(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    assert _spoken(tokenizer, special, "yes", special.end_of_text)[0] == ["yes", ""]
    assert _spoken(tokenizer, special, special.end_of_text)[0] == [""]
    said, script = _spoken(tokenizer, special, "yes", special.audiogen_start, special.end_of_text, "more")
    assert said == ["yes", ""] and script.left


def test_limits(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    long = [ord("!") - 33 + 5] * 200
    said, script = _spoken(tokenizer, special, *long, max_segment_tokens=50, max_segments=2)
    assert len(said) == 3 and len(script.left) == 100


def test_speech_without_text_ends_the_reply(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    start = special.audiogen_start
    said, script = _spoken(tokenizer, special, "a", start, start, "b", start)
    assert said == ["a", ""] and script.ids.count(start) == 1


def test_the_same_clause_over_and_over_ends_the_reply(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    said, _ = _spoken(tokenizer, special, *(["again", special.audiogen_start] * 20))
    assert said == ["again"] * 3


def test_interrupted_reply_is_closed(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    script = Script(special, [*tokenizer.encode("hello there"), special.audiogen_start])
    pieces = write_spoken_reply(cast(Session, script), tokenizer, ReplySampling())
    next(pieces)
    pieces.close()
    assert script.ids[-1] == special.end_of_text


def test_text_reply(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    for end in ([special.end_of_text], []):
        script = Script(special, tokenizer.encode("你好, friend. ") + end)
        assert "".join(write_text_reply(cast(Session, script), tokenizer, Sampling(), 100)) == "你好, friend. "
        assert script.ids.count(special.end_of_text) == 1
    script = Script(special, tokenizer.encode("la ") * 500)
    assert len("".join(write_text_reply(cast(Session, script), tokenizer, Sampling(), 1000))) < 100


def test_repetition() -> None:
    assert repeats_itself([7] * 24) and repeats_itself([1, 2, 3] + [4, 5, 6, 7] * 6)
    assert not repeats_itself([7] * 23) and not repeats_itself(list(range(100))) and not repeats_itself([])


def test_sampling_of_a_checkpoint() -> None:
    assert ReplySampling.from_config({}) == ReplySampling()
    own = ReplySampling.from_config({"reply_sampling": {"first": {"temperature": 0}, "max_segments": 3}})
    assert own.first == Sampling(0.0) and own.max_segments == 3 and own.codes == ReplySampling().codes
    assert own.greedy().codes == Sampling(0.0, 5, 0.85, 1.3)
