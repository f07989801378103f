"""Reply programs: text segments and audio segments alternate until the model ends the reply (docs/model.md, 7).

A program is a generator that asks for each id and frame. `run_program` runs one on a session; the engine runs those of
many replies in one batch.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..config import strict
from ..language_model.prompt import CLAUSE_MARKS, SENTENCE_MARKS
from ..language_model.sampling import Sampling
from ..language_model.text_tokenizer import TextTokenizer
from .events import SegmentEnd, SentenceEnd, TextDelta
from .runaway import REPETITION, RunawayGuard, min_speech_frames, text_repeats_itself
from .runner import Program, ReplyProgram
from .sequence import DecodeRequest, DecodeResult, TextRequest, Token, TokenSequence, audio_segment

_SAME_CLAUSES, _SAME_CLAUSES_IDS = 3, 24
_MAX_ATTEMPTS = 3  # at reading one clause aloud
_SENTENCE_ENDS, _CLOSING = SENTENCE_MARKS | {"."}, " \n\t\"')]}”’」』）】》"
# the published demo's
_FIRST = Sampling(0.8, 20, 0.85, 1.1)
_LATER = Sampling(0.3, 20, 0.85, 1.05)
_CODES = Sampling(0.5, 5, 0.85, 1.3)


@dataclass(frozen=True)
class ReplySampling:
    """How a reply is sampled; the defaults are the published demo's.

    first, later: text of the first segment and of those after it (their `stop` is set by the program).
    codes: code frames. A segment has at most `max_segment_tokens` ids and `max_segment_frames` frames, a reply at most
    `max_segments` segments, a reply without speech at most `max_text_tokens` ids.
    stop_runaways: end a spoken reply that repeats itself or is far longer than its text needs (`runaway.py`).
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
        """The same with greedy decoding of text and codes; the penalties stay."""
        first, later, codes = (replace(sampling, temperature=0.0) for sampling in (self.first, self.later, self.codes))
        return replace(self, first=first, later=later, codes=codes)


def text_reply(
    sequence: TokenSequence, tokenizer: TextTokenizer, sampling: Sampling, max_new_tokens: int
) -> ReplyProgram:
    """A reply without speech: TextDelta. It ends with endoftext, at the limit, or when it repeats itself."""
    special = sequence.special
    stream = tokenizer.stream()
    written: list[int] = []
    ending: str | None = "limit"
    try:
        while len(written) < max_new_tokens:
            id = yield from _next_id(sequence, TextRequest(sampling, suppressed_tokens=(special.audiogen_start,)))
            written.append(id)
            piece = "" if id == special.end_of_text else stream.push(id)
            if piece:
                yield TextDelta(piece)
            if id == special.end_of_text:
                ending = None
                break
            if text_repeats_itself(written):
                ending = REPETITION
                break
        rest = stream.flush()
        if rest:
            yield TextDelta(rest)
    finally:
        _end(sequence)
    return ending


def spoken_reply(sequence: TokenSequence, tokenizer: TextTokenizer, sampling: ReplySampling) -> ReplyProgram:
    """A spoken reply: TextDelta, and a SegmentEnd after the audio of each text segment.

    It ends when the model ends it; also after `max_segments`, when an audio segment would have no text, and when it
    runs away (`runaway.py`).
    """
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
            min_frames = min_speech_frames(clause) if ended and len(clauses) == 1 else 0
            codes = yield from _speak_clause(sequence, clause, sampling, guard, min_frames)
            if codes.shape[1]:
                yield SegmentEnd(codes)
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
    """Reads text aloud after the prompt in `sequence`: a SegmentEnd for each text segment.

    clauses: the ids of the text segments of each clause. Before a clause only the prompt and the previous clause are
    kept, so a long text is read like a short one; in a clause that would grow beyond `context` positions, only the
    prompt. SentenceEnd comes between two sentences. A clause that runs away is read again after the prompt alone; one
    that fails at every attempt ends the reading.
    """
    prompt, last = len(sequence), list[Token]()
    for number, clause in enumerate(clauses, 1):
        for attempt in range(_MAX_ATTEMPTS):
            if len(sequence) > prompt:
                sequence.truncate(prompt)
                sequence.extend([] if attempt else last)
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
) -> Program[tuple[str | None, int]]:
    """Read one clause; returns why it was interrupted (None: it is complete), and the position where it begins."""
    guard, start = RunawayGuard() if sampling.stop_runaways else None, len(sequence)
    for segment in clause:
        if len(sequence) + len(segment) + sampling.max_segment_frames + 2 > context:
            sequence.truncate(prompt)
            start = prompt
        sequence.extend(list(segment))
        text = tokenizer.decode(segment)
        min_frames = min_speech_frames(text) if len(clause) == 1 else 0
        codes = yield from _speak_clause(sequence, text, sampling, guard, min_frames)
        if codes.shape[1]:
            yield SegmentEnd(codes)
        if guard is not None and guard.reason is not None:
            return guard.reason, start
    return None, start


def _next_id(sequence: TokenSequence, request: TextRequest) -> Generator[DecodeRequest, DecodeResult, int]:
    """Ask for a text id and add it to the sequence."""
    id = yield request
    assert isinstance(id, int)
    sequence.append(id)
    return id


def _write_clause(
    sequence: TokenSequence,
    tokenizer: TextTokenizer,
    sampling: ReplySampling,
    first: bool,
    guard: RunawayGuard | None,
) -> Program[tuple[str, bool]]:
    """Write one text segment; returns its text, and whether the reply ends with it.

    The first continues until audiogen_start; a later one also ends where a clause does. A full stop ends a clause only
    before a space, which is known one id later: that id is removed again.
    """
    special = sequence.special
    request = TextRequest(sampling.first if first else sampling.later)
    stream = tokenizer.stream()
    text = ""
    for _ in range(sampling.max_segment_tokens):
        id = yield from _next_id(sequence, request)
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
            yield TextDelta(piece)
        if guard is not None and guard.add_id(id):
            break
        if not first and (CLAUSE_MARKS.intersection(piece) or text.endswith(". ")):
            break
    return (yield from _finish(stream.flush(), text)), False


def _finish(rest: str, text: str) -> Generator[TextDelta, DecodeResult, str]:
    if rest:
        yield TextDelta(rest)
    return text + rest


def _end(sequence: TokenSequence) -> None:
    """End the reply with endoftext, as the next turn expects it, however the reply ended."""
    if sequence.last == sequence.special.audiogen_start:
        sequence.pop()
    if sequence.last != sequence.special.end_of_text:
        sequence.append(sequence.special.end_of_text)


def _same_clauses(clauses: Sequence[str], tokenizer: TextTokenizer) -> bool:
    """Whether the last clauses are identical, and longer than a word that people do say several times."""
    last = clauses[-1]
    same = next((n for n, clause in enumerate(reversed(clauses)) if clause != last), len(clauses))
    return same >= _SAME_CLAUSES and same * len(tokenizer.encode(last)) >= _SAME_CLAUSES_IDS


def _speak_clause(
    sequence: TokenSequence, text: str, sampling: ReplySampling, guard: RunawayGuard | None, min_frames: int = 0
) -> Generator[DecodeRequest, DecodeResult, Tensor]:
    """The audio segment after `text`, watched by `guard`; returns its codes [K, T]."""
    max_frames = sampling.max_segment_frames
    if guard is None:
        return (yield from audio_segment(sequence, max_frames, sampling.codes, min_frames))
    guard.begin_audio(text)
    codes = yield from audio_segment(sequence, max_frames, sampling.codes, min_frames, guard.add_frame)
    guard.end_audio(max_frames)
    return codes
