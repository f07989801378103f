"""Writing one reply: text segments and audio segments in turn, until the model ends it (docs/model.md, 7).

The rules stand here once, as generators that ask for each id and frame; `follow` runs them on a session, the engine
runs those of many replies together.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from ..config import strict
from ..language_model.prompt import CLAUSE_MARKS, SENTENCE_MARKS
from ..language_model.sampling import Sampling
from ..language_model.text_tokenizer import TextTokenizer
from .runaway import REPETITION, RunawayGuard, least_frames, text_repeats_itself
from .sequence import (
    DecodeRequest,
    DecodeResult,
    Frame,
    FrameRequest,
    ReplyProgram,
    SentenceEnd,
    TextRequest,
    Token,
    TokenSequence,
    audio_segment,
)
from .session import Session

_SAME_CLAUSES, _SAME_CLAUSES_IDS = 3, 24
_TRIES = 3  # of a clause that is read aloud
_SENTENCE_ENDS, _CLOSING = SENTENCE_MARKS | {"."}, " \n\t\"')]}”’」』）】》"
# the published demo's
_FIRST = Sampling(0.8, 20, 0.85, 1.1)
_LATER = Sampling(0.3, 20, 0.85, 1.05)
_CODES = Sampling(0.5, 5, 0.85, 1.3)


@dataclass(frozen=True)
class ReplySampling:
    """How a reply is drawn; the defaults are the published demo's.

    first, later: text of the first segment and of those after it (their `stop` is set by the program).
    codes: code frames. A segment has at most `max_segment_tokens` ids and `max_segment_frames` frames, a reply at most
    `max_segments` segments, a reply without speech at most `max_text_tokens` ids.
    stop_runaways: end a spoken reply that repeats itself or speaks far longer than its text needs (`runaway.py`).
    """

    first: Sampling = _FIRST
    later: Sampling = _LATER
    codes: Sampling = _CODES
    max_segment_tokens: int = 50
    max_segment_frames: int = 500
    max_segments: int = 64
    max_text_tokens: int = 1024
    stop_runaways: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ReplySampling:
        """The entry `reply_sampling` of `config.json` (a small model may want other values), else the defaults."""
        return strict(cls, config.get("reply_sampling") or {}, "config.json: reply_sampling")

    def greedy(self) -> ReplySampling:
        """The same with the likeliest text and codes; the penalties stay."""
        first, later, codes = (replace(each, temperature=0.0) for each in (self.first, self.later, self.codes))
        return replace(self, first=first, later=later, codes=codes)


def write_text_reply(
    session: Session, tokenizer: TextTokenizer, sampling: Sampling, max_new_tokens: int
) -> Generator[str, None, str | None]:
    """A reply without speech, piece by piece; it ends with endoftext, at the limit, or when it only repeats itself."""
    pieces = follow(session, text_reply(session, tokenizer, sampling, max_new_tokens))
    return cast("Generator[str, None, str | None]", pieces)


def write_spoken_reply(
    session: Session, tokenizer: TextTokenizer, sampling: ReplySampling
) -> Generator[str | Tensor, None, str | None]:
    """A spoken reply: text piece by piece, and after each text segment its codes [K, T]. Returns why it ended.

    The reply ends when the model says so; also after `max_segments`, when it would speak without having written
    anything, and when it runs away (`runaway.py`).
    """
    pieces = follow(session, spoken_reply(session, tokenizer, sampling))
    return cast("Generator[str | Tensor, None, str | None]", pieces)


def follow(session: Session, program: ReplyProgram) -> Generator[str | Tensor | SentenceEnd, None, str | None]:
    """Run the rules of a reply on a session of its own: what they give out, as it is made. Returns why they ended."""
    events = follow_frames(session, program)
    try:
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                ending: str | None = end.value
                return ending
            if not isinstance(event, tuple):
                yield event
    finally:
        events.close()


def follow_frames(
    session: Session, program: ReplyProgram
) -> Generator[str | Frame | Tensor | SentenceEnd, None, str | None]:
    """`follow`, with each code frame when it is drawn; the codes [K, T] then say that their segment is complete."""
    answer: DecodeResult = None
    try:
        while True:
            try:
                event = program.send(answer)
            except StopIteration as end:
                ending: str | None = end.value
                return ending
            if isinstance(event, (TextRequest, FrameRequest)):
                answer = session.answer(event)
                if isinstance(answer, tuple):
                    yield answer
            else:
                answer = None
                yield event
    finally:
        program.close()


def text_reply(
    sequence: TokenSequence, tokenizer: TextTokenizer, sampling: Sampling, max_new_tokens: int
) -> ReplyProgram:
    """The rules of a reply without speech (see `write_text_reply`)."""
    special = sequence.special
    stream = tokenizer.stream()
    written: list[int] = []
    ending: str | None = "limit"
    try:
        while len(written) < max_new_tokens:
            id = yield from _next_id(sequence, TextRequest(sampling, suppressed=(special.audiogen_start,)))
            written.append(id)
            piece = "" if id == special.end_of_text else stream.push(id)
            if piece:
                yield piece
            if id == special.end_of_text:
                ending = None
                break
            if text_repeats_itself(written):
                ending = REPETITION
                break
        rest = stream.flush()
        if rest:
            yield rest
    finally:
        _end(sequence)
    return ending


def spoken_reply(sequence: TokenSequence, tokenizer: TextTokenizer, sampling: ReplySampling) -> ReplyProgram:
    """The rules of a spoken reply (see `write_spoken_reply`)."""
    clauses: list[str] = []
    guard = RunawayGuard() if sampling.stop_runaways else None
    ended = False
    try:
        while not ended:
            if len(clauses) == sampling.max_segments:
                return "limit"
            clause, ended = yield from _write_clause(sequence, tokenizer, sampling, not clauses, guard)
            if guard is not None and guard.reason is not None:
                return guard.reason
            if not clause.strip():
                break
            clauses.append(clause)
            if guard is not None and _same_clauses(clauses, tokenizer):
                return REPETITION
            least = least_frames(clause) if ended and len(clauses) == 1 else 0
            codes = yield from _speak_clause(sequence, clause, sampling, guard, least)
            if codes.shape[1]:
                yield codes
            if guard is not None and guard.reason is not None:
                return guard.reason
    finally:
        _end(sequence)
    return None


def read_aloud(
    sequence: TokenSequence,
    tokenizer: TextTokenizer,
    clauses: Sequence[Sequence[Sequence[int]]],
    sampling: ReplySampling,
    context: int,
) -> ReplyProgram:
    """The rules of reading aloud after the prompt that stands in the sequence: codes of each segment.

    clauses: of each the ids of its text segments. Before a clause only the prompt and the clause before it are kept, so
    a long text is read like a short one; in a clause that would grow beyond `context` positions, only the prompt.
    SentenceEnd is given out between two sentences. A clause that runs away is read anew after the prompt alone; one
    that always does ends the reading.
    """
    prompt, last = len(sequence), list[Token]()
    for number, clause in enumerate(clauses, 1):
        for attempt in range(_TRIES):
            if len(sequence) > prompt:
                sequence.cut(prompt)
                sequence.lay([] if attempt else last)
            ending, start = yield from _read_clause(sequence, tokenizer, clause, sampling, prompt, context)
            if ending is None:
                break
        else:
            return ending
        last = sequence.tokens[start:]
        if len(last) > context // 4:
            last = []
        if number < len(clauses) and tokenizer.decode(clause[-1]).rstrip(_CLOSING)[-1:] in _SENTENCE_ENDS:
            yield SentenceEnd()
    return None


def _read_clause(
    sequence: TokenSequence,
    tokenizer: TextTokenizer,
    clause: Sequence[Sequence[int]],
    sampling: ReplySampling,
    prompt: int,
    context: int,
) -> Generator[DecodeRequest | Tensor, DecodeResult, tuple[str | None, int]]:
    """Read one clause; returns why it was broken off, None where it came to its end, and where it begins."""
    guard, start = RunawayGuard() if sampling.stop_runaways else None, len(sequence)
    for segment in clause:
        if len(sequence) + len(segment) + sampling.max_segment_frames + 2 > context:
            sequence.cut(prompt)
            start = prompt
        sequence.lay(list(segment))
        text = tokenizer.decode(segment)
        least = least_frames(text) if len(clause) == 1 else 0
        codes = yield from _speak_clause(sequence, text, sampling, guard, least)
        if codes.shape[1]:
            yield codes
        if guard is not None and guard.reason is not None:
            return guard.reason, start
    return None, start


def _next_id(sequence: TokenSequence, step: TextRequest) -> Generator[DecodeRequest, DecodeResult, int]:
    """Ask for a text id and put it into the sequence."""
    id = yield step
    assert isinstance(id, int)
    sequence.append(id)
    return id


def _write_clause(
    sequence: TokenSequence,
    tokenizer: TextTokenizer,
    sampling: ReplySampling,
    first: bool,
    guard: RunawayGuard | None,
) -> Generator[DecodeRequest | str, DecodeResult, tuple[str, bool]]:
    """Write one text segment, giving out its pieces; returns its text, and whether the reply ends with it.

    The first goes on until audiogen_start; a later one also ends where a clause does. A full stop ends a clause only
    before a space, which shows one id later: that id is taken back.
    """
    special = sequence.special
    step = TextRequest(sampling.first if first else sampling.later)
    stream = tokenizer.stream()
    text = ""
    for _ in range(sampling.max_segment_tokens):
        id = yield from _next_id(sequence, step)
        if id == special.audiogen_start:
            break
        if id == special.end_of_text:
            sequence.pop()  # it comes after the speech
            return (yield from _finish(stream.flush(), text)), True
        if not first and text.endswith(".") and tokenizer.decode([id])[:1].isspace():
            sequence.pop()
            break
        piece = stream.push(id)
        text += piece
        if piece:
            yield piece
        if guard is not None and guard.write(id):
            break
        if not first and (CLAUSE_MARKS.intersection(piece) or text.endswith(". ")):
            break
    return (yield from _finish(stream.flush(), text)), False


def _finish(rest: str, text: str) -> Generator[str, DecodeResult, str]:
    if rest:
        yield rest
    return text + rest


def _end(sequence: TokenSequence) -> None:
    """Close the reply with endoftext, as the next turn expects it, however it ended."""
    if sequence.last == sequence.special.audiogen_start:
        sequence.pop()
    if sequence.last != sequence.special.end_of_text:
        sequence.append(sequence.special.end_of_text)


def _same_clauses(clauses: Sequence[str], tokenizer: TextTokenizer) -> bool:
    """Whether the last clauses are the same, and more than a word that people say several times."""
    last = clauses[-1]
    same = next((n for n, clause in enumerate(reversed(clauses)) if clause != last), len(clauses))
    return same >= _SAME_CLAUSES and same * len(tokenizer.encode(last)) >= _SAME_CLAUSES_IDS


def _speak_clause(
    sequence: TokenSequence, text: str, sampling: ReplySampling, guard: RunawayGuard | None, least: int = 0
) -> Generator[DecodeRequest, DecodeResult, Tensor]:
    """The audio segment after `text` under the eyes of `guard`; returns its codes [K, T]."""
    most = sampling.max_segment_frames
    if guard is None:
        return (yield from audio_segment(sequence, most, sampling.codes, least))
    guard.begin_audio(text)
    codes = yield from audio_segment(sequence, most, sampling.codes, least, guard.speak)
    guard.end_audio(most)
    return codes
