"""Transcripts with times: stretches of speech between pauses, and the ways to write them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..audio.waveform import resample
from .turn_detection import SAMPLE_RATE, ServerVad, SpeechStarted, SpeechStopped, TurnDetector

_PAUSE_MS = 400
_MARGIN_S = 0.1  # sound kept around a stretch, so that no consonant is cut
_LONGEST_S = 30.0
_BLOCK = 16000


@dataclass(frozen=True)
class Segment:
    """What was said between two times in seconds."""

    start: float
    end: float
    text: str


def speech_spans(waveform: Tensor, sample_rate: int) -> list[tuple[float, float]]:
    """Where in waveform [S] somebody speaks: (start, end) in seconds, in order, cut at pauses and after 30 s."""
    samples = resample(waveform, sample_rate, SAMPLE_RATE).numpy()
    seconds = len(waveform) / sample_rate
    detector = TurnDetector(ServerVad(prefix_padding_ms=int(1000 * _MARGIN_S), silence_duration_ms=_PAUSE_MS))
    spans: list[tuple[float, float]] = []
    started: float | None = None
    for place in range(0, len(samples), _BLOCK):
        for found in detector.push(samples[place : place + _BLOCK]):
            if isinstance(found, SpeechStarted):
                started = found.start / SAMPLE_RATE
            elif isinstance(found, SpeechStopped) and started is not None:
                spans += _cut(started, min(seconds, found.speech_end / SAMPLE_RATE + _MARGIN_S))
                started = None
    if started is not None:
        spans += _cut(started, seconds)
    return spans


def _cut(start: float, end: float) -> Iterator[tuple[float, float]]:
    while end - start > _LONGEST_S:
        yield start, start + _LONGEST_S
        start += _LONGEST_S
    yield start, end


def srt(segments: Sequence[Segment]) -> str:
    """SubRip."""
    blocks = (
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{segment.text}\n"
        for number, segment in enumerate(segments, 1)
    )
    return "\n".join(blocks)


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT."""
    blocks = (
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{segment.text.replace('-->', '->')}\n"
        for segment in segments
    )
    return "\n".join(["WEBVTT\n", *blocks])


def verbose(segments: Sequence[Segment]) -> Iterator[dict[str, Any]]:
    """OpenAI's fields of a segment; what is not known here is 0."""
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


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"
