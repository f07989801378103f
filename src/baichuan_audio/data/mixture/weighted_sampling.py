"""Weighted sampling with replacement, of utterances and dialogues and of any items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from ...text.language import voice_language
from ..dialogues import Dialogue

T = TypeVar("T")


@dataclass(frozen=True)
class Utterance:
    """A transcribed clip; `voice` is the output voice that speaks it, None for any other speaker."""

    clip: str
    transcript: str
    voice: str | None = None
    source: str = ""
    """The entry of `source_weights` that applies to the clip, or its source or kind."""
    text: str | None = None
    """The transcript with capitals and punctuation, where known."""


class WeightedItems(Generic[T]):
    """Items drawn by weight, with replacement."""

    def __init__(self, items: Sequence[T], weights: Sequence[float] | np.ndarray) -> None:
        self.items, self._ends = items, np.cumsum(weights)

    def __len__(self) -> int:
        return len(self.items)

    def pick(self, rng: np.random.Generator, first: int = 0) -> T:
        """One of the items from index `first` on."""
        begin = self._ends[first - 1] if first else 0.0
        drawn = begin + rng.random() * (self._ends[-1] - begin)
        return self.items[min(int(np.searchsorted(self._ends, drawn, side="right")), len(self.items) - 1)]


class SkillSampler(WeightedItems[Dialogue]):
    """Dialogues by their own weight times those of their skill and language."""

    def __init__(
        self, dialogues: Sequence[Dialogue], skills: Mapping[str, float], languages: Mapping[str, float]
    ) -> None:
        weights = [d.weight * skills.get(d.skill, 1.0) * languages.get(d.language, 1.0) for d in dialogues]
        super().__init__(dialogues, weights)


class SourceSampler:
    """Utterances: a source by its weight, within it by the weight of the language."""

    def __init__(
        self, utterances: Sequence[Utterance], source_weights: Mapping[str, float], languages: Mapping[str, float]
    ) -> None:
        by_source: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            by_source.setdefault(utterance.source, []).append(utterance)
        items = [
            WeightedItems(group, [languages.get(voice_language(u.transcript), 1.0) for u in group])
            for group in by_source.values()
        ]
        self._sources = WeightedItems(items, [source_weights.get(source, 1.0) for source in by_source])

    def __len__(self) -> int:
        return sum(map(len, self._sources.items))

    def pick(self, rng: np.random.Generator) -> Utterance:
        return self._sources.pick(rng).pick(rng)


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """One item, all equally likely."""
    return items[int(rng.integers(len(items)))]
