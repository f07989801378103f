"""Where text and audio segments alternate within a spoken reply (`interleave_min_letters` in config.json).

The released models speak clause by clause. A small model loses alignment within a clause long before it does within a
word: one with `interleave_min_letters` alternates every word or two, and the audio of its reply is continuous. Its text
is one run of words ahead of its audio, because the end of a word depends on the word after it.
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
_LETTERS_OF_A_CHARACTER = 3  # a Chinese character is a syllable, about as long as three letters


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
    for begin, end in _words(text, [first for _, first, _ in tokenizer.spans(text)]):
        if weight >= letters or _ends_clause(text[start:begin], text[begin:end]):
            runs.append(text[start:begin])
            start, weight = begin, 0
        weight += letters_in(text[begin:end])
    return [*runs, text[start:]] if text else []


def lookahead_schedule(runs: Sequence[str]) -> list[tuple[str, int]]:
    """Runs of words (`split_words`) -> the text segments in order, each with the number of runs spoken after it.

    Within a clause the text is one run ahead of the audio: the first text segment has two runs, and so has the last
    audio segment. The model knows the last one by its punctuation, so a text to be read aloud needs some
    (`ensure_terminal_punctuation`).
    """
    segments: list[tuple[str, int]] = []
    start = 0
    for end in range(1, len(runs) + 1):
        if end < len(runs) and not _ends_clause(runs[end - 1], runs[end]):
            continue
        clause = runs[start:end]
        texts = ["".join(clause[:2]), *clause[2:]]
        segments += [(text, spoken) for spoken, text in enumerate(texts[:-1], start + 1)]
        segments.append((texts[-1], end))
        start = end
    return segments


def letters_in(text: str) -> int:
    """Letters of a text; a Chinese character counts as three."""
    return sum(_weight(character) for character in text)


def ensure_terminal_punctuation(text: str) -> str:
    """The text with a full stop added, if it ends without punctuation."""
    text = text.rstrip()
    if not text or text[-1] == "." or text[-1] in CLAUSE_MARKS:
        return text
    return text + ("。" if text[-1] >= _CHINESE_FROM else ".")


def _words(text: str, token_starts: list[int]) -> Iterator[tuple[int, int]]:
    """First and end of each word with the blanks before it; words begin at tokens after a blank or at Chinese ones."""
    inner = (_with_blanks(text, start) for start in token_starts if start > 0 and _begins_word(text, start))
    yield from pairwise([0, *inner, len(text)])


def _begins_word(text: str, index: int) -> bool:
    character = text[index]
    return character.isspace() or text[index - 1].isspace() or (character >= _CHINESE_FROM and character.isalnum())


def _with_blanks(text: str, index: int) -> int:
    while index > 0 and text[index - 1].isspace():
        index -= 1
    return index


def _ends_clause(before: str, after: str) -> bool:
    """Whether writing a reply would stop between the two (`reply.py`)."""
    return before[-1:] in CLAUSE_MARKS if before[-1:] != "." else after[:1].isspace()


def _weight(character: str) -> int:
    if not character.isalnum():
        return 0
    return _LETTERS_OF_A_CHARACTER if character >= _CHINESE_FROM else 1
