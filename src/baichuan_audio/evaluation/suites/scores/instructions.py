"""Whether a reply follows instructions that can be checked by rules: the 25 kinds of IFEval (arXiv 2311.07911).

The names of kinds and their parameters are those of the published data, the checks are ours.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ....text.language import language_of

Parameters = Mapping[str, Any]
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?]+[\"”’')\]]*(?=\s|$)")
_BULLET = re.compile(r"^\s*(?:\*(?!\*)|-)\s*\S", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*\*[^\n*]*[^\s*][^\n*]*\*\*|\*[^\n*]*[^\s*][^\n*]*\*")
_FENCE = re.compile(r"^```\w*\s*|\s*```$")
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_SCRIPTS = {
    "ar": "ARABIC", "bg": "CYRILLIC", "bn": "BENGALI", "fa": "ARABIC", "gu": "GUJARATI", "he": "HEBREW",
    "hi": "DEVANAGARI", "kn": "KANNADA", "ko": "HANGUL", "mr": "DEVANAGARI", "ne": "DEVANAGARI", "pa": "GURMUKHI",
    "ru": "CYRILLIC", "ta": "TAMIL", "te": "TELUGU", "th": "THAI", "ur": "ARABIC", "zh": "CJK",
}  # fmt: skip
"""Languages that are told by their script; of those in Latin letters, English alone is."""


def follows(kind: str, parameters: Parameters, reply: str) -> bool:
    """Whether a reply follows one instruction; an empty one follows none. Raises KeyError for an unknown kind, and for
    a parameter that is missing."""
    return bool(reply.strip()) and bool(CHECKS[kind](reply, parameters))


def followed(instructions: str, reply: str, loose: bool = False) -> list[bool]:
    """For each instruction of a JSON list of (kind, parameters), whether the reply follows it.

    loose: as published, also without its first line, its last, both, and without asterisks.
    """
    versions = list(_loosened(reply)) if loose else [reply]
    return [any(follows(kind, parameters, text) for text in versions) for kind, parameters in json.loads(instructions)]


def can_check(kind: str, parameters: Parameters) -> bool:
    """Whether there is a rule for an instruction, and its parameters are there."""
    try:
        follows(kind, parameters, "x")
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return True


def _loosened(reply: str) -> Iterator[str]:
    lines = reply.split("\n")
    for part in (lines, lines[1:], lines[:-1], lines[1:-1]):
        text = "\n".join(part).strip()
        yield text
        yield text.replace("*", "")


def _related(count: int, relation: str | None, limit: int) -> bool:
    """The published relations: "less than", else "at least"."""
    return count < limit if relation == "less than" else count >= limit


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _occurrences(text: str, phrase: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE))


def _sentences(text: str) -> int:
    return sum(bool(_words(part)) for part in _SENTENCE_END.split(text))


def _parts(text: str, separator: str) -> list[str]:
    """What lies between separators; nothing before the first and behind the last counts not."""
    parts = [part.strip() for part in re.split(separator, text)]
    start, end = not parts[0], len(parts) - (len(parts) > 1 and not parts[-1])
    return parts[start:end]


def _paragraphs(text: str, parameters: Parameters) -> bool:
    parts = _parts(text, r"\s?\*\*\*\s?")
    return all(parts) and len(parts) == parameters["num_paragraphs"]


def _nth_paragraph(text: str, parameters: Parameters) -> bool:
    parts, number = [part for part in re.split(r"\n\n", text) if part.strip()], parameters["nth_paragraph"]
    if len(parts) != parameters["num_paragraphs"] or not 1 <= number <= len(parts):
        return False
    return [word.lower() for word in _words(parts[number - 1])[:1]] == [str(parameters["first_word"]).lower()]


def _two_responses(text: str, parameters: Parameters) -> bool:
    parts = _parts(text, re.escape("******"))
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _json(text: str, parameters: Parameters) -> bool:
    try:
        json.loads(_FENCE.sub("", text.strip()))
    except ValueError:
        return False
    return True


def _language(text: str, parameters: Parameters) -> bool:
    language = str(parameters["language"]).lower()
    if language == "en":
        return language_of(text) == "en"
    letters = [letter for letter in text if letter.isalpha()]
    in_script = sum(unicodedata.name(letter, "").startswith(_SCRIPTS[language]) for letter in letters)
    return 2 * in_script > len(letters)


def _postscript(text: str, parameters: Parameters) -> bool:
    letters = [letter for letter in str(parameters["postscript_marker"]) if letter.isalpha()]
    return bool(re.search(r"(?<!\w)" + r"\.?\s?".join(letters) + r"\b", text, re.IGNORECASE))


def _sections(text: str, parameters: Parameters) -> bool:
    name = re.escape(str(parameters["section_spliter"]).strip())
    return len(re.findall(rf"{name}\s?\d+", text)) >= parameters["num_sections"]


CHECKS: dict[str, Callable[[str, Parameters], bool]] = {
    "keywords:existence": lambda text, p: all(_occurrences(text, word) for word in p["keywords"]),
    "keywords:frequency": lambda text, p: _related(_occurrences(text, p["keyword"]), p.get("relation"), p["frequency"]),
    "keywords:forbidden_words": lambda text, p: not any(_occurrences(text, word) for word in p["forbidden_words"]),
    "keywords:letter_frequency": lambda text, p: _related(
        text.lower().count(p["letter"].lower()), p.get("let_relation"), p["let_frequency"]
    ),
    "language:response_language": _language,
    "length_constraints:number_sentences": lambda text, p: _related(
        _sentences(text), p.get("relation"), p["num_sentences"]
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda text, p: _related(len(_words(text)), p.get("relation"), p["num_words"]),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": lambda text, p: (
        len(re.findall(r"\[[^\[\]]+\]", text)) >= p["num_placeholders"]
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda text, p: len(_BULLET.findall(text)) == p["num_bullets"],
    "detectable_format:constrained_response": lambda text, p: any(answer in text for answer in _ANSWERS),
    "detectable_format:number_highlighted_sections": lambda text, p: (
        len(_HIGHLIGHT.findall(text)) >= p["num_highlights"]
    ),
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda text, p: bool(re.search(r"<<[^\n<>]*\w[^\n<>]*>>", text)),
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda text, p: (
        text.strip().lower().startswith(str(p["prompt_to_repeat"]).strip().lower())
    ),
    "startend:end_checker": lambda text, p: (
        text.strip().strip('"').lower().endswith(str(p["end_phrase"]).strip().lower())
    ),
    "startend:quotation": lambda text, p: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
    "change_case:capital_word_frequency": lambda text, p: _related(
        sum(word.isupper() for word in _words(text)), p.get("capital_relation"), p["capital_frequency"]
    ),
    "change_case:english_capital": lambda text, p: text.isupper(),
    "change_case:english_lowercase": lambda text, p: text.islower(),
    "punctuation:no_comma": lambda text, p: "," not in text,
}
"""Kind of instruction -> whether a reply follows it, given the parameters of the data."""
