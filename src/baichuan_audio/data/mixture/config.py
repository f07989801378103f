"""Config of a mixture: weights of tasks and of data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ...config import nearest
from ...errors import ConfigError
from ...language_model.prompt import DEFAULT_VOICE, voice_instruction

TASK_NAMES = (
    "text_dialogue",
    "heard_dialogue",
    "spoken_dialogue",
    "asr",
    "tts",
    "heard_interleaved",
    "spoken_interleaved",
    "pure_audio",
)


@dataclass(frozen=True)
class ShardSet:
    """A folder of shards with codes (`baichuan-audio data tokenize`) and its share of what is read.

    Without `hours`, `weight` and `kinds` every sample of every set is read equally often.
    """

    path: str
    hours: float | None = None
    """Hours that it stands for in a pass over all sets; None: those that it holds."""
    weight: float = 1.0
    """Factor to its hours."""
    kinds: dict[str, float] = field(default_factory=dict)
    """Factor to the hours of a kind of sample: 1 where it is missing, 0 leaves the kind out."""

    def __post_init__(self) -> None:
        for name, value in {"hours": self.hours or 1.0, "weight": self.weight, **self.kinds}.items():
            if not 0 <= value < math.inf:
                raise ConfigError(f"dataset: {name} must be a number from 0 on, not {value}.")


@dataclass(frozen=True)
class MixtureConfig:
    """Weights are relative: 1 where a name is missing, unless said otherwise."""

    tasks: dict[str, float]
    """Task (see `TASK_NAMES`) -> weight, 0 where it is missing."""
    text_question_prob: float = 0.2
    """Share of questions that are text in dialogues with spoken questions."""
    source_weights: dict[str, float] = field(default_factory=dict)
    """Weight of a source in asr, tts and pure_audio: the clips of this source, kind or speaker, or shell-style pattern
    of them; clips that no entry names go by their source (synthetic ones: by their kind) with weight 1."""
    skill_weights: dict[str, float] = field(default_factory=dict)
    """Weight of a dialogue by its skill."""
    languages: dict[str, float] = field(default_factory=dict)
    """Weight of a dialogue or clip by its language."""
    max_frames: int = 0
    """Longest clip used in asr, tts and pure_audio; 0: any."""
    default_voice: str = DEFAULT_VOICE
    default_voice_is: str | None = None
    """Voice that the default name stands for; half of its dialogues then use the default name."""
    system: str = voice_instruction("{voice}")

    def __post_init__(self) -> None:
        for name in self.tasks:
            if name not in TASK_NAMES:
                raise ConfigError(f"tasks: there is no task '{name}'; {nearest(name, TASK_NAMES)}")
        if not any(weight > 0 for weight in self.tasks.values()):
            raise ConfigError("tasks: no task has a weight above 0.")
