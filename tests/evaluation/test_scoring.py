"""Points of verdicts: the published rules worked out by hand, and the strict ones beside them."""

from __future__ import annotations

import itertools

import pytest

from baichuan_audio.evaluation.suites.openaudiobench import VerdictForm
from baichuan_audio.evaluation.suites.scoring import official_points, strict_points

# form, verdict, official, strict; None: no verdict
CASES: list[tuple[VerdictForm, str, float | None, float | None]] = [
    ("rubric", "回答正确，没有过程，得分是[4]", 80, 80),
    ("rubric", "得分是[0]", 0, 0),
    ("rubric", "先给[3]，再看过程，最后得分是[5]", 100, None),  # the last counts; strictly there are two
    ("rubric", "[2] 复查后仍是 [2]", 40, 40),
    ("rubric", "得分是[6]", None, None),
    ("rubric", "得分是4", None, None),
    ("rubric", "得分是[4.5]", None, None),
    ("rubric", "", None, None),
    ("score_is", "It is right, the score is [Correct]", 100, 100),
    ("score_is", "It is wrong, the score is [Incorrect]", 0, 0),
    ("score_is", "The score is [correct]", 100, 100),
    ("score_is", "the score is [Incorrect]. No: the score is [Correct]", 0, None),  # the first counts
    ("score_is", "The Score is [Correct]", None, None),
    ("score_is", "the score is Correct", None, None),
    ("score_is", "the score is [CORRECT]", None, None),
    ("json", '{"analysis": "fits", "judgment": "correct"}', 100, 100),
    ("json", '```json\n{"analysis": "no", "judgment": "Incorrect"}\n```', 0, 0),
    ("json", "{'analysis': 'fits', 'judgment': 'correct'}", 100, None),  # Python, not JSON
    ("json", '{"analysis": "{a set}", "judgment": "correct"}', None, 100),  # cut at the first brace
    ("json", '{"analysis": null, "judgment": "correct"}', None, 100),  # null is a name in Python
    ("json", '{"analysis": "x", "judgment": "partly"}', 0, None),  # anything else is not correct
    ("json", '{"analysis": "x", "judgment": true}', None, None),
    ("json", '{"analysis": "x"}', None, None),
    ("json", '{"correct"}', None, None),
    ("json", "correct", None, None),
    ("json", "} {", None, None),
    ("json", '{"analysis": __import__("os"), "judgment": "correct"}', None, None),  # never run
    ("rating", "Good. Rating: [[7]]", 70, 70),
    ("rating", "[[10]]", 100, 100),
    ("rating", "[[3]] or rather [[9]]", 30, None),  # the first counts
    ("rating", "[[0]]", None, None),
    ("rating", "[[11]]", None, None),
    ("rating", "Rating: 7", None, None),
    ("rating", "[7]", None, None),
    ("rating", "[[7.5]]", None, None),
]


@pytest.mark.parametrize(("form", "verdict", "official", "strict"), CASES)
def test_points(form: VerdictForm, verdict: str, official: float | None, strict: float | None) -> None:
    assert official_points(form, verdict) == official
    assert strict_points(form, verdict) == strict


def test_official_points_on_hundreds_of_verdicts() -> None:
    """Verdicts whose points are known because they were built from them: 264 of them."""
    prose = ["", "Well. ", "结论正确。", "A [note] of {nothing}. ", "Line one\nline two\n", "99 % [[ "]
    tails = ["", " Thanks.", "\n", " (final)"]
    count = 0
    for before, after in itertools.product(prose, tails):
        for score in range(6):
            assert official_points("rubric", f"{before}[{score}]{after}") == 20 * score
            count += 1
        for word in ("Correct", "Incorrect"):
            assert official_points("score_is", f"{before}The score is [{word}]{after}") == 100 * (word == "Correct")
            count += 1
        for rating in (1, 5, 10):
            text = f"{before}[[{rating}]]{after}"
            assert official_points("rating", text) == 10 * rating
            count += 1
    assert count == 264
