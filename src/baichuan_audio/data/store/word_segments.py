"""Stored samples for a model that speaks run of words by run of words, not clause by clause."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from ...generation.interleaving import lookahead_schedule, split_words
from ...language_model.text_tokenizer import TextTokenizer
from .records import FRAME_SAMPLES, Sample, Segment

_SPOKEN = ("itts", "tts", "sft")


def segments_by_words(sample: Sample, tokenizer: TextTokenizer, min_letters: int) -> Sample:
    """The sample with each generated clause cut into runs of words of at least `min_letters` letters, as in inference
    (`generation/interleaving.py`); a clause whose words have no times stays whole.
    """
    if sample.kind not in _SPOKEN:
        return sample
    segments: list[Segment] = []
    for segment in sample.segments:
        before = segments[-1] if segments else None
        if segment.kind == "audio" and segment.role == "reply" and before is not None and before.kind == "text":
            segments[-1:] = _in_runs(sample, before, segment, tokenizer, min_letters)
        else:
            segments.append(segment)
    return replace(sample, segments=tuple(segments))


def _in_runs(
    sample: Sample, text: Segment, audio: Segment, tokenizer: TextTokenizer, min_letters: int
) -> Iterator[Segment]:
    """A clause's text and audio in turn."""
    runs = _runs(sample, text.text, audio, tokenizer, min_letters)
    schedule = lookahead_schedule([words for words, _ in runs])
    starts = [audio.start, *(runs[spoken - 1][1] for _, spoken in schedule)]
    for (words, _), (start, end) in zip(schedule, pairwise(starts), strict=True):
        yield replace(text, text=words)
        yield replace(audio, text="", start=start, end=end)


def _runs(
    sample: Sample, text: str, audio: Segment, tokenizer: TextTokenizer, min_letters: int
) -> list[tuple[str, int]]:
    """Runs of words, each with the sample at which it ends, on a frame's border; one without a frame joins the next."""
    times = _word_times(sample, text, audio)
    if not times:
        return [(text, audio.end)]
    first, last = audio.frames
    runs: list[tuple[str, int]] = []
    waiting, position, before = "", 0, first
    for words in split_words(text, tokenizer, min_letters):
        waiting, position = waiting + words, position + len(words)
        end = max((end for start, end in times if start < position), default=0)
        frame = math.ceil(end / FRAME_SAMPLES - 0.5)  # frames whose middle is before the end
        if before < frame < last:
            runs.append((waiting, frame * FRAME_SAMPLES))
            waiting, before = "", frame
    if not waiting:
        return [*runs[:-1], (runs[-1][0], audio.end)]
    return [*runs, (waiting, audio.end)]


def _word_times(sample: Sample, text: str, audio: Segment) -> list[tuple[int, int]]:
    """Where each word of a clause begins in its text, and the sample at which it ends; [] where one is not found."""
    times: list[tuple[int, int]] = []
    position, lower = 0, text.lower()
    for word in sample.words:
        if audio.start <= (word.start + word.end) // 2 < audio.end:
            start = lower.find(word.text.lower(), position)
            if start < 0:
                return []
            times.append((start, word.end))
            position = start + len(word.text)
    return times
