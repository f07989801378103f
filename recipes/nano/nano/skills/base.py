"""What every skill is made of: turns, and the rule that decides which content is held out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..hashing import hash_fraction

TEST_SHARE = 0.10
VALIDATION_SHARE = 0.04
_MAX_DRAWS = 400


@dataclass(frozen=True)
class Turn:
    """A question and its reply.

    Attributes:
        user: the question as it is spoken, numbers in words.
        reply: the reply in clauses, each of one language and spoken in one piece; `{voice}` stands for
            the voice's name.
        typed: how someone would type the question where that differs, e.g. with digits.
    """

    user: str
    reply: tuple[str, ...]
    typed: str | None = None


class NoContentError(Exception):
    """Nothing of the wanted split can be asked here, e.g. no follow-up to this turn is held out."""


def split_of(key: str) -> str:
    """The split of a piece of content, by hash: the same on every machine and in every run."""
    fraction = hash_fraction("content:" + key)
    if fraction < TEST_SHARE:
        return "test"
    return "validation" if fraction < TEST_SHARE + VALIDATION_SHARE else "train"


def draw(split: str, make: Callable[[], tuple[str, Turn]]) -> Turn:
    """Calls `make` until the content key it returns belongs to `split`, and returns its turn."""
    for _ in range(_MAX_DRAWS):
        key, turn = make()
        if split_of(key) == split:
            return turn
    raise NoContentError(split)


def follow_ups(rng: random.Random, turns: list[Turn], more: Callable[[Turn], Turn]) -> list[Turn]:
    """Adds up to two turns that refer to the one before, where content of the split can be found."""
    for chance in (0.45, 0.3):
        if rng.random() > chance:
            break
        try:
            turns.append(more(turns[-1]))
        except NoContentError:
            break
    return turns


def phrased(rng: random.Random, phrasings: Sequence[str]) -> tuple[int, str]:
    """One of the phrasings and its number, which goes into the content key."""
    index = rng.randrange(len(phrasings))
    return index, phrasings[index]


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def listed(language: str, items: Sequence[str]) -> str:
    """A sentence that is a list: One, two, three. 一，二，三。"""
    return "，".join(items) + "。" if language == "zh" else capitalised(", ".join(items)) + "."
