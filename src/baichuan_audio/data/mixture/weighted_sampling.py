"""What a mixture draws from: utterances and dialogues, by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from ...text.language import voice_language
from ..dialogues import Dialogue
from .takes import Take

T = TypeVar("T")


@dataclass(frozen=True)
class Utterance:
    """A transcribed clip; `voice` is the output voice that speaks it, None for any other speaker."""

    clip: str
    transcript: str
    voice: str | None = None
    kind: str = ""
    written: str | None = None
    """The transcript with capitals and marks, where that is known."""
    speaker: str | None = None
    """Who says it, where that name can stand for a voice: a synthetic one, perhaps not an output voice."""

    @property
    def said_by(self) -> str | None:
        """The name of the voice or else of the speaker."""
        return self.voice or self.speaker


class _Weighted(Generic[T]):
    """Items drawn by weight."""

    def __init__(self, items: Sequence[T], weights: Sequence[float]) -> None:
        self._items, self._ends = items, np.cumsum(weights)

    def __len__(self) -> int:
        return len(self._items)

    def pick(self, rng: np.random.Generator) -> T:
        return self._items[int(np.searchsorted(self._ends, rng.random() * self._ends[-1], side="right"))]


class SkillSampler(_Weighted[Dialogue]):
    """Dialogues drawn by their weight, but those of some skills and languages several times as often."""

    def __init__(
        self, dialogues: Sequence[Dialogue], skills: Mapping[str, float], languages: Mapping[str, float]
    ) -> None:
        weights = [d.weight * skills.get(d.skill, 1.0) * languages.get(d.language, 1.0) for d in dialogues]
        super().__init__(dialogues, weights)


class LanguageSampler(_Weighted[Take]):
    """Takes drawn evenly, but those of some languages several times as often."""

    def __init__(self, takes: Sequence[Take], languages: Mapping[str, float]) -> None:
        super().__init__(takes, [languages.get(voice_language(take.text), 1.0) for take in takes])


class SourceSampler:
    """Utterances drawn by the weight of their kind, evenly within it but for the weights of their languages."""

    def __init__(
        self, utterances: Sequence[Utterance], kinds: Mapping[str, float], languages: Mapping[str, float]
    ) -> None:
        by_kind: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            by_kind.setdefault(utterance.kind, []).append(utterance)
        chances = np.array([kinds.get(kind, 1.0) for kind in by_kind])
        self._chances = chances / max(chances.sum(), 1e-9)
        self._kinds = [
            _Weighted(found, [languages.get(voice_language(u.transcript), 1.0) for u in found])
            for found in by_kind.values()
        ]

    def __len__(self) -> int:
        return sum(map(len, self._kinds))

    def pick(self, rng: np.random.Generator) -> Utterance:
        return self._kinds[rng.choice(len(self._kinds), p=self._chances)].pick(rng)


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """One of them, each as likely as the others."""
    return items[int(rng.integers(len(items)))]
