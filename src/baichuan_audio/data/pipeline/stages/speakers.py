"""Speakers within one source: stretches of speech -> pieces in which one person speaks.

A stretch in which the voice changes is split there; one in which two voices sound at once is dropped; neighbours of
one voice are joined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ...store.records import SAMPLE_RATE, Dropped, Piece
from ..audio_access import ANALYSIS_RATE, Samples, read_piece
from ..backends.overlap import OverlapDetector
from ..backends.registry import load_backend
from ..backends.speakers import SpeakerEncoder, pack
from ..clustering import average_linkage, centroids
from ..engine.stage import Context, Stage, StageResult
from ..signal_measures import quietest
from ..spoken_units import join
from .filters import drop

Embeddings = NDArray[np.float32]


@dataclass
class _Stretch:
    """A stretch with the embeddings of its windows [W, D]."""

    piece: Piece
    windows: Embeddings

    @property
    def mean(self) -> Embeddings:
        mean = self.windows.mean(axis=0)
        return mean / max(float(np.linalg.norm(mean)), 1e-9)


@dataclass(frozen=True)
class Speakers(Stage[Piece, Piece]):
    """change: cosine similarity of the halves below which a stretch is two people's and split between them;
    change_given: below which one whose text is given, and so cannot be split, is dropped. distance: of the clustering.

    Clustering decides by stretches of at least `certain_s`; a shorter one goes to the nearest voice, its neighbour's
    by preference. mixture: share of a second known voice in a stretch from which it counts as two voices at once.
    overlap: a backend that detects two voices at once, "" for none; overlap_s: seconds of it that drop a piece.
    """

    name: ClassVar[str] = "speakers"
    record: ClassVar[type] = Piece
    modules: ClassVar[tuple[str, ...]] = (f"{__package__.rpartition('.')[0]}.clustering",)
    backend: str = "campplus"
    change: float = 0.5
    change_given: float = 0.37
    distance: float = 0.6
    mixture: float = 0.4
    overlap: str = ""
    overlap_s: float = 0.3
    certain_s: float = 1.6
    join_s: float = 0.8
    longest_s: float = 28.0
    shortest_s: float = 0.5

    def backends(self) -> Sequence[tuple[str, str]]:
        return (("speakers", self.backend), *((("overlap", self.overlap),) if self.overlap else ()))

    def run(self, records: Sequence[Piece], context: Context) -> StageResult[Piece]:
        encode: SpeakerEncoder = load_backend("speakers", self.backend)
        detect: OverlapDetector | None = load_backend("overlap", self.overlap) if self.overlap else None
        dropped: list[Dropped] = []
        stretches: list[_Stretch] = []
        for piece in records:
            samples = read_piece(context.recordings, piece)
            if detect is not None and (seconds := detect(samples)) >= self.overlap_s:
                dropped.append(drop(piece, "two speakers at once", f"{seconds:.2f} s"))
                continue
            stretches += self._by_voice(piece, samples, encode, dropped)
        if not stretches:
            return StageResult([], dropped)
        labels, mixed = self._label(stretches)
        kept: list[Piece] = []
        for group in self._groups(stretches, labels, mixed):
            pieces = [stretches[index].piece for index in group]
            if mixed[group[0]]:
                dropped.append(drop(pieces[0], "two speakers at once"))
                continue
            windows = np.concatenate([stretches[index].windows for index in group])
            joined = self._joined(pieces, windows)
            if joined.seconds < self.shortest_s:
                dropped.append(drop(joined, "too short"))
            else:
                kept.append(joined)
        return StageResult(kept, dropped)

    def _by_voice(
        self, piece: Piece, samples: Samples, encode: SpeakerEncoder, dropped: list[Dropped]
    ) -> list[_Stretch]:
        size = round(encode.window_s * ANALYSIS_RATE)
        hop = size // 2
        windows = encode(windows_of(samples, size, hop))
        border, similarity = change_point(windows)
        if similarity >= (self.change_given if piece.given else self.change):
            return [_Stretch(piece, windows)]
        if piece.given:  # its text cannot be split between them
            dropped.append(drop(piece, "two speakers", f"{similarity:.2f}"))
            return []
        middle = border * hop + size // 2 - hop // 2
        around = samples[max(0, middle - hop) : middle + hop]
        cut = max(0, middle - hop) + quietest(around, ANALYSIS_RATE // 20)
        border = piece.start + cut * 3 // 2
        halves = [
            dataclasses.replace(piece, id=f"{piece.source}@{start}-{end}", start=start, end=end)
            for start, end in ((piece.start, border), (border, piece.end))
        ]
        first, second = samples[:cut], samples[cut:]
        return [
            *self._by_voice(halves[0], first, encode, dropped),
            *self._by_voice(halves[1], second, encode, dropped),
        ]

    def _label(self, stretches: Sequence[_Stretch]) -> tuple[list[int], list[bool]]:
        """A voice each, and whether two sound at once."""
        means = np.stack([stretch.mean for stretch in stretches])
        certain = np.array([stretch.piece.seconds >= self.certain_s for stretch in stretches])
        if not certain.any():
            certain[:] = True
        voices = centroids(means[certain], average_linkage(means[certain], self.distance))
        labels: list[int] = []
        for index, mean in enumerate(means):
            likeness = voices @ mean
            if index and not certain[index] and _gap(stretches[index - 1].piece, stretches[index].piece) < self.join_s:
                likeness[labels[-1]] += 0.1
            labels.append(int(likeness.argmax()))
        mixed = [_second_share(mean, voices) > self.mixture and c for mean, c in zip(means, certain, strict=True)]
        return labels, mixed

    def _groups(self, stretches: Sequence[_Stretch], labels: list[int], mixed: list[bool]) -> list[list[int]]:
        groups: list[list[int]] = []
        for index, stretch in enumerate(stretches):
            last = groups[-1][-1] if groups else None
            if (
                last is not None
                and labels[last] == labels[index]
                and not mixed[last]
                and not mixed[index]
                and _gap(stretches[last].piece, stretch.piece) <= self.join_s
                and (stretch.piece.end - stretches[groups[-1][0]].piece.start) <= self.longest_s * SAMPLE_RATE
                and stretches[last].piece.given == stretch.piece.given
            ):
                groups[-1].append(index)
            else:
                groups.append([index])
        return groups

    def _joined(self, pieces: Sequence[Piece], windows: Embeddings) -> Piece:
        first, last = pieces[0], pieces[-1]
        texts = [piece.text for piece in pieces if piece.text]
        extra = {key: value for piece in pieces for key, value in piece.extra.items()}
        mean = windows.mean(axis=0)
        return dataclasses.replace(
            first,
            id=f"{first.source}@{first.start}-{last.end}",
            end=last.end,
            text=join(texts, first.language) if texts else None,
            embedding=pack(mean / max(float(np.linalg.norm(mean)), 1e-9)),
            extra=extra,
        )


def windows_of(samples: Samples, size: int, hop: int) -> list[Samples]:
    """Windows [size] every `hop` samples, the last at the end; a shorter sound is repeated to fill one."""
    if len(samples) < size:
        return [np.resize(samples, size)] if len(samples) else [np.zeros(size, np.float32)]
    starts = [*range(0, len(samples) - size, hop), len(samples) - size]
    return [samples[start : start + size] for start in starts]


def change_point(windows: Embeddings) -> tuple[int, float]:
    """The window at which the voice changes most, and the cosine similarity of what is before and after it.

    Two windows on each side at least; those across the border count for neither side.
    """
    best = (0, 1.0)
    sums = np.concatenate([np.zeros((1, windows.shape[1]), np.float32), np.cumsum(windows, axis=0)])
    for border in range(2, len(windows) - 1):
        before, after = sums[border - 1] if border > 2 else sums[2], sums[-1] - sums[min(border + 1, len(windows) - 2)]
        similarity = float(before @ after / max(float(np.linalg.norm(before) * np.linalg.norm(after)), 1e-9))
        if similarity < best[1]:
            best = (border, similarity)
    return best


def _second_share(mean: Embeddings, voices: Embeddings) -> float:
    """How much of a second voice explains an embedding, against the first: the smaller weight over the larger of the
    best mixture of two known voices."""
    if len(voices) < 2:
        return 0.0
    likeness = voices @ mean
    first, second = np.argsort(-likeness)[:2]
    both = float(voices[first] @ voices[second])
    if both > 0.9:
        return 0.0
    a = (likeness[first] - both * likeness[second]) / (1 - both**2)
    b = (likeness[second] - both * likeness[first]) / (1 - both**2)
    return float(max(0.0, b) / max(float(a), 1e-6))


def _gap(first: Piece, second: Piece) -> float:
    return (second.start - first.end) / SAMPLE_RATE
