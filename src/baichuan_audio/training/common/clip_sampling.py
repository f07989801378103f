"""Which clips an audio stage draws: a source by its weight, within it every second as likely as any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ...data.mixture.weighted_sampling import WeightedItems
from ...data.store.manifest import Clip
from ...errors import DataError


def clip_source(clip: Clip, source_weights: Mapping[str, float]) -> str | None:
    """The entry of `source_weights` that applies to a clip, by its source, kind or speaker; "" where it is empty."""
    if not source_weights:
        return ""
    return next((name for name in (clip.source, clip.kind, clip.speaker) if name in source_weights), None)


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


class CropSampler:
    """Crops of clips whose `lengths` (code frames or samples) give the unit of every length and start below."""

    def __init__(self, clips: Sequence[Clip], lengths: Sequence[int], source_weights: Mapping[str, float]) -> None:
        weights = clip_weights(clips, lengths, source_weights)
        ordered = sorted(
            (pair for pair in zip(lengths, clips, weights, strict=True) if pair[2] > 0),
            key=lambda row: (row[0], row[1].id),
        )
        self._lengths = np.array([length for length, _, _ in ordered])
        clips = [clip for _, clip, _ in ordered]
        chances = np.array([weight for _, _, weight in ordered])
        rows = list(zip(clips, self._lengths.tolist(), strict=True))
        self._clips = WeightedItems(rows, chances)
        sources = np.array([clip_source(clip, source_weights) for clip in clips])
        groups = [sources == name for name in source_weights or ("",)]
        by_source = [
            WeightedItems([row for row, inside in zip(rows, group, strict=True) if inside], chances[group])
            for group in groups
            if group.any()
        ]
        self._sources = WeightedItems(by_source, [float(chances[group].sum()) for group in groups if group.any()])

    def equal_length(
        self, random: np.random.Generator, max_length: int, total: int
    ) -> tuple[int, list[tuple[Clip, int]]]:
        """A batch without padding: its crops' length, and (clip, start) of each.

        A drawn clip sets the length, at most `max_length`; clips at least as long fill the batch up to `total`.
        """
        length = min(max_length, self._clips.pick(random)[1])
        first = int(np.searchsorted(self._lengths, length))
        rows = (self._clips.pick(random, first) for _ in range(max(1, total // length)))
        return length, [(clip, int(random.integers(whole - length + 1))) for clip, whole in rows]

    def fixed_length(self, random: np.random.Generator, length: int, count: int) -> Iterator[tuple[Clip, int]]:
        """(clip, start) of `count` crops of one length; a shorter clip starts at 0. Sources are drawn first."""
        for source in [self._sources.pick(random) for _ in range(count)]:
            clip, whole = source.pick(random)
            yield clip, int(random.integers(max(1, whole - length + 1)))
