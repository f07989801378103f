"""What the tasks of a mixture draw from: its data, and samplers over it by the weights of its config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...text.language import voice_language
from ..alignment.token_alignment import TokenAligner
from ..dialogues import Dialogue
from ..store.codes_store import CodesStore
from .config import MixtureConfig
from .takes import Take
from .weighted_sampling import LanguageSampler, SkillSampler, SourceSampler, Utterance


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
    """The text token of each frame; None: not known."""
    additional_codes: Sequence[CodesStore] = ()
    """Codes of input clips at other speeds."""
    takes: Sequence[Take] = ()
    """The model's own best readings."""


class Samplers:
    """Samplers over a mixture's data; several are empty where the config does not use them."""

    def __init__(self, config: MixtureConfig, data: MixtureData) -> None:
        skills, languages = config.skill_weights, config.languages
        text_skills = skills if config.text_skill_weights is None else config.text_skill_weights
        self.texts = SkillSampler(data.texts, text_skills, languages)
        self.dialogues = SkillSampler(data.dialogues, skills, languages)
        self.multi_clause = [d for d in data.dialogues if any(len(e.reply) > 1 for e in d.exchanges)]

        used = [u for u in data.utterances if config.source_weights.get(u.source, 1.0) > 0]
        other_speakers = [u for u in used if u.voice is None and u.speaker is not None]
        self.utterances = SourceSampler(used, config.source_weights, languages)
        self.output_voices = SourceSampler([u for u in used if u.voice is not None], config.source_weights, languages)
        self.other_speakers = SourceSampler(other_speakers, config.source_weights, languages)
        self.by_speaker: dict[str, list[Utterance]] = {}
        for utterance in used:
            if utterance.speaker_name is not None:
                self.by_speaker.setdefault(utterance.speaker_name, []).append(utterance)
        self.question_speakers = question_speakers(other_speakers)

        verbalized = [d for d in data.texts if data.aligner is not None and d.is_verbalized]
        self.woven = SkillSampler(verbalized if config.woven > 0 else (), skills, languages)
        self.retold = SkillSampler(verbalized if config.retold > 0 else (), text_skills, languages)
        self.takes = LanguageSampler(data.takes, languages)
        self.take_of = {(take.voice, take.text): take for take in data.takes}


def question_speakers(utterances: Sequence[Utterance]) -> dict[str, list[str]]:
    """The names of the speakers of each language."""
    names: dict[str, set[str]] = {}
    for utterance in utterances:
        if utterance.speaker_name is not None:
            names.setdefault(voice_language(utterance.transcript), set()).add(utterance.speaker_name)
    return {language: sorted(speakers) for language, speakers in names.items()}
