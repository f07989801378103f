"""Which clips a corpus needs: every question, reply and reading sentence given a voice, before any is spoken."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from baichuan_audio.data.store.manifest import Clip
from baichuan_audio.text.language import voice_language

from .. import LANGUAGES
from ..dialogues import generate_dialogues
from ..skills import hear, repeat
from ..skills.sentences import sentence
from .engines import VoiceSetting
from .voices import HELD_OUT_VOICES, OUTPUT_VOICES, QUESTION_VOICES, QUESTION_WEIGHTS

_SPLIT_RANK = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Job:
    """A clip to be spoken. `augment` says whether the room, the noise and the level are varied, seeded by the id."""

    id: str
    text: str
    language: str
    speaker: str
    split: str
    kind: str
    setting: VoiceSetting
    augment: bool


@dataclass(frozen=True)
class PlanSizes:
    """How much a corpus holds: dialogues a split, and reading sentences a language and kind of voice."""

    train_dialogues: int = 6600
    validation_dialogues: int = 100
    test_dialogues: int = 432
    text_question_share: float = 0.06
    read_train: int = 1500
    read_validation: int = 30
    read_test: int = 50


class Plan:
    """Jobs by id and dialogues that name them."""

    def __init__(self, seed: int, sizes: PlanSizes) -> None:
        self.seed = seed
        self.jobs: dict[str, Job] = {}
        self.dialogues: list[dict[str, Any]] = []
        dialogues = (
            ("train", sizes.train_dialogues),
            ("validation", sizes.validation_dialogues),
            ("test", sizes.test_dialogues),
        )
        for split, count in dialogues:
            text_question_share = sizes.text_question_share if split == "train" else 0.0
            for dialogue in generate_dialogues(seed, count, split, LANGUAGES, text_question_share):
                self._voice(dialogue)
                self.dialogues.append(dialogue)
        reading = (("train", sizes.read_train), ("validation", sizes.read_validation), ("test", sizes.read_test))
        for split, count in reading:
            for language in LANGUAGES:
                self._read(split, language, count)

    def add_real_words(self, clips: Iterable[Clip]) -> None:
        """A dialogue for each real recording of a digit or single word: the reply says what was heard."""
        known = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", *hear.WORDS["en"]}
        for clip in clips:
            if clip.transcript not in known:
                continue
            rng = random.Random(f"{self.seed}:{clip.id}")
            turn = hear.word_turn("en", clip.transcript)
            voice = rng.choice(list(OUTPUT_VOICES))
            segments = [{"text": text, "audio": self._answer(text, voice, clip.split)} for text in turn.reply]
            question = {"role": "user", "content": turn.user, "audio": clip.id}
            reply = {"role": "assistant", "content": " ".join(turn.reply), "segments": segments}
            self.dialogues.append(
                {
                    "id": f"heard-{clip.id}",
                    "split": clip.split,
                    "language": "en",
                    "skill": hear.NAME,
                    "voice": voice,
                    "typed": False,
                    "messages": [question, reply],
                }
            )

    def _voice(self, dialogue: dict[str, Any]) -> None:
        rng = random.Random(f"voices:{dialogue['id']}")
        split = dialogue["split"]
        asker, setting = _asker(rng, dialogue["language"], split)
        for message in dialogue["messages"]:
            if message["role"] == "user":
                if not dialogue["typed"]:
                    message["audio"] = self._add("question", message["content"], asker, setting, split, True)
            else:
                for segment in message["segments"]:
                    segment["audio"] = self._answer(segment["text"], dialogue["voice"], split)

    def _answer(self, text: str, voice: str, split: str) -> str:
        return self._add("answer", text, voice, OUTPUT_VOICES[voice].settings[voice_language(text)], split, False)

    def _read(self, split: str, language: str, count: int) -> None:
        rng = random.Random(f"read:{self.seed}:{split}:{language}")
        texts: dict[str, None] = {}
        while len(texts) < count:
            text = sentence(rng, language)
            if repeat.is_held_out(language, text) == (split != "train"):
                texts[text] = None
        for number, text in enumerate(texts):
            # By the text alone, so that a longer corpus holds a shorter one.
            asker, setting = _asker(random.Random(f"reader:{self.seed}:{text}"), language, split)
            self._add("read", text, asker, setting, split, True)
            if split != "test":
                voice = list(OUTPUT_VOICES.values())[number % len(OUTPUT_VOICES)]
                self._add("read", text, voice.name, voice.settings[language], split, False)

    def _add(self, kind: str, text: str, speaker: str, setting: VoiceSetting, split: str, augment: bool) -> str:
        digest = hashlib.sha1(text.encode("utf-8")).hexdigest()[:12]
        clip_id = f"{kind}/{speaker}/{digest}"
        known = self.jobs.get(clip_id)
        # A reply that training speaks too is a training clip, whoever else uses it.
        if known is None or _SPLIT_RANK[split] < _SPLIT_RANK[known.split]:
            self.jobs[clip_id] = Job(clip_id, text, voice_language(text), speaker, split, kind, setting, augment)
        return clip_id


def _asker(rng: random.Random, language: str, split: str) -> tuple[str, VoiceSetting]:
    voices = (HELD_OUT_VOICES if split == "test" else QUESTION_VOICES)[language]
    name = rng.choices(list(voices), [QUESTION_WEIGHTS.get(voice, 1.0) for voice in voices])[0]
    return name, voices[name]
