"""Where text and speech take turns within a spoken reply (`interleave_min_letters` in config.json).

The released models speak clause by clause. A small model loses its place in a clause long before it loses a word: one
that has `interleave_min_letters` takes turns every word or two, and the speech of its reply is one stretch of sound.
Its text is a run of words ahead: how a word ends depends on the one that follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..config import renamed_key
from ..errors import ConfigError
from ..language_model.prompt import CLAUSE_MARKS
from ..language_model.text_tokenizer import TextTokenizer

_CHINESE_FROM = "\u2e80"
_LETTERS_OF_A_CHARACTER = 3  # a Chinese character is a syllable, as long as so many letters


def interleave_min_letters(config: Mapping[str, Any]) -> int | None:
    """The entry of `config.json`; None: clause by clause. Raises ConfigError."""
    letters = renamed_key(config, "interleave_min_letters", "interleave_letters")
    if letters is not None and (not isinstance(letters, int) or isinstance(letters, bool) or letters < 1):
        raise ConfigError(f"config.json: interleave_min_letters must be a whole number of letters, not {letters!r}.")
    return letters


def split_words(text: str, tokenizer: TextTokenizer, letters: int) -> list[str]:
    """Cut text into runs of words of at least `letters` letters, or shorter where a clause ends.

    No token is cut; the blank before a word leads its run. Joined, the runs are the text.
    """
    runs, start, weight = [], 0, 0
    for place, end in _words(text, [first for _, first, _ in tokenizer.spans(text)]):
        if weight >= letters or _ends_clause(text[start:place], text[place:end]):
            runs.append(text[start:place])
            start, weight = place, 0
        weight += letters_in(text[place:end])
    return [*runs, text[start:]] if text else []


def lookahead_schedule(runs: Sequence[str]) -> list[tuple[str, int]]:
    """Runs of words (`split_words`) -> the texts written one after the other, and how many runs are said after each.

    Within a clause the text is one run ahead of its speech, so its first text has two runs and its last speech too. Its
    mark tells the last: what is read aloud needs one (`ended`).
    """
    segments: list[tuple[str, int]] = []
    start = 0
    for end in range(1, len(runs) + 1):
        if end < len(runs) and not _ends_clause(runs[end - 1], runs[end]):
            continue
        clause = runs[start:end]
        texts = ["".join(clause[:2]), *clause[2:]]
        segments += [(text, place) for place, text in enumerate(texts[:-1], start + 1)]
        segments.append((texts[-1], end))
        start = end
    return segments


def letters_in(text: str) -> int:
    """Letters of a text; a Chinese character counts as three."""
    return sum(_weight(character) for character in text)


def ended(text: str) -> str:
    """The text with a full stop, where it ends without a mark."""
    text = text.rstrip()
    if not text or text[-1] == "." or text[-1] in CLAUSE_MARKS:
        return text
    return text + ("。" if text[-1] >= _CHINESE_FROM else ".")


def _words(text: str, row_positions: list[int]) -> Iterator[tuple[int, int]]:
    """First and end of each word with the blanks before it: they begin at a place with a blank or Chinese character."""
    begins = [
        0,
        *(_with_blanks(text, place) for place in row_positions if place > 0 and _begins_word(text, place)),
        len(text),
    ]
    yield from pairwise(begins)


def _begins_word(text: str, place: int) -> bool:
    here = text[place]
    return here.isspace() or text[place - 1].isspace() or (here >= _CHINESE_FROM and here.isalnum())


def _with_blanks(text: str, place: int) -> int:
    while place > 0 and text[place - 1].isspace():
        place -= 1
    return place


def _ends_clause(before: str, after: str) -> bool:
    """Whether writing a reply would stop between the two (`reply.py`)."""
    return before[-1:] in CLAUSE_MARKS if before[-1:] != "." else after[:1].isspace()


def _weight(character: str) -> int:
    if not character.isalnum():
        return 0
    return _LETTERS_OF_A_CHARACTER if character >= _CHINESE_FROM else 1
