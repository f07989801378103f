"""What the tasks of a mixture draw from: its data, and samplers over it by the weights of its config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..alignment.token_alignment import TokenAligner
from ..dialogues import Dialogue
from .config import MixtureConfig
from .weighted_sampling import SkillSampler, SourceSampler, Utterance


@dataclass(frozen=True)
class MixtureData:
    """The data of one split."""

    codes: Callable[[str], Tensor]
    """Clip id -> frames [K, T]."""
    texts: Sequence[Dialogue] = ()
    """Dialogues used without audio."""
    dialogues: Sequence[Dialogue] = ()
    """Dialogues whose clips all have codes."""
    utterances: Sequence[Utterance] = ()
    """Transcribed clips."""
    aligner: TokenAligner | None = None
    """Cuts replies into runs of words; None: they are spoken clause by clause."""


class Samplers:
    """Samplers over a mixture's data; several are empty where the config does not use them."""

    def __init__(self, config: MixtureConfig, data: MixtureData) -> None:
        skills, languages = config.skill_weights, config.languages
        self.texts = SkillSampler(data.texts, skills, languages)
        self.dialogues = SkillSampler(data.dialogues, skills, languages)
        spoken = [d for d in data.dialogues if all(clip for e in d.exchanges for _, clip in e.reply)]
        self.spoken_dialogues = SkillSampler(spoken, skills, languages)
        self.multi_clause = [d for d in data.dialogues if any(len(e.reply) > 1 for e in d.exchanges)]

        used = [u for u in data.utterances if config.source_weights.get(u.source, 1.0) > 0]
        self.utterances = SourceSampler(used, config.source_weights, languages)
        self.output_voices = SourceSampler([u for u in used if u.voice is not None], config.source_weights, languages)
