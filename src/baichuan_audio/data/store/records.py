"""What the data pipeline passes from stage to stage, and what training reads in the end.

Times are samples at 24 kHz, so they are exact. Every record carries the licence, the origin and the transforms of its
sound.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from ...errors import DataError

SAMPLE_RATE = 24_000
FRAME_SAMPLES = 1920
"""Samples of one code frame (12.5 Hz)."""
KINDS = ("itts", "intlv", "asr", "aqa", "s2tt", "tts", "audio", "sft")

T = TypeVar("T")


@dataclass(frozen=True)
class Utterance:
    """A stretch of a source with its text, where somebody gave it (subtitles). Times in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Source:
    """One input file. `digest` is the hash of its content; language, speaker and text are None where unknown."""

    id: str
    path: str
    digest: str
    license: str
    origin: str
    language: str | None = None
    speaker: str | None = None
    transcript: str | None = None
    utterances: tuple[Utterance, ...] = ()


@dataclass(frozen=True)
class Turn:
    """A user's words and the reply to them."""

    user: str
    reply: str


@dataclass(frozen=True)
class TextItem:
    """One item of the text road.

    kind: "text" (to be read aloud), "aqa" (text is the question), "s2tt" (answer is the translation) or "sft" (turns).
    system: of a dialogue; `{voice}` in it stands for the name of the voice that replies. split: where the item decides
    it, and not the speaker.
    """

    id: str
    kind: str
    language: str
    license: str
    origin: str
    text: str = ""
    answer: str = ""
    system: str = ""
    turns: tuple[Turn, ...] = ()
    split: str = ""


@dataclass(frozen=True)
class Line:
    """What one voice says in one go, as written and as it is spoken. role: "user" or "reply"."""

    item: str
    number: int
    role: str
    language: str
    text: str
    spoken: str = ""


@dataclass(frozen=True)
class Script:
    """An item of the text road cut into lines."""

    item: TextItem
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Recording:
    """A source's sound as 24 kHz mono: the file `recordings/<audio>.wav` of the work folder, `samples` long.

    gain: factor that brings its speech to the common loudness (applied when it is read). original_rate in Hz.
    fingerprint: 16-bit hash of the spectrum's shape, 7.8 a second, as hexadecimal digits.
    """

    source: Source
    audio: str
    samples: int
    gain: float
    original_rate: int
    transforms: tuple[str, ...]
    fingerprint: str = ""


@dataclass(frozen=True)
class Word:
    """A word (a character in Mandarin), from `start` to `end` in samples of the recording."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Clause:
    """A stretch of a piece that is cut out as one segment: its text and its samples of the recording."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Piece:
    """Samples `start` to `end` of a recording, spoken by one person, and what is known of them.

    text: what is said, as written; "" where nobody speaks, None where it is not known. scores: figures of the filters
    by name. embedding: base64 of float16 values.
    """

    id: str
    source: str
    audio: str
    start: int
    end: int
    gain: float
    license: str
    origin: str
    transforms: tuple[str, ...]
    original_rate: int = SAMPLE_RATE
    language: str | None = None
    speaker: str | None = None
    text: str | None = None
    given: bool = False
    words: tuple[Word, ...] = ()
    clauses: tuple[Clause, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    embedding: str = ""
    fingerprint: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / SAMPLE_RATE

    def scored(self, **scores: float) -> Piece:
        """With these figures added, rounded so that they are the same everywhere they are written."""
        rounded = {name: round(float(value), 4) for name, value in scores.items()}
        return dataclasses.replace(self, scores={**self.scores, **rounded})


@dataclass(frozen=True)
class Dropped:
    """What a stage left out: the record's id, its source, the reason in a few words, and how long it was."""

    id: str
    source: str
    origin: str
    reason: str
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Segment:
    """One part of a sample.

    kind: "text" or "audio". text: the words, of audio too where they are known. start, end: samples of the sample's
    sound (audio only). loss: whether training learns it. role: "prompt", "system", "user" or "reply".
    """

    kind: str
    text: str = ""
    start: int = 0
    end: int = 0
    loss: bool = False
    role: str = "reply"

    @property
    def frames(self) -> tuple[int, int]:
        """First code frame and the one after the last."""
        return round(self.start / FRAME_SAMPLES), round(self.end / FRAME_SAMPLES)


@dataclass(frozen=True)
class Sample:
    """One training sample of one of KINDS; its sound is `samples` long at 24 kHz."""

    id: str
    kind: str
    language: str
    speaker: str
    license: str
    origin: str
    source: str
    transforms: tuple[str, ...]
    samples: int
    segments: tuple[Segment, ...]
    words: tuple[Word, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    split: str = "train"

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE


@dataclass(frozen=True)
class Part:
    """Samples of a standardised recording that become part of a sample's sound."""

    audio: str
    start: int
    end: int
    gain: float


@dataclass(frozen=True)
class Draft:
    """A sample whose sound still lies in the recordings: its parts, one after the other."""

    sample: Sample
    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        return self.sample.seconds


def to_json(record: Any) -> str:
    """One line of JSON, the same bytes for the same record."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def from_mapping(cls: type[T], values: Mapping[str, Any]) -> T:
    """The record of class `cls` that `to_json` wrote.

    Raises:
        DataError: an entry is missing or unknown.
    """
    hints = _hints(cls)
    try:
        return cls(**{name: _revive(hints[name], value) for name, value in values.items()})
    except (KeyError, TypeError) as error:
        raise DataError(f"a record of type {cls.__name__} cannot be read: {error}.") from error


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    if cls not in _HINTS:
        _HINTS[cls] = {f.name: typing.get_type_hints(cls)[f.name] for f in fields(cls)}  # type: ignore[arg-type]
    return _HINTS[cls]


def _revive(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value)
    if typing.get_origin(hint) is tuple:
        return tuple(_revive(typing.get_args(hint)[0], item) for item in value)
    return value
