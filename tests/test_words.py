"""The vocabulary: words that were replaced by a term of the field do not come back, in code, docs or CLI help.

Not listed here are the names of training tricks that a coming change removes (word concatenation, pseudo-codes ...).
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import baichuan_audio
from baichuan_audio.cli.app import build_parser

ROOT = Path(__file__).parents[1]
SOURCE = Path(baichuan_audio.__file__).parent
PARTS = sorted(path for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())
PAGES = [*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("recipes/*/*.md")]

BARE = {"said", "told", "heard", "wanted", "found", "place", "each", "own"}
"""No identifiers by themselves: they do not say what they hold."""

WORDS = {
    "accelerate": "optimize_for_inference",
    "barred": "suppressed",
    "diet": "mixture",
    "door": "admission",
    "ear": "recognizer, phoneme scorer or perceptual loss",
    "ears": "recognizers",
    "examination": "evaluation",
    "joiner": "crossfade",
    "mailbox": "reply stream",
    "obvious": "reference",
    "outbox": "send queue",
    "twin": "inference copy",
    "unlikeliness": "ctc_nll",
}
"""Parts of identifiers -> the term to use."""

PHRASES = {
    r"\bdiets?\b": "mixture",
    r"\bexaminations?\b": "evaluation",
    r"\bfirst sound\b": "first audio, time to first audio",
    r"\bobvious (path|way|one)\b": "reference path",
    r"\bright ids\b": "token accuracy",
    r"\bsecond ear\b|\bthe ears?\b|\ban ear\b": "recognizer",
    r"\bstrangers?\b": "unseen speaker",
    r"\btwins?\b": "inference copy",
}
"""In prose -> the term to use."""


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a module defines or assigns."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def banned_identifiers(path: Path) -> list[str]:
    """Banned names in a Python file, with their lines and what to use instead."""
    problems = []
    for line, name in defined_names(ast.parse(path.read_text(encoding="utf-8"))):
        if name in BARE:
            problems.append(f"{path}:{line}: '{name}' does not say what it holds")
        for part in re.findall(r"[A-Z]?[a-z]+", name):
            if part.lower() in WORDS:
                problems.append(f"{path}:{line}: '{name}': use {WORDS[part.lower()]}")
    return problems


def banned_phrases(name: str, text: str) -> list[str]:
    """Banned words of a text, with what to use instead."""
    return [
        f"{name}: '{match.group()}': use {instead}"
        for phrase, instead in PHRASES.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.stem)
def test_identifiers(part: Path):
    problems = [p for path in ([part] if part.is_file() else part.rglob("*.py")) for p in banned_identifiers(path)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page: Path):
    problems = banned_phrases(str(page), page.read_text(encoding="utf-8"))
    assert not problems, "\n".join(problems)


def test_command_line_help():
    def helps(parser: argparse.ArgumentParser) -> Iterator[str]:
        yield parser.format_help()
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    yield from helps(command)

    problems = [problem for text in helps(build_parser()) for problem in banned_phrases("help", text)]
    assert not problems, "\n".join(problems)


def test_the_check_finds_what_it_looks_for(tmp_path: Path):
    (tmp_path / "a.py").write_text("def the_ear(said):\n    TwinModel = heard_text = 1\n")
    problems = banned_identifiers(tmp_path / "a.py")
    assert len(problems) == 3 and "a.py:1: 'the_ear': use recognizer" in problems[0]
    assert banned_phrases("x", "The First sound") == ["x: 'First sound': use first audio, time to first audio"]
