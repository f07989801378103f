"""What a mixture draws from: utterances and dialogues, by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from baichuan_audio.data.dialogues import Dialogue

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


class BySkill:
    """Dialogues drawn evenly, but those of some skills several times as often."""

    def __init__(self, dialogues: Sequence[Dialogue], weights: Mapping[str, float]) -> None:
        self._dialogues = dialogues
        self._ends = np.cumsum([weights.get(dialogue.skill, 1.0) for dialogue in dialogues])

    def __len__(self) -> int:
        return len(self._dialogues)

    def pick(self, rng: np.random.Generator) -> Dialogue:
        return self._dialogues[int(np.searchsorted(self._ends, rng.random() * self._ends[-1], side="right"))]


class ByKind:
    """Utterances drawn by the weight of their kind, evenly within it."""

    def __init__(self, utterances: Sequence[Utterance], weights: Mapping[str, float]) -> None:
        self._kinds: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            self._kinds.setdefault(utterance.kind, []).append(utterance)
        chances = np.array([weights.get(kind, 1.0) for kind in self._kinds])
        self._chances = chances / max(chances.sum(), 1e-9)

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def pick(self, rng: np.random.Generator) -> Utterance:
        return pick(list(self._kinds.values())[rng.choice(len(self._kinds), p=self._chances)], rng)


def pick(items: Sequence[T], rng: np.random.Generator) -> T:
    """One of them, each as likely as the others."""
    return items[int(rng.integers(len(items)))]
