"""What the user hears of a Realtime session, on the clock of the audio that is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RATE = 24_000
"""Samples a second of the sound in both directions."""
SILENCE_DB = -50.0
"""A frame below this level, relative to full scale, is silent."""
MERGE_GAP_S = 0.5
"""Silence up to this length lies within a stretch of speech, as in Full-Duplex-Bench's timing of model speech."""


@dataclass(frozen=True)
class Cut:
    """A reply that ended before its end. at_s: when; lost_s: seconds of its sound that were never played."""

    at_s: float
    lost_s: float


class Playback:
    """A client's loudspeaker: sound starts when it arrives or when what came before has ended; times in seconds since
    the first sample was sent.

    words: when each piece of a transcript begins to be played, and the piece.
    """

    def __init__(self) -> None:
        self._pieces: list[tuple[int, np.ndarray, str]] = []  # first sample, samples, item
        self._end = 0
        self.words: list[tuple[float, str]] = []
        self.cuts: list[Cut] = []

    def receive(self, item: str, samples: np.ndarray, now_s: float) -> None:
        """Sound [S] of an item of the conversation."""
        start = max(self._end, round(now_s * RATE))
        self._pieces.append((start, samples, item))
        self._end = start + len(samples)

    def receive_text(self, text: str, now_s: float) -> None:
        """A piece of the transcript, whose sound comes after what has come so far."""
        self.words.append((max(self._end / RATE, now_s), text))

    def playing(self, now_s: float) -> bool:
        """Whether sound is being played or waits."""
        return self._end > now_s * RATE

    def interrupt(self, now_s: float) -> tuple[str, int] | None:
        """Drop what was not played yet -> the item that was cut and the milliseconds of it that were played."""
        now = round(now_s * RATE)
        if self._end <= now:
            return None
        self.cuts.append(Cut(now_s, (self._end - now) / RATE))
        first = next(index for index, (start, samples, _) in enumerate(self._pieces) if start + len(samples) > now)
        item = self._pieces[first][2]
        kept = self._pieces[:first]
        start, samples, _ = self._pieces[first]
        if now > start:
            kept.append((start, samples[: now - start], item))
        self._pieces, self._end = kept, now
        self.words = [(at, text) for at, text in self.words if at < now_s]
        played = sum(len(samples) for _, samples, owner in kept if owner == item)
        return item, played * 1000 // RATE

    @property
    def end_s(self) -> float:
        """When the last sound that came has been played."""
        return self._end / RATE

    def waveform(self, seconds: float | None = None) -> np.ndarray:
        """What was played [S] at RATE; seconds: its length, else up to the end of the last sound."""
        length = self._end if seconds is None else round(seconds * RATE)
        output = np.zeros(length, np.float32)
        for start, samples, _ in self._pieces:
            part = samples[: max(length - start, 0)]
            output[start : start + len(part)] = part
        return output


def audible_segments(waveform: np.ndarray, merge_gap_s: float = MERGE_GAP_S) -> list[tuple[float, float]]:
    """Stretches of sound in samples [S] at RATE, in seconds, to 10 ms."""
    size = RATE // 100
    frames = np.resize(waveform, (len(waveform) // size, size)) if len(waveform) >= size else np.zeros((0, size))
    loud = np.flatnonzero(np.sqrt(np.square(frames).mean(1)) > 10 ** (SILENCE_DB / 20))
    segments: list[list[float]] = []
    for frame in loud.tolist():
        start, end = frame / 100, (frame + 1) / 100
        if segments and start - segments[-1][1] <= merge_gap_s + 1e-9:
            segments[-1][1] = end
        else:
            segments.append([start, end])
    return [(start, end) for start, end in segments]


def count_words(pieces: Sequence[str]) -> int:
    """Words of a transcript in pieces; every Chinese character counts as one."""
    text = "".join(pieces)
    han = sum("\u3400" <= letter <= "\u9fff" for letter in text)
    spaced = "".join(" " if "\u3400" <= letter <= "\u9fff" else letter for letter in text)
    return han + sum(any(letter.isalnum() for letter in word) for word in spaced.split())
