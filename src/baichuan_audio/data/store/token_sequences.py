"""A stored sample as the token sequence that training reads: ids, codes and the loss mask of every position."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DataError
from ..sequences import SequenceBuilder, TokenSequence
from .records import Sample, Segment

_DIVISIBLE = ("itts", "intlv", "tts")  # kinds in which a later part needs nothing of the earlier ones


def token_sequence(
    sample: Sample, codes: NDArray[np.int64], builder: SequenceBuilder, first: int = 0, end: int | None = None
) -> TokenSequence:
    """A sample and the codes [K, T] of its sound -> its sequence, by the layouts of docs/model.md, 8.

    The loss of every segment is the one stored with it. `first`, `end`: a part of it (see `parts_of`), which ends
    without the end of a reply where more follows, and of ITTS has no loss on its first text either.

    Raises:
        DataError: the codes end before the sample's last segment does.
    """
    if sample.kind == "sft":
        return _dialogue(sample, codes, builder)
    spoken = sample.kind in ("itts", "tts", "audio")
    previous_loss = False
    segments = list(sample.segments[first:end])
    if first and sample.kind == "itts":
        segments[0] = replace(segments[0], loss=False)
    for segment in segments:
        if segment.role == "system":
            builder.system(segment.text)
            builder.reply(spoken=True)
        elif segment.kind == "text":
            builder.text(segment.text, learn=segment.loss)
            previous_loss = segment.loss
        elif spoken:
            # The model chooses to begin to speak only after text that it wrote itself.
            builder.spoken(_frames(sample, segment, codes), learn_start=previous_loss, learn=segment.loss)
        else:
            builder.user_audio(_frames(sample, segment, codes))
    if sample.kind not in ("tts", "audio") and end in (None, len(sample.segments)):
        builder.end()
    return builder.finish()


def _dialogue(sample: Sample, codes: NDArray[np.int64], builder: SequenceBuilder) -> TokenSequence:
    role = ""
    for segment in sample.segments:
        if segment.role == "system":
            builder.system(segment.text)
            continue
        if segment.role != role:
            if role == "reply":
                builder.end()
            if segment.role == "user":
                builder.user()
            else:
                builder.reply(spoken=True)
            role = segment.role
        if segment.kind == "text":
            builder.text(segment.text, learn=segment.loss)
        elif role == "user":
            builder.user_audio(_frames(sample, segment, codes))
        else:
            builder.spoken(_frames(sample, segment, codes), learn=segment.loss)
    builder.end()
    return builder.finish()


def _frames(sample: Sample, segment: Segment, codes: NDArray[np.int64]) -> Tensor:
    first, end = segment.frames
    available = codes.shape[1]
    # An encoder gives one frame less where the last one is not full.
    if end > available + 1 or first >= available:
        raise DataError(f"{sample.id}: a segment ends at frame {end}, but there are codes of {available} only.")
    return torch.from_numpy(np.ascontiguousarray(codes[:, first : min(end, available)]))


def sequence_length(sample: Sample, builder: SequenceBuilder, num_codebooks: int) -> int:
    """Positions of a sample's sequence, one more than there are where the encoder gives a frame less."""
    return len(token_sequence(sample, _no_codes(sample, num_codebooks), builder))


def parts_of(
    sample: Sample, builder: SequenceBuilder, num_codebooks: int, max_length: int
) -> list[tuple[int, int, int]]:
    """An over-long sample in parts of at most `max_length` positions: (first segment, end, positions) of each.

    A part begins with a text and its audio (INTLV: an audio and its text). Empty where the sample cannot be split.
    """
    if sample.kind not in _DIVISIBLE or sample.segments[0].role == "system":
        return []
    codes, count = _no_codes(sample, num_codebooks), len(sample.segments)
    starts = [index for index, segment in enumerate(sample.segments) if segment.kind == sample.segments[0].kind]
    lengths = [
        len(token_sequence(sample, codes, builder, first, end))
        for first, end in zip(starts, [*starts[1:], count], strict=True)
    ]
    if max(lengths) > max_length:
        return []
    parts: list[tuple[int, int, int]] = []
    for first, end, length in zip(starts, [*starts[1:], count], lengths, strict=True):
        if parts and parts[-1][2] + length <= max_length:
            parts[-1] = (parts[-1][0], end, parts[-1][2] + length)
        else:
            parts.append((first, end, length))
    return parts


def _no_codes(sample: Sample, num_codebooks: int) -> NDArray[np.int64]:
    end = max((segment.frames[1] for segment in sample.segments), default=0)
    return np.zeros((num_codebooks, end), np.int64)


def mask_runs(sequence: TokenSequence, names: dict[int, str]) -> list[tuple[str, int, str]]:
    """Runs of positions with the same meaning: (name of the id or "text", count, loss).

    loss: "." nothing, "t" the id is learnt, "a" the position predicts a frame, "b" both.
    """
    runs: list[tuple[str, int, str]] = []
    for position, id_ in enumerate(sequence.ids.tolist()):
        text, audio = bool(sequence.text_loss[position]), bool(sequence.audio_loss[position])
        loss = "b" if text and audio else "t" if text else "a" if audio else "."
        name = names.get(id_, "text")
        if runs and runs[-1][0] == name and runs[-1][2] == loss:
            runs[-1] = (name, runs[-1][1] + 1, loss)
        else:
            runs.append((name, 1, loss))
    return runs
