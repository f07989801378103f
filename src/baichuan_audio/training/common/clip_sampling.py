"""Which clips an audio stage draws: a source by its weight, within it every second as likely as any other."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...data.mixture.weighted_sampling import WeightedItems
from ...data.store.manifest import Clip
from ...errors import DataError


def clip_source(clip: Clip, source_weights: Mapping[str, float]) -> str | None:
    """The entry of `source_weights` that applies to a clip, by its source, kind or speaker; "" where it is empty.

    Where none names it, the first entry that matches as a shell-style pattern (`skill *`, `*`) applies.
    """
    if not source_weights:
        return ""
    names = (clip.source, clip.kind, clip.speaker)
    matching = (entry for entry in source_weights if any(fnmatch.fnmatchcase(name, entry) for name in names))
    return next((name for name in names if name in source_weights), None) or next(matching, None)


def clip_weights(clips: Sequence[Clip], lengths: Sequence[float], source_weights: Mapping[str, float]) -> np.ndarray:
    """[N] how likely each clip is drawn: a source by its weight, within it every second alike.

    Raises DataError where no clip may be drawn.
    """
    sources = [clip_source(clip, source_weights) for clip in clips]
    totals: dict[str | None, float] = {}
    for source, length in zip(sources, lengths, strict=True):
        totals[source] = totals.get(source, 0.0) + length
    shares = source_weights or {"": 1.0}
    weights = np.array([
        shares.get(source or "", 0.0) * length / totals[source] if source is not None else 0.0
        for source, length in zip(sources, lengths, strict=True)
    ])  # fmt: skip
    if not weights.any():
        raise DataError(
            f"there is no usable clip of the sources {', '.join(source_weights) or '(any)'}; check `source_weights`, "
            "the dataset and its codes."
        )
    return weights


class _Row(NamedTuple):
    clip: Clip
    length: int
    weight: float


def _weighted(rows: Sequence[_Row]) -> WeightedItems[_Row]:
    return WeightedItems(rows, [row.weight for row in rows])


class CropSampler:
    """Crops of clips whose `lengths` (code frames or samples) give the unit of every length and start below."""

    def __init__(self, clips: Sequence[Clip], lengths: Sequence[int], source_weights: Mapping[str, float]) -> None:
        weights = clip_weights(clips, lengths, source_weights)
        rows = [_Row(*row) for row in zip(clips, lengths, weights.tolist(), strict=True) if row[2] > 0]
        ascending = sorted(rows, key=lambda row: (row.length, row.clip.id))
        self._lengths = np.array([row.length for row in ascending])
        self._clips = _weighted(ascending)
        by_source = [
            [row for row in rows if clip_source(row.clip, source_weights) == name] for name in source_weights or ("",)
        ]
        self._sources = WeightedItems(
            [_weighted(group) for group in by_source], [sum(row.weight for row in group) for group in by_source]
        )

    def equal_length(
        self, random: np.random.Generator, max_length: int, total: int
    ) -> tuple[int, list[tuple[Clip, int]]]:
        """A batch without padding: its crops' length, and (clip, start) of each.

        A drawn clip sets the length, at most `max_length`; clips at least as long fill the batch up to `total`.
        """
        length = min(max_length, self._clips.pick(random).length)
        first = int(np.searchsorted(self._lengths, length))
        rows = (self._clips.pick(random, first) for _ in range(max(1, total // length)))
        return length, [(row.clip, int(random.integers(row.length - length + 1))) for row in rows]

    def fixed_length(self, random: np.random.Generator, length: int, count: int) -> Iterator[tuple[Clip, int]]:
        """(clip, start) of `count` crops of one length; a shorter clip starts at 0. Sources are drawn first."""
        for source in [self._sources.pick(random) for _ in range(count)]:
            row = source.pick(random)
            yield row.clip, int(random.integers(max(1, row.length - length + 1)))
