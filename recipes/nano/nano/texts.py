"""What nano's speech is made of: dialogues and sentences, as the text road of the data pipeline reads them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from baichuan_audio.errors import DataError
from baichuan_audio.text.language import voice_language

from .dialogues import generate_dialogues
from .hashing import hash_fraction

_VALIDATION_SHARE = 0.03
_SENTENCE = re.compile(r"[\u4e00-\u9fff，、]{5,28}[。！？]?")
_BREAK = re.compile(r"(?<=[。！？])|[；\n]")
_ENGLISH = re.compile(r"[A-Za-z][A-Za-z ,']+")
_ENGLISH_WORDS = range(4, 23)


def question_items(path: Path) -> Iterator[dict[str, Any]]:
    """The questions of `make_texts.py questions`, each with its split. Raises DataError where they cannot be read."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            held_out = hash_fraction(row["turns"][0]["user"]) < _VALIDATION_SHARE
            yield {**row, "split": "validation" if held_out else "train"}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: no file of questions as `make_texts.py questions` writes them ({error}).") from error


def skill_items(seed: int, count: int, license: str, split: str = "train") -> Iterator[dict[str, Any]]:
    """Dialogues of the skills, in one language each: those that translate need a voice of two, and are left out."""
    for row in generate_dialogues(seed, count, split, text_question_share=0.0):
        texts = [message["content"] for message in row["messages"]]
        if any(voice_language(text) != row["language"] for text in texts):
            continue
        texts = [text.replace(row["voice"], "Nano") for text in texts]
        turns = [{"user": user, "reply": reply} for user, reply in zip(texts[::2], texts[1::2], strict=True)]
        facts = {"id": row["id"], "split": split, "language": row["language"], "source": f"skill {row['skill']}"}
        yield {"kind": "sft", "license": license, **facts, "turns": turns}


def english_items(path: Path, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Definitions and examples of WordNet (its `data.*` files, joined), to be read aloud: few texts of that size have
    so many different words. Raises DataError where there are too few."""
    glosses = (line.partition(" | ")[2] for line in _text_file(path).splitlines())
    pieces = (piece.strip(' "') for gloss in glosses for piece in gloss.split(";"))
    fitting = (piece for piece in pieces if _ENGLISH.fullmatch(piece) and len(piece.split()) in _ENGLISH_WORDS)
    sentences = list(dict.fromkeys(piece[0].upper() + piece[1:] + "." for piece in fitting))
    yield from _read_aloud(path, sentences, "en", seed, count, "WordNet-3.0")


def sentence_items(path: Path, seed: int, count: int, license: str) -> Iterator[dict[str, Any]]:
    """Mandarin sentences of a text file, to be read aloud. Raises DataError where there are too few."""
    pieces = (piece.strip() for piece in _BREAK.split(_text_file(path)))
    sentences = [piece for piece in dict.fromkeys(pieces) if _SENTENCE.fullmatch(piece)]
    yield from _read_aloud(path, sentences, "zh", seed, count, license)


def _text_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no text file ({error}).") from error


def _read_aloud(
    path: Path, sentences: list[str], language: str, seed: int, count: int, license: str
) -> Iterator[dict[str, Any]]:
    if len(sentences) < count:
        raise DataError(f"{path}: it has {len(sentences)} sentences in '{language}' alone, {count} are wanted.")
    for sentence in random.Random(seed).sample(sentences, count):
        split = "validation" if hash_fraction(sentence) < _VALIDATION_SHARE else "train"
        facts = {"license": license, "language": language, "source": path.stem, "split": split}
        yield {"kind": "text", **facts, "text": sentence}


def write_items(items: Iterable[dict[str, Any]], output: Path) -> int:
    """One JSON object a line -> how many."""
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in items]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(lines), encoding="utf-8")
    return len(lines)
