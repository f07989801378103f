"""Transcripts with times, as subtitles or JSON."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Segment:
    """The transcript between two times in seconds."""

    start: float
    end: float
    text: str


def srt(segments: Sequence[Segment]) -> str:
    """SubRip."""
    blocks = (
        f"{number}\n{_timestamp(segment.start, ',')} --> {_timestamp(segment.end, ',')}\n{segment.text}\n"
        for number, segment in enumerate(segments, 1)
    )
    return "\n".join(blocks)


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT."""
    blocks = (
        f"{_timestamp(segment.start, '.')} --> {_timestamp(segment.end, '.')}\n{segment.text.replace('-->', '->')}\n"
        for segment in segments
    )
    return "\n".join(["WEBVTT\n", *blocks])


def verbose(segments: Sequence[Segment]) -> Iterator[dict[str, Any]]:
    """OpenAI's fields of a segment; what the model does not estimate is 0."""
    for number, segment in enumerate(segments):
        data = segment.text.encode()
        yield {
            "id": number,
            "seek": int(segment.start * 100),
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "text": segment.text,
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": 0.0,
            "compression_ratio": round(len(data) / len(zlib.compress(data)), 3),
            "no_speech_prob": 0.0,
        }


def _timestamp(seconds: float, separator: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{separator}{rest % 1000:03}"
