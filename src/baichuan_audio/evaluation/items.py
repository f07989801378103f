"""What nano is asked in its examination: held-out items of a corpus, drawn the same way every time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..audio.waveform import resample
from ..data.dialogues import Dialogue, read_dialogues
from ..data.manifest import Clip, ClipStore, hash_fraction
from ..errors import DataError
from .asr import SAMPLE_RATE

LANGUAGES = ("en", "zh")
T = TypeVar("T")


def spread(items: Iterable[T], key: Callable[[T], str], limit: int) -> list[T]:
    """At most `limit` of the items, in an order that only their keys decide."""
    return sorted(items, key=lambda item: (hash_fraction("evaluation:" + key(item)), key(item)))[:limit]


class HeldOut:
    """The test items of a corpus folder (the clip store and `dialogues.jsonl`, there or in `audio/`).

    Raises DataError when one of them is missing.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        root = Path(root)
        folders = [folder for folder in (root, root / "audio") if (folder / "clips.jsonl").is_file()]
        if not folders:
            raise DataError(f"{root}: holds no clip store (clips.jsonl); make the corpus first.")
        self.store = ClipStore(folders[0])
        paths = [path for path in (root / "dialogues.jsonl", folders[0] / "dialogues.jsonl") if path.is_file()]
        if not paths:
            raise DataError(f"{root}: holds no dialogues.jsonl; make the corpus first.")
        everything = read_dialogues(paths[0], ("train", "validation", "test"))
        self.test_dialogues = [dialogue for dialogue in everything if dialogue.split == "test"]
        self.answers = {
            language: sorted({e.answer for d in everything if d.language == language for e in d.exchanges})
            for language in LANGUAGES
        }
        """Every answer of the corpus by language: what a closed-vocabulary ear may hear."""
        self.questions = {
            language: sorted({e.user for d in everything if d.language == language for e in d.exchanges})
            for language in LANGUAGES
        }
        self._trained_speakers = {clip.speaker for clip in self.store.clips if clip.split == "train"}

    def dialogues(self, language: str, limit: int, spoken: bool) -> list[Dialogue]:
        """Test dialogues with about `limit` questions in all; `spoken`: each question has a clip."""
        usable = [
            dialogue
            for dialogue in self.test_dialogues
            if dialogue.language == language
            and (not spoken or all(e.user_clip is not None and e.user_clip in self.store for e in dialogue.exchanges))
        ]
        chosen: list[Dialogue] = []
        count = 0
        for dialogue in spread(usable, lambda d: d.id, len(usable)):
            if count >= limit:
                break
            chosen.append(dialogue)
            count += len(dialogue.exchanges)
        return chosen

    def questions_of_new_voices(self, language: str, limit: int) -> list[Clip]:
        """Test questions spoken by synthetic voices that training never heard."""
        clips = [
            clip
            for clip in self.store.select(kind="question", split="test", language=language)
            if clip.transcript and clip.speaker not in self._trained_speakers
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
        """Answers of the corpus as its speech engines say them: what the ear makes of the teacher."""
        ids = {
            clip
            for dialogue in self.test_dialogues
            if dialogue.language == language
            for exchange in dialogue.exchanges
            if len(exchange.reply) == 1
            for _, clip in exchange.reply
            if clip is not None and clip in self.store
        }
        clips = [self.store[clip] for clip in ids]
        return spread((clip for clip in clips if clip.transcript), lambda clip: clip.id, limit)

    def samples(self, clip: Clip) -> np.ndarray:
        """A clip's samples [S] at the ear's 16 kHz."""
        return resample(self.store.waveform(clip), clip.sample_rate, SAMPLE_RATE).numpy()
