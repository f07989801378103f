"""Dialogues of the closed world as text: a pure function of seed, split and number."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from baichuan_audio.text.language import voice_language

from . import LANGUAGES
from .corpus.voices import OUTPUT_VOICES
from .skills import SKILLS, WEIGHTS, NoContentError, Turn

_MIXED_SHARE = 0.12


def generate_dialogues(
    seed: int, count: int, split: str, languages: Sequence[str] = LANGUAGES, text_question_share: float = 0.15
) -> Iterator[dict[str, Any]]:
    """Yields `count` dialogues as lines of a dialogue file, without clips.

    Training draws skills by weight; validation and test go through skills and languages in turn, so that each
    is measured on as many. In a share of `text_question_share` the questions are written as people type them.
    """
    for number in range(count):
        rng = random.Random(f"{seed}:{split}:{number}")
        if split == "train":
            language = rng.choice(list(languages))
            skill = rng.choices(list(SKILLS), [WEIGHTS[name] for name in SKILLS])[0]
        else:
            language = languages[number % len(languages)]
            skill = list(SKILLS)[number // len(languages) % len(SKILLS)]
        yield _row(rng, f"{split}-{seed}-{number}", split, language, skill, text_question_share)


def _row(
    rng: random.Random, id: str, split: str, language: str, skill: str, text_question_share: float
) -> dict[str, Any]:
    typed = rng.random() < text_question_share
    voice = rng.choice(list(OUTPUT_VOICES))
    return {
        "id": id,
        "split": split,
        "language": language,
        "skill": skill,
        "voice": voice,
        "typed": typed,
        "messages": [
            message for turn in _turns(rng, skill, language, split) for message in _messages(rng, turn, voice, typed)
        ],
    }


def _skill_turns(rng: random.Random, skill: str, language: str, split: str) -> list[Turn]:
    """A small split is missed by all the draws of a skill once in thousands of times; then it draws again."""
    while True:
        try:
            return SKILLS[skill](rng, language, split)
        except NoContentError:
            continue


def _turns(rng: random.Random, skill: str, language: str, split: str) -> list[Turn]:
    turns = _skill_turns(rng, skill, language, split)
    # Now and then the topic changes: a greeting before, or another skill's question after.
    if skill != "hear" and len(turns) < 3 and rng.random() < _MIXED_SHARE:
        other = "smalltalk" if rng.random() < 0.5 else rng.choice([name for name in SKILLS if name != "hear"])
        try:
            extra = SKILLS[other](rng, language, split)[:1]
        except NoContentError:
            return turns
        return extra + turns if other == "smalltalk" else turns + extra
    return turns


def _messages(rng: random.Random, turn: Turn, voice: str, typed: bool) -> list[dict[str, Any]]:
    names = OUTPUT_VOICES[voice].names
    clauses = [clause.replace("{voice}", names[voice_language(clause)]) for clause in turn.reply]
    separator = "" if voice_language(clauses[0]) == "zh" else " "
    return [
        {"role": "user", "content": _as_typed(rng, turn) if typed else turn.user, "audio": None},
        {
            "role": "assistant",
            "content": separator.join(clauses),
            "segments": [{"text": clause, "audio": None} for clause in clauses],
        },
    ]


def _as_typed(rng: random.Random, turn: Turn) -> str:
    text = turn.typed if turn.typed is not None and rng.random() < 0.8 else turn.user
    habit = rng.random()
    if habit < 0.3:
        text = text.rstrip(".?。？")
    if 0.15 < habit < 0.5:
        text = text.lower()
    return text
