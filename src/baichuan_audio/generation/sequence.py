"""A sequence in generation: its tokens, how many the backbone has read, and the requests a reply program may make.

Nothing here runs the model. Reply programs (`reply.py`) are generators that add ids and frames to a sequence and ask
for the next one by a `DecodeRequest`. `Session` computes the results for one sequence, the engine for a batch of them,
so the rules of a reply exist once.
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
from ..language_model.model import LanguageModel
from ..language_model.prompt import SpecialTokens
from ..language_model.sampling import CodeSampler, Sampling, TextSampler

Frame = tuple[int, ...]
"""The K codes of one frame."""
Token = int | Frame
"""One position: an id, or the codes of a frame, whose id is audio_pad."""


@dataclass(frozen=True)
class TextRequest:
    """Asks for one text id; control tokens are never sampled, nor are `suppressed_tokens`."""

    sampling: Sampling
    suppressed_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class FrameRequest:
    """Asks for one code frame; the result is None where the audio segment ends, which only happens if `may_end`."""

    sampling: Sampling
    may_end: bool = True


DecodeRequest = TextRequest | FrameRequest
DecodeResult = int | Frame | None


class TokenSequence:
    """The positions of one sequence, of which the backbone has read the first `read`.

    token_counts [V]: how often each id occurs (for the repetition penalty of text). random: draws for this sequence
    alone.
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
        self.token_counts = torch.zeros(vocab_size, dtype=torch.int32, device=device)
        self._codebook_sizes = tuple(codebook_sizes)
        self.seen_code_masks: list[Tensor] = []  # see `seen_codes`; empty at the beginning of an audio segment

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
        """Tokens that the backbone has not read."""
        return self.tokens[self.read :]

    def append(self, token: Token) -> None:
        """Add one id (no audio_pad) or frame; the backbone reads it before the next request is answered."""
        if token == self.special.audio_pad:
            raise PromptError("an audio_pad id needs its codes; append the frame.")
        self.tokens.append(token)
        self.token_counts[self._id(token)] += 1

    def extend(self, tokens: Sequence[Token]) -> None:
        """Add several tokens at once."""
        self.tokens += tokens
        ids = torch.tensor([self._id(token) for token in tokens], dtype=torch.long, device=self.token_counts.device)
        self.token_counts += torch.bincount(ids, minlength=self.token_counts.shape[0]).int()

    def pop(self) -> int | None:
        """Remove and return the last id, if the backbone has not read it yet; None otherwise."""
        if len(self.tokens) <= self.read or isinstance(self.tokens[-1], tuple):
            return None
        id = self._id(self.tokens.pop())
        self.token_counts[id] -= 1
        return id

    def truncate(self, length: int) -> None:
        """Keep only the first `length` positions."""
        kept = self.tokens[:length]
        self.tokens, self.read = [], min(self.read, length)
        self.token_counts.zero_()
        self.extend(kept)

    def begin_segment(self) -> None:
        """Begin an audio segment: add audiogen_start unless it is the last id, and clear the seen codes."""
        if self.last != self.special.audiogen_start:
            self.append(self.special.audiogen_start)
        self.seen_code_masks = []

    def seen_codes(self, level: int) -> Tensor:
        """[size] bool: the codes of codebook `level` that occur in this audio segment (level 0: and its end mark)."""
        if not self.seen_code_masks:
            self.seen_code_masks = [
                torch.zeros(size + (level == 0), dtype=torch.bool, device=self.token_counts.device)
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
    """Generate one audio segment of `min_frames` to `max_frames` frames; returns its codes [K, T].

    audiogen_start is added before and audiogen_end after it, also when it is interrupted; a last frame at the limit is
    not fed back: audiogen_end takes its position. stop: called with each frame; True ends the segment after it.
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
    """Length of the common prefix."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))


def draw_ids(
    model: LanguageModel, hidden: Tensor, sequences: Sequence[TokenSequence], requests: Sequence[TextRequest]
) -> list[int]:
    """hidden [B, D] -> the next text id of each row."""
    size = model.config.vocab_size
    sampler = TextSampler(
        [request.sampling for request in requests],
        [sequence.random for sequence in sequences],
        [sequence.token_counts for sequence in sequences],
        [
            _token_mask(size, sequence.special.control_ids + request.suppressed_tokens, hidden.device)
            for sequence, request in zip(sequences, requests, strict=True)
        ],
    )
    return model.sample_ids(hidden, sampler)


def draw_frames(
    head: AudioHead,
    hidden: Tensor,
    cache: DepthCache,
    sequences: Sequence[TokenSequence],
    requests: Sequence[FrameRequest],
) -> list[Frame | None]:
    """hidden [B, D] -> the next code frame of each row, None where its audio segment ends."""
    sampler = CodeSampler(
        [request.sampling for request in requests],
        [sequence.random for sequence in sequences],
        [request.may_end for request in requests],
        lambda row, level: sequences[row].seen_codes(level),
    )
    return head.frames(hidden, cache, sampler)[0]


@lru_cache(maxsize=16)
def _token_mask(size: int, ids: tuple[int, ...], device: torch.device) -> Tensor:
    """[size] bool, True at `ids`."""
    with torch.inference_mode(False):  # the same mask is used with and without inference mode
        mask = torch.zeros(size, dtype=torch.bool, device=device)
        mask[[id for id in ids if 0 <= id < size]] = True
    return mask
