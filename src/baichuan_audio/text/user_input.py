"""Normalizes typed text before tokenization.

Steps that keep the meaning are done for every model: Windows line ends, full-width letters and digits, invisible
characters, accents as one character. Steps for small models are listed in `config.json`:

    "text_input_normalization": ["join_lines", "remove_emoji", "lowercase_capitals"]

Control tokens need no handling here: the tokenizer encodes every text as ordinary text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import ConfigError, PromptError
from .language import has_han

STEPS = ("join_lines", "remove_emoji", "lowercase_capitals")

_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_LINES = re.compile(r"(?<![ \t])[ \t]*\n[ \t\n]*")  # starts at the start of a run of spaces, to stay linear
_RUNS = re.compile(r"[ \t]+")
_CAPITALS = re.compile(r"(?<![0-9A-Za-z])[A-Z]+(?:['’][A-Z]+){0,3}(?![0-9A-Za-z])")
_SENTENCE_START = re.compile(r"[.!?]\s+\W?\Z|\A\W*\Z")
_LOOK_BACK = 8  # characters before a word that are searched for the end of a sentence
_BETWEEN_HAN = 0x2E80  # characters from here on are written without spaces

# Full-width letters, digits and signs; Chinese punctuation (，。！？：；（）～) is wide by design and stays.
_WIDE = (
    "".join(map(chr, [*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)]))
    + "＃＄％＆＊＋－．／＜＝＞＠＼＾＿｀｜"
)
NARROW = str.maketrans(
    {wide: chr(ord(wide) - 0xFEE0) for wide in _WIDE}
    # letters and digits of mathematical fonts, used as decoration
    | {letter: unicodedata.normalize("NFKC", letter) for letter in map(chr, range(0x1D400, 0x1D800))}
)
_EMOTICON = re.compile(r"(?<!\S)[:;]['-]?[()DPp](?!\S)")
_SYMBOLS_READ = "°©®™℃℉№¦"
_EMOJI_PARTS = frozenset("\u200d\u20e3\ufe0e\ufe0f")


def normalize_user_text(text: str, steps: Collection[str] = ()) -> str:
    """Normalize `text`; steps: of `STEPS`, in addition to those for every model.

    Spaces at its ends stay, and so does half of a surrogate pair, which the tokenizer rejects.
    """
    if not isinstance(text, str):
        raise PromptError(f"text must be a string, not {type(text).__name__}.")
    if not (text.isascii() and text.isprintable()):
        text = _safe(text)
    if "remove_emoji" in steps:
        text = "".join(c for c in _EMOTICON.sub("", text) if c in _SYMBOLS_READ or not _is_emoji(c))
    if "join_lines" in steps:
        text = _RUNS.sub(" ", _LINES.sub(_joint, text))
    if "lowercase_capitals" in steps:
        text = _lowercase_capitals(text)
    return text


def input_steps(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The entry `text_input_normalization` of a model's `config.json`; ConfigError unless a list of `STEPS`."""
    steps = config.get("text_input_normalization") or []
    if not isinstance(steps, list) or not all(step in STEPS for step in steps):
        raise ConfigError(f"config.json: text_input_normalization must be a list of {', '.join(STEPS)}, not {steps!r}.")
    return tuple(steps)


def _safe(text: str) -> str:
    text = _INVISIBLE.sub("", _BREAKS.sub("\n", text))
    text = _SPACES.sub(" ", text).translate(NARROW)
    return _without_blank_lines(unicodedata.normalize("NFC", text))


def _without_blank_lines(text: str) -> str:
    """Remove blank lines before and after the text; spaces of its first and last line stay."""
    first = len(text) - len(text.lstrip(" \t\n"))
    text = text[text.rfind("\n", 0, first) + 1 :]
    last_line_end = text.find("\n", len(text.rstrip(" \t\n")))
    return text if last_line_end < 0 else text[:last_line_end]


def _is_emoji(character: str) -> bool:
    code = ord(character)
    if code < 0x2000:
        return False
    parts = character in _EMOJI_PARTS or 0x1F3FB <= code <= 0x1F3FF or 0xE0020 <= code <= 0xE007F
    return parts or unicodedata.category(character) == "So"


def _joint(match: re.Match[str]) -> str:
    """Replace a line break: a space between words, nothing next to a Chinese character or punctuation."""
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    wide = any(side and ord(side) >= _BETWEEN_HAN for side in (before, after))
    return "" if wide else " "


def _lowercase_capitals(text: str) -> str:
    """Words in capitals in ordinary case; single letters stay, as in "what comes after B?"."""
    all_capitals = text.upper() == text and not has_han(text)

    def lower(match: re.Match[str]) -> str:
        word = match.group()
        if len(word) < 2 and not (all_capitals and word == "A"):
            return word
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        at_start = _SENTENCE_START.search(before) and (len(before) < _LOOK_BACK or before.strip())
        keeps_first = at_start or word.startswith(("I'", "I’"))
        return (word[0] if keeps_first else word[0].lower()) + word[1:].lower()

    return _CAPITALS.sub(lower, text)
