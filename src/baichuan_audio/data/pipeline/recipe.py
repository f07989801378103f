"""The recipe of `baichuan-audio data run`: a YAML file with one entry a stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...errors import ConfigError
from ..synth.no_speech import NoSpeechConfig
from .engine.cross_stage import CrossStage
from .engine.stage import Stage
from .stages.align import Align
from .stages.assemble import Assemble
from .stages.cluster import Cluster
from .stages.cut import Cut
from .stages.duplicates import Duplicates
from .stages.language import Language
from .stages.make_no_speech import MakeNoSpeech
from .stages.normalise_text import NormaliseText
from .stages.quality import Quality
from .stages.recognise import Recognise
from .stages.repetition import Repetition
from .stages.segment_text import SegmentText
from .stages.speakers import Speakers
from .stages.standardise import Standardise
from .stages.synthesise import Synthesise
from .stages.vad import VoiceActivityStage
from .stages.voice_check import VoiceCheck


@dataclass(frozen=True)
class PipelineRecipe:
    """sources: a manifest or a folder of recordings, or a file of texts (`texts`), or audio without speech to be made
    (`no_speech`): one of the three.

    work: folder for the stages' outputs, which may be removed when all is done. output: folder for the shards.
    license, origin: of sources that name none. shard_samples: samples in a shard.
    """

    sources: str = ""
    texts: str = ""
    no_speech: NoSpeechConfig = field(default_factory=NoSpeechConfig)
    work: str = "work/data"
    output: str = "work/data/shards"
    license: str | None = None
    origin: str | None = None
    shard_samples: int = 500
    segment_text: SegmentText = field(default_factory=SegmentText)
    normalise_text: NormaliseText = field(default_factory=NormaliseText)
    synthesise: Synthesise = field(default_factory=Synthesise)
    voice_check: VoiceCheck = field(default_factory=VoiceCheck)
    standardise: Standardise = field(default_factory=Standardise)
    vad: VoiceActivityStage = field(default_factory=VoiceActivityStage)
    speakers: Speakers = field(default_factory=Speakers)
    language: Language = field(default_factory=Language)
    quality: Quality = field(default_factory=Quality)
    recognise: Recognise = field(default_factory=Recognise)
    repetition: Repetition = field(default_factory=Repetition)
    align: Align = field(default_factory=Align)
    cut: Cut = field(default_factory=Cut)
    duplicates: Duplicates = field(default_factory=Duplicates)
    cluster: Cluster = field(default_factory=Cluster)
    assemble: Assemble = field(default_factory=Assemble)

    def __post_init__(self) -> None:
        if self.shard_samples < 1:
            raise ConfigError(f"shard_samples must be at least 1, not {self.shard_samples}.")
        if bool(self.sources) + bool(self.texts) + bool(self.no_speech.count) != 1:
            raise ConfigError(
                "a data recipe names `sources` (recordings), `texts` or `no_speech.count`; give one of the three."
            )

    @property
    def input(self) -> str:
        """What goes in, for people."""
        return self.sources or self.texts or f"{self.no_speech.count} items of audio without speech"

    @property
    def first_job(self) -> tuple[Stage[Any, Any], ...]:
        """The stages of a source on its own, in order."""
        if self.no_speech.count:
            return (MakeNoSpeech(),)
        if self.texts:
            made = (self.segment_text, self.normalise_text, self.synthesise, self.voice_check)
            return (*made, self.quality, self.recognise, self.repetition, self.align, self.cut)
        first = (self.standardise, self.vad, self.speakers, self.language)
        return (*first, self.quality, self.recognise, self.repetition, self.align, self.cut)

    @property
    def across(self) -> tuple[CrossStage, ...]:
        """The stages that see all sources."""
        return () if not self.sources else (self.duplicates, self.cluster)

    @property
    def last_job(self) -> tuple[Stage[Any, Any], ...]:
        return (self.assemble,)
