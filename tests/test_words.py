"""The vocabulary: words that were replaced by a term of the field do not come back, in code, docs or CLI help."""

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
PARTS += sorted((ROOT / "recipes" / "nano" / "nano").iterdir())
PAGES = [  # the changelog and the log of experiments are history
    *sorted(ROOT.glob("README*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*/*.md")),
    *sorted((ROOT / "models" / "nano").glob("*.md")),
    ROOT / "examples" / "README.md",
    ROOT / "CONTRIBUTING.md",
]

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

TERMS = (
    r"examinations?|right ids|held-out voices?|strangers?|first sound|diets?|ears?|obvious|stand-in|doors?|twins?|"
    r"spoken_text|pipeline\.py|fast/\w*|the fast path"
)
"""Terms of earlier docs: each has a name in the field."""


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


def banned_terms(text: str) -> list[str]:
    """Banned terms in the prose of a page; code blocks are left out."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(rf"(?<![\w/-])(?:{TERMS})(?![\w-])", prose, flags=re.IGNORECASE)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.stem)
def test_identifiers(part: Path):
    files = [part] if part.is_file() else list(part.rglob("*.py"))
    problems = [problem for file in files for problem in banned_identifiers(file)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page: Path):
    assert not banned_terms(page.read_text(encoding="utf-8"))


def test_command_line_help():
    def helps(parser: argparse.ArgumentParser) -> Iterator[str]:
        yield parser.format_help()
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    yield from helps(command)

    assert not [term for text in helps(build_parser()) for term in banned_terms(text)]


def test_the_check_finds_what_it_looks_for(tmp_path: Path):
    (tmp_path / "a.py").write_text("def the_ear(said):\n    TwinModel = heard_text = 1\n")
    problems = banned_identifiers(tmp_path / "a.py")
    assert len(problems) == 3 and "a.py:1: 'the_ear': use recognizer" in problems[0]
    assert banned_terms("The First sound\n```\nears\n```\n") == ["First sound"]
