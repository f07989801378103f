"""Config of a mixture: weights of tasks and of data, augmentation of the input."""

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
class Augmentation:
    """Augmentation of input audio and texts; targets are never changed."""

    replaced_frames: float = 0.0
    """Share of a user's frames replaced by another frame of the same clip."""
    replaced_codes: float = 0.0
    """Share of codes replaced by random ones, from codebook 1 on."""
    time_warp: float = 0.0
    """Largest share of a clip's frames that are dropped or doubled."""
    character_tokenize_prob: float = 0.0
    """Share of texts to read aloud that are tokenized character by character."""
    unpunctuated_prob: float = 0.0
    """Share of typed questions without capitals and end mark."""


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
    final_task_weights: dict[str, float] | None = None
    """Weights that `tasks` changes to, linearly over the run; None: constant."""
    text_question_prob: float = 0.2
    """Share of questions that are text in dialogues with spoken questions."""
    source_weights: dict[str, float] = field(default_factory=dict)
    """Weight of a clip in asr, tts and pure_audio by its source (of a synthetic one: its kind)."""
    skill_weights: dict[str, float] = field(default_factory=dict)
    """Weight of a dialogue by its skill."""
    text_skill_weights: dict[str, float] | None = None
    """The same for text_dialogue and `retold`; None: `skill_weights`. Text needs the fewest positions for a fact."""
    languages: dict[str, float] = field(default_factory=dict)
    """Weight of a dialogue or clip by its language."""
    auxiliary_speaker_prob: float = 0.0
    """Share of tts in the voices of question speakers, by their names."""
    multi_sentence_prob: float = 0.0
    """Probability that another sentence of the same voice follows in tts, up to three in all."""
    excerpts: float = 0.0
    """Share of asr on one to four words of a clip: without their sentence words cannot be guessed."""
    medley: float = 0.0
    """Probability that another excerpt of the same speaker follows, up to four in all."""
    splices: float = 0.0
    """Share of asr on a clip with one word replaced by another of its speaker: words cannot be guessed from it."""
    woven: float = 0.0
    """Share of asr, and of dialogues with spoken questions, whose questions are concatenated of a speaker's words: any
    generated question can then be asked."""
    retold: float = 0.0
    """Share of spoken_dialogue with generated replies, concatenated of the output voice's words; without audio loss, so
    that facts are learnt from them, but not how the joints sound."""
    takes: float = 0.0
    """Share of tts on the model's own best readings (`data/mixture/takes.py`)."""
    max_frames: int = 0
    """Longest clip used in asr, tts and pure_audio; 0: any."""
    default_voice: str = DEFAULT_VOICE
    default_voice_is: str | None = None
    """Voice that the default name stands for; half of its dialogues then use the default name."""
    system: str = voice_instruction("{voice}")
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for tasks in (self.tasks, self.final_task_weights or self.tasks):
            for name in tasks:
                if name not in TASK_NAMES:
                    raise ConfigError(f"tasks: there is no task '{name}'; {nearest(name, TASK_NAMES)}")
            if not any(weight > 0 for weight in tasks.values()):
                raise ConfigError("tasks: no task has a weight above 0.")
