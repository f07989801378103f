"""A sequence in the making: what stands in it, how much of it has been read, and what its rules may ask for.

Nothing here computes with the model. The rules of a reply (`reply.py`) are generators that lay ids and frames into a
sequence and ask for the next one by a `DecodeRequest`; whoever runs them answers: `Session` for one sequence at a
time, the engine for many in one batch. So there is one place that says how a reply goes, and two that compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import torch
from torch import Tensor

from ..errors import PromptError
from ..language_model.audio_head import AudioHead, DepthCache
from ..language_model.prompt import SpecialTokens
from ..language_model.sampling import Sampling, draw_rows

Frame = tuple[int, ...]
"""The K codes of one frame."""
Token = int | Frame
"""One position: an id, or the codes of a frame, which stand where the id is audio_pad."""


@dataclass(frozen=True)
class TextRequest:
    """Asks for one text id; control tokens are never chosen, nor are the ids `suppressed`."""

    sampling: Sampling
    suppressed: tuple[int, ...] = ()


@dataclass(frozen=True)
class FrameRequest:
    """Asks for one code frame; the answer is None where the audio segment ends, which only happens if `may_end`."""

    sampling: Sampling
    may_end: bool = True


@dataclass(frozen=True)
class SentenceEnd:
    """A sentence that is read aloud has been spoken, and another follows."""


DecodeRequest = TextRequest | FrameRequest
DecodeResult = int | Frame | None
ReplyProgram = Generator[DecodeRequest | str | Tensor | SentenceEnd, DecodeResult, str | None]
"""Asks by a Step and is sent its answer; gives out text, and the codes [K, T] of a finished audio segment.

It returns why it ended: None when the model ended it, "limit", or a reason of `runaway.py`.
"""


class TokenSequence:
    """The positions of one sequence, of which the backbone has read the first `read`.

    `counts` [V] is how often each id stands in it (for the penalty of text), `random` draws for it alone.
    """

    def __init__(
        self,
        special: SpecialTokens,
        vocab_size: int,
        codebook_sizes: Sequence[int],
        random: Random,
        device: torch.device | str = "cpu",
    ) -> None:
        self.special, self.random = special, random
        self.tokens: list[Token] = []
        self.read = 0
        self.counts = torch.zeros(vocab_size, dtype=torch.int32, device=device)
        self._codebook_sizes = tuple(codebook_sizes)
        self.seen_code_masks: list[Tensor] = []  # see `said`; empty at the beginning of an audio segment

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def ids(self) -> list[int]:
        """The whole sequence as ids, audio_pad for each frame."""
        return [self._id(token) for token in self.tokens]

    @property
    def last(self) -> int | None:
        """The last id (audio_pad for a frame); None in an empty sequence."""
        return self._id(self.tokens[-1]) if self.tokens else None

    @property
    def unread(self) -> list[Token]:
        """What the backbone has not seen yet."""
        return self.tokens[self.read :]

    def append(self, token: Token) -> None:
        """Add one id (no audio_pad) or frame, which the backbone will see before the next step is answered."""
        if token == self.special.audio_pad:
            raise PromptError("an audio_pad id needs its codes; append the frame.")
        self.tokens.append(token)
        self.counts[self._id(token)] += 1

    def lay(self, tokens: Sequence[Token]) -> None:
        """Add many at once."""
        self.tokens += tokens
        ids = torch.tensor([self._id(token) for token in tokens], dtype=torch.long, device=self.counts.device)
        self.counts += torch.bincount(ids, minlength=self.counts.shape[0]).int()

    def pop(self) -> int | None:
        """Remove the last id, if the backbone has not seen it yet; None otherwise."""
        if len(self.tokens) <= self.read or isinstance(self.tokens[-1], tuple):
            return None
        id = self._id(self.tokens.pop())
        self.counts[id] -= 1
        return id

    def cut(self, length: int) -> None:
        """Forget all but the first `length` positions."""
        kept = self.tokens[:length]
        self.tokens, self.read = [], min(self.read, length)
        self.counts.zero_()
        self.lay(kept)

    def begin_segment(self) -> None:
        """Begin an audio segment: its mark, unless it stands there already, and an empty memory for the penalty."""
        if self.last != self.special.audiogen_start:
            self.append(self.special.audiogen_start)
        self.seen_code_masks = []

    def said(self, level: int) -> Tensor:
        """[size] bool: which codes of codebook `level` this audio segment has had (level 0: with its end mark)."""
        if not self.seen_code_masks:
            self.seen_code_masks = [
                torch.zeros(size + (level == 0), dtype=torch.bool, device=self.counts.device)
                for level, size in enumerate(self._codebook_sizes)
            ]
        return self.seen_code_masks[level]

    def _id(self, token: Token) -> int:
        return self.special.audio_pad if isinstance(token, tuple) else token


def audio_segment(
    sequence: TokenSequence,
    max_frames: int,
    sampling: Sampling,
    min_frames: int = 0,
    stop: Callable[[Frame], bool] | None = None,
) -> Generator[DecodeRequest, DecodeResult, Tensor]:
    """The rules of one audio segment of `min_frames` to `max_frames` frames; returns its codes [K, T].

    audiogen_start is fed before and audiogen_end after it, also when it is abandoned; a last frame that met the limit
    is not fed back: audiogen_end stands in its place. `stop` is told each frame, and ends the segment after it by True.
    """
    sequence.begin_segment()
    frames: list[Frame] = []
    try:
        while len(frames) < max_frames:
            if frames:
                sequence.append(frames[-1])
            frame = yield FrameRequest(sampling, len(frames) >= min_frames)
            if frame is None:
                break
            assert isinstance(frame, tuple)
            frames.append(frame)
            if stop is not None and stop(frame):
                break
    finally:
        sequence.append(sequence.special.audiogen_end)
    return frames_to_codes(frames, len(sequence._codebook_sizes))


def frames_to_codes(frames: Sequence[Frame], num_codebooks: int) -> Tensor:
    """T frames -> codes [K, T] int64."""
    return torch.tensor(frames, dtype=torch.long).reshape(len(frames), num_codebooks).T


def common_length(first: Sequence[Token], second: Sequence[Token]) -> int:
    """Length of the common beginning."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def draw_ids(logits: Tensor, sequences: Sequence[TokenSequence], steps: Sequence[TextRequest]) -> list[int]:
    """logits [B, V] -> the text id of each row."""
    suppressed = [_mask(logits.shape[1], sequence.special.control_ids + step.suppressed, logits.device)
              for sequence, step in zip(sequences, steps, strict=True)]  # fmt: skip
    samplings = [step.sampling for step in steps]
    said = None
    if any(sampling.repetition_penalty != 1.0 for sampling in samplings):
        said = [sequence.counts > 0 for sequence in sequences]
    allowed = logits.masked_fill(torch.stack(suppressed), float("-inf"))
    return draw_rows(allowed, samplings, [sequence.random for sequence in sequences], said)


def draw_frames(
    head: AudioHead,
    hidden: Tensor,
    cache: DepthCache,
    sequences: Sequence[TokenSequence],
    steps: Sequence[FrameRequest],
) -> list[Frame | None]:
    """hidden [B, D] -> the next code frame of each row, None where its audio segment ends."""

    def choose(level: int, rows: list[int], logits: Tensor) -> list[int]:
        if level == 0 and not all(step.may_end for step in steps):
            logits = forbid_end(logits, [step.may_end for step in steps])
        samplings = [steps[row].sampling for row in rows]
        penalised = any(sampling.repetition_penalty != 1.0 for sampling in samplings)
        said = [sequences[row].said(level) for row in rows] if penalised else None
        drawn = draw_rows(logits, samplings, [sequences[row].random for row in rows], said)
        if penalised:
            for row, code in zip(rows, drawn, strict=True):
                sequences[row].said(level)[code] = True
        return drawn

    return head.frames(hidden, cache, choose)[0]


def forbid_end(logits: Tensor, may_end: Sequence[bool]) -> Tensor:
    """logits [B, size + 1] of the first codebook -> the same, without the end of audio in rows that may not end."""
    logits = logits.clone()
    logits[[row for row, may in enumerate(may_end) if not may], -1] = float("-inf")
    return logits


@lru_cache(maxsize=16)
def _mask(size: int, ids: tuple[int, ...], device: torch.device) -> Tensor:
    """[size] bool, True at `ids`."""
    with torch.inference_mode(False):  # one mask serves inference and all else
        mask = torch.zeros(size, dtype=torch.bool, device=device)
        mask[[id for id in ids if 0 <= id < size]] = True
    return mask
