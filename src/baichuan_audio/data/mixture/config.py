"""What the language model is fed with: tasks by weight, and how far what it hears and reads is varied."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import DataError
from ...language_model.prompt import DEFAULT_VOICE, voice_instruction

TASKS = (
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
    """Variety for what the model hears and reads; none of it touches what is learnt as a target."""

    replaced_frames: float = 0.0
    """Share of a user's frames replaced by another frame of the same clip."""
    replaced_codes: float = 0.0
    """Share of codes replaced by any index, from the second codebook on."""
    time_warp: float = 0.0
    """Frames dropped or doubled, up to this share of the clip."""
    character_tokenize_prob: float = 0.0
    """Share of texts to read aloud given character by character instead of in whole words."""
    unpunctuated_prob: float = 0.0
    """Share of typed questions without capitals and end mark."""


@dataclass(frozen=True)
class MixtureConfig:
    """`tasks`: name -> weight (see TASKS). `typed`: share of a heard or spoken dialogue's questions that are text."""

    tasks: dict[str, float]
    final_task_weights: dict[str, float] | None = None
    """Weights that `tasks` turns into, linearly over the run; None: they stay."""
    typed: float = 0.2
    kinds: dict[str, float] = field(default_factory=dict)
    """Weight of a kind of clip (of a real one: its source) in asr, tts and pure_audio; 1 where it is not named."""
    skill_weights: dict[str, float] = field(default_factory=dict)
    """How many times as often as the others a skill's dialogues are drawn."""
    text_skill_weights: dict[str, float] | None = None
    """The same for text_dialogue and what is retold; None: `skill_weights`. Facts are learnt cheapest without sound."""
    languages: dict[str, float] = field(default_factory=dict)
    """How many times as often as the others a language is drawn, of dialogues and of clips."""
    auxiliary_speaker_prob: float = 0.0
    """Share of reading aloud in the voices that ask, by their names: they say words that the others say seldom."""
    sentences: float = 0.0
    """Chance that another sentence of the same voice follows one that is read aloud, up to three in all."""
    excerpts: float = 0.0
    """Share of asr that hears one to four words out of a clip: without its sentence a word cannot be guessed."""
    medley: float = 0.0
    """Chance that another excerpt of the same speaker follows one, up to four in all."""
    splices: float = 0.0
    """Share of asr that hears a clip in which one word gave way to another that its speaker said elsewhere: any word
    may then stand in any sentence, and what is usual there says less than what is heard."""
    woven: float = 0.0
    """Share of asr, and of the dialogues with heard questions, in which questions are put together from words that one
    voice said elsewhere: whatever the skills' generators come up with can then be asked aloud."""
    retold: float = 0.0
    """Share of spoken dialogues whose replies, too, are any of the generators', put together from words that the output
    voice said elsewhere. Of these only the text is learnt, by `text_skill_weights`: what a sum makes must be known in
    speech as in writing, but nobody shall learn to speak with seams."""
    takes: float = 0.0
    """Share of reading aloud that says what the model read aloud itself (`data/mixture/takes.py`)."""
    longest: int = 0
    """Code frames of the longest clip used in asr, tts and pure_audio; 0 for any."""
    default_voice: str = DEFAULT_VOICE
    default_voice_is: str | None = None
    """The voice name that the default name stands for; half of its dialogues are then asked by the default name."""
    system: str = voice_instruction("{voice}")
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for tasks in (self.tasks, self.final_task_weights or self.tasks):
            unknown = set(tasks) - set(TASKS)
            if unknown or not any(weight > 0 for weight in tasks.values()):
                raise DataError(f"tasks must be weights of {', '.join(TASKS)}; not {', '.join(unknown) or 'all zero'}")
