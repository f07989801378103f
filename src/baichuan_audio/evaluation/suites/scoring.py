"""From a judge's verdict to points, by two rules that are always shown together.

Official-compatible: the published rules to the letter, whose mean leaves out what they cannot parse. Strict: a verdict
counts only where it says one thing, and whatever cannot be parsed is wrong. Points are 0 to 100.
Source of the published rules: the scoring of OpenAudioBench as Kimi-Audio-Evalkit (`ds_refqa.py`) follows it.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

from .openaudiobench import VerdictForm

_RATING = re.compile(r"\[\[(\d+)\]\]")
_RUBRIC = re.compile(r"\[([0-5])\]")
_SCORE_IS = re.compile(r"[Tt]he score is \[(Correct|Incorrect|correct|incorrect)\]")


def official_points(form: VerdictForm, verdict: str) -> float | None:
    """Points by the published rules; None where they find no verdict and leave the item out.

    A rating outside of 1 to 10 ends the published script with an error; here it is None.
    """
    if form == "rating":
        match = _RATING.search(verdict)
        score = int(match.group(1)) if match else 0
        return score * 10.0 if 1 <= score <= 10 else None
    if form == "rubric":
        marks = _RUBRIC.findall(verdict)
        return int(marks[-1]) * 20.0 if marks else None
    if form == "score_is":
        marks = _SCORE_IS.findall(verdict)
        return (100.0 if marks[0].lower() == "correct" else 0.0) if marks else None
    # The published code evaluates the text as Python, so JSON's true and null end it. Literals alone are read here: of
    # 800,000 random verdicts one differed, by an index behind a string.
    record = _literal(verdict[verdict.find("{") : verdict.find("}") + 1])
    judgment = record.get("judgment") if isinstance(record, dict) else None
    return (100.0 if judgment.lower() == "correct" else 0.0) if isinstance(judgment, str) else None


def strict_points(form: VerdictForm, verdict: str) -> float | None:
    """Points of a verdict that says exactly one thing; None for any other, which counts as wrong."""
    if form == "json":
        return _strict_json(verdict)
    pattern = {"rating": _RATING, "rubric": _RUBRIC, "score_is": _SCORE_IS}[form]
    marks = {mark.lower() for mark in pattern.findall(verdict)}
    if len(marks) != 1:
        return None
    (mark,) = marks
    if form == "score_is":
        return 100.0 if mark == "correct" else 0.0
    if form == "rubric":
        return int(mark) * 20.0
    return int(mark) * 10.0 if 1 <= int(mark) <= 10 else None


def _strict_json(verdict: str) -> float | None:
    try:
        record = json.loads(verdict[verdict.index("{") : verdict.rindex("}") + 1])
    except ValueError:
        return None
    judgment = record.get("judgment") if isinstance(record, dict) else None
    if not isinstance(judgment, str) or judgment.strip().lower() not in ("correct", "incorrect"):
        return None
    return 100.0 if judgment.strip().lower() == "correct" else 0.0


def _literal(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a judge's prose
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
