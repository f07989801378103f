"""The rules of a reply, on a session that says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from baichuan_audio.generation.events import FrameDecoded, SegmentEnd, TextDelta
from baichuan_audio.generation.reply import ReplySampling, spoken_reply, text_reply
from baichuan_audio.generation.runaway import (
    AUDIO_OVERRUN,
    REPETITION,
    min_speech_frames,
    repeats_itself,
    speech_letters,
)
from baichuan_audio.generation.runner import run_program
from baichuan_audio.generation.sequence import DecodeRequest, DecodeResult, FrameRequest, TextRequest, Token
from baichuan_audio.language_model.prompt import SpecialTokens
from baichuan_audio.language_model.sampling import Sampling
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

    def decode(self, request: DecodeRequest) -> DecodeResult:
        if isinstance(request, TextRequest):
            return self.left.pop(0) if self.left else self.special.end_of_text
        self.frames += 1
        return (0,) * 8 if self.frames <= FRAMES else None

    def pop(self) -> int:
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
    said = ""
    for event in run_program(script, spoken_reply(cast(Any, script), tokenizer, ReplySampling(**limits))):
        if isinstance(event, TextDelta):
            said += event.text
        elif isinstance(event, SegmentEnd):
            assert event.codes.shape == (8, FRAMES)
            said += "|"
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
    long = [64 + place % 26 for place in range(200)]
    said, script = _spoken(tokenizer, special, *long, max_segment_tokens=50, max_segments=2)
    assert len(said) == 3 and len(script.left) == 100


def test_speech_without_text_ends_the_reply(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    start = special.audiogen_start
    said, script = _spoken(tokenizer, special, "a", start, start, "b", start)
    assert said == ["a", ""] and script.ids.count(start) == 1


def test_the_same_clause_over_and_over_ends_the_reply(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    start = special.audiogen_start
    clause = "this is said again and again and never comes to an end"
    said, _ = _spoken(tokenizer, special, *([clause, start] * 20))
    assert said == [clause] * 3
    said, _ = _spoken(tokenizer, special, *(["ha", start] * 4), special.end_of_text)
    assert said == ["ha"] * 4 + [""]
    said, _ = _spoken(tokenizer, special, *([clause, start] * 5), special.end_of_text, stop_runaways=False)
    assert said == [clause] * 5 + [""]


def _ending(script: Script, tokenizer: TextTokenizer, **limits: Any) -> tuple[str | None, int]:
    """Why a spoken reply to a script ended, and after how many frames."""
    events = run_program(script, spoken_reply(cast(Any, script), tokenizer, ReplySampling(**limits)))
    frames = 0
    while True:
        try:
            frames += isinstance(next(events), FrameDecoded)
        except StopIteration as end:
            return end.value, frames


def test_a_reply_says_why_it_ended(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    start, end = special.audiogen_start, special.end_of_text
    good = Script(special, [*tokenizer.encode("one, two."), start, end])
    assert _ending(good, tokenizer) == (None, FRAMES)
    long = Script(special, [*tokenizer.encode("one"), start, *tokenizer.encode("two"), start] * 3)
    assert _ending(long, tokenizer, max_segments=2) == ("limit", 2 * FRAMES)
    assert _ending(Script(special, tokenizer.encode("la") * 90), tokenizer, max_segment_tokens=99) == (REPETITION, 0)


class Endless(Script):
    """Never ends its audio; `period`: after so many frames they come again, 0 for never."""

    def __init__(self, special: SpecialTokens, ids: Sequence[int], period: int) -> None:
        super().__init__(special, ids)
        self._period = period

    def decode(self, request: DecodeRequest) -> DecodeResult:
        if isinstance(request, TextRequest):
            return super().decode(request)
        self.frames += 1
        number = self.frames % self._period if self._period else self.frames
        return (number % 2, number // 2 % 2, number // 4 % 2, number // 8 % 2, number // 16 % 2, number // 32, 0, 0)


@pytest.mark.parametrize(
    ("text", "period", "reason", "most"),
    [
        ("Yes.", 0, AUDIO_OVERRUN, 70),
        ("Yes.", 1, REPETITION, 45),
        ("The capital of Peru is Lima.", 0, AUDIO_OVERRUN, 160),
        ("The capital of Peru is Lima.", 5, REPETITION, 45),
        ("樱桃是红色的。", 0, AUDIO_OVERRUN, 120),
    ],
)
def test_sound_without_end_is_stopped(
    tokenizer: TextTokenizer, special: SpecialTokens, text: str, period: int, reason: str, most: int
) -> None:
    ids = [*tokenizer.encode(text), special.audiogen_start]
    ending, frames = _ending(Endless(special, ids, period), tokenizer)
    assert ending == reason and 20 < frames <= most
    script = Endless(special, ids, period)
    assert _ending(script, tokenizer, stop_runaways=False) == (None, 500)
    assert script.ids[-1] == special.end_of_text


def test_segments_that_all_meet_their_limit_are_an_overrun(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    start = special.audiogen_start
    ids = [
        *tokenizer.encode("one two three"),
        start,
        *tokenizer.encode(" four five six,"),
        *tokenizer.encode(" seven,"),
    ]
    assert _ending(Endless(special, ids, 0), tokenizer, max_segment_frames=20) == (AUDIO_OVERRUN, 40)


def test_a_very_short_reply_is_not_cut_off(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    asked: list[bool] = []

    class Watched(Script):
        def decode(self, request: DecodeRequest) -> DecodeResult:
            if isinstance(request, FrameRequest):
                asked.append(request.may_end)
            return super().decode(request)

    start, end = special.audiogen_start, special.end_of_text
    _ending(Watched(special, [*tokenizer.encode("Hello."), end]), tokenizer)
    assert asked == [False] * (FRAMES + 1)
    asked.clear()
    _ending(Watched(special, [*tokenizer.encode("A longer reply has no need of it."), end]), tokenizer)
    _ending(Watched(special, [*tokenizer.encode("Hm,"), start, *tokenizer.encode(" more"), end]), tokenizer)
    assert all(asked)


def test_interrupted_reply_is_closed(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    script = Script(special, [*tokenizer.encode("hello there"), special.audiogen_start])
    events = run_program(script, spoken_reply(cast(Any, script), tokenizer, ReplySampling()))
    next(events)
    events.close()
    assert script.ids[-1] == special.end_of_text


def _text(script: Script, tokenizer: TextTokenizer, max_new_tokens: int) -> str:
    """The text of a text reply to a script."""
    events = run_program(script, text_reply(cast(Any, script), tokenizer, Sampling(), max_new_tokens))
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_text_reply(tokenizer: TextTokenizer, special: SpecialTokens) -> None:
    for end in ([special.end_of_text], []):
        script = Script(special, tokenizer.encode("你好, friend. ") + end)
        assert _text(script, tokenizer, 100) == "你好, friend. "
        assert script.ids.count(special.end_of_text) == 1
    script = Script(special, tokenizer.encode("la ") * 500)
    assert len(_text(script, tokenizer, 1000)) < 100


def test_repetition() -> None:
    assert repeats_itself([7] * 24) and repeats_itself([1, 2, 3] + [4, 5, 6, 7] * 6)
    assert not repeats_itself([7] * 23) and not repeats_itself(list(range(100))) and not repeats_itself([])


def test_how_much_there_is_to_say() -> None:
    assert speech_letters("hello there") == 10 and speech_letters("你好") == 6
    assert speech_letters("BBC") == 9 and speech_letters("I am Ann") < 10 and speech_letters("42") == 10
    assert speech_letters("a, b.") > speech_letters("a b") and speech_letters("") == 0
    assert min_speech_frames("Hello.") > min_speech_frames("No") > 3 and min_speech_frames("你好。") > 5
    assert min_speech_frames("The capital of Peru is Lima.") == min_speech_frames("...") == 0


def test_sampling_of_a_checkpoint() -> None:
    assert ReplySampling.from_config({}) == ReplySampling()
    own = ReplySampling.from_config({"reply_sampling": {"first": {"temperature": 0}, "max_segments": 3}})
    assert own.first == Sampling(0.0) and own.max_segments == 3 and own.codes == ReplySampling().codes
    assert own.greedy().codes == Sampling(0.0, 5, 0.85, 1.3)
