"""What nano is asked in its evaluation: held-out items of a corpus, drawn the same way every time."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from baichuan_audio.audio.waveform import resample
from baichuan_audio.data.dialogues import Dialogue, Exchange, read_dialogues
from baichuan_audio.data.store.manifest import Clip, ClipStore
from baichuan_audio.errors import DataError

from .. import LANGUAGES
from ..hashing import hash_fraction
from .asr import SAMPLE_RATE
from .texts import script

_BY_VOICE_ALONE = "hear"
T = TypeVar("T")


def spread(items: Iterable[T], key: Callable[[T], str], limit: int) -> list[T]:
    """At most `limit` of the items, in an order that only their keys decide."""
    return sorted(items, key=lambda item: (hash_fraction("evaluation:" + key(item)), key(item)))[:limit]


class HeldOut:
    """The held-out items of a corpus folder (the clip store and `dialogues.jsonl`, there or in `audio/`).

    split: "test", or "validation" to choose between models with: other contents, in voices that training has.
    Raises DataError when one of the files is missing.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "test") -> None:
        root = Path(root)
        folders = [folder for folder in (root, root / "audio") if (folder / "clips.jsonl").is_file()]
        if not folders:
            raise DataError(f"{root}: holds no clip store (clips.jsonl); make the corpus first.")
        self.store = ClipStore(folders[0])
        paths = [path for path in (root / "dialogues.jsonl", folders[0] / "dialogues.jsonl") if path.is_file()]
        if not paths:
            raise DataError(f"{root}: holds no dialogues.jsonl; make the corpus first.")
        everything = read_dialogues(paths[0], ("train", "validation", "test"))
        self.split = split
        self.held_out_dialogues = [dialogue for dialogue in everything if dialogue.split == split]
        self.answers = _by_script(e.answer for d in everything for e in d.exchanges)
        """Every answer of the corpus by its language: the vocabulary of a recognizer."""
        self.questions = _by_script(e.user for d in everything for e in d.exchanges)
        self._trained_clips = {clip.id for clip in self.store.clips if clip.split == "train"}
        self._trained_speakers = {clip.speaker for clip in self.store.clips if clip.split == "train"}

    def dialogues(self, language: str, limit: int, spoken: bool) -> list[Dialogue]:
        """Held-out dialogues with about `limit` questions in all, each skill alike; `spoken`: each question has a clip.

        Those in which real people are heard are left out; see `real_dialogues`. So is, in writing, the skill of saying
        again what was heard: held out by its voices, it is the same text in training.
        """
        skills: dict[str, list[Dialogue]] = defaultdict(list)
        for dialogue in self.held_out_dialogues:
            kinds = self._clip_kinds(dialogue)
            if dialogue.language != language or "real" in kinds:
                continue
            if None not in kinds if spoken else dialogue.skill != _BY_VOICE_ALONE:
                skills[dialogue.skill].append(dialogue)
        lists = [spread(skills[skill], lambda d: d.id, limit) for skill in sorted(skills)]
        chosen: list[Dialogue] = []
        count = 0
        for dialogue in (d for group in itertools.zip_longest(*lists) for d in group if d is not None):
            if count >= limit:
                break
            chosen.append(dialogue)
            count += len(dialogue.exchanges)
        return chosen

    def real_dialogues(self, limit: int) -> list[Dialogue]:
        """Held-out dialogues whose questions are recordings of people."""
        usable = [dialogue for dialogue in self.held_out_dialogues if self._clip_kinds(dialogue) == {"real"}]
        return spread(usable, lambda d: d.id, limit)

    def said_in_training(self, exchange: Exchange) -> bool:
        """Whether the reply's clips, the same words in the same voice, are among those of training."""
        return all(clip in self._trained_clips for _, clip in exchange.reply)

    def _clip_kinds(self, dialogue: Dialogue) -> set[str | None]:
        """The kinds of clips that ask; None where a question is only text."""
        clips = [e.user_clip for e in dialogue.exchanges]
        return {self.store[clip].kind if clip is not None and clip in self.store else None for clip in clips}

    def questions_by_voice(self, language: str, limit: int) -> list[Clip]:
        """Held-out questions as clips; those of the test split in synthetic voices that are not in training."""
        clips = [
            clip
            for clip in self.store.select(kind="question", split=self.split, language=language)
            if clip.transcript and (self.split != "test" or clip.speaker not in self._trained_speakers)
        ]
        return spread(clips, lambda clip: clip.id, limit)

    def real(self, limit: int, sources: Sequence[str], splits: Sequence[str]) -> list[Clip]:
        """Transcribed English recordings of people, from folders and splits by name."""
        clips = [
            clip
            for clip in self.store.select(kind="real", language="en")
            if clip.transcript and clip.source in sources and clip.split in splits
        ]
        return spread(clips, lambda clip: clip.id, limit)

    def reference_answers(self, language: str, limit: int) -> list[Clip]:
        """Answers of the corpus as its speech engines say them: what recognizers make of the teacher."""
        ids = {
            clip
            for dialogue in self.held_out_dialogues
            for exchange in dialogue.exchanges
            if len(exchange.reply) == 1 and script(exchange.answer) == language
            for _, clip in exchange.reply
            if clip is not None and clip in self.store
        }
        clips = [self.store[clip] for clip in ids]
        return spread((clip for clip in clips if clip.transcript), lambda clip: clip.id, limit)

    def samples(self, clip: Clip) -> np.ndarray:
        """A clip's samples [S] at the recognizers' 16 kHz."""
        return resample(self.store.waveform(clip), clip.sample_rate, SAMPLE_RATE).numpy()


def _by_script(texts: Iterable[str]) -> dict[str, list[str]]:
    """Different texts by the language they are written in; mixtures left out."""
    by_language: dict[str | None, set[str]] = defaultdict(set)
    for text in texts:
        by_language[script(text)].add(text)
    return {language: sorted(by_language[language]) for language in LANGUAGES}
