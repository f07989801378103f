"""IFEval's instructions, checked by rules: a reply that follows and one that does not, for each of the 25 kinds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from baichuan_audio.evaluation.suites.scores.instructions import CHECKS, can_check, followed, follows

AT_LEAST, LESS = "at least", "less than"
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["river", "old"]}, "An old man at the River.", "An older man at the river."),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": AT_LEAST}, "Tea? Tea!", "Tea and a team."),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": LESS}, "Tea.", "Tea, tea."),
    ("keywords:forbidden_words", {"forbidden_words": ["sad"]}, "A saddle.", "So Sad."),
    (
        "keywords:letter_frequency",
        {"letter": "Q", "let_frequency": 2, "let_relation": AT_LEAST},
        "Quite quick.",
        "A quiz.",
    ),
    ("language:response_language", {"language": "hi"}, "नमस्ते दुनिया OK", "Hello"),
    ("language:response_language", {"language": "en"}, "Good morning to you.", "你好，世界"),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": AT_LEAST},
        'He said "No." Then he left.',
        "It is 3.5 m long.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", "One.\n\nTwo."),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": LESS},
        "It's a mother-in-law",
        "One two three four",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        "First.\n\n\n\nthen, second.",
        "First.\n\nNow then.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name], at [place]", "Dear [name], []"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S. More.", "Bye.\nP.S. More."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n* b\n* c"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a b* and **c**", "*a* and ** **b"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day", "num_sections": 2},
        "Day 1\nx\nDay 2\ny",
        "Day one\nDay 2",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    ("detectable_format:title", {}, "<<A poem>>\nx", "<< >>\nx"),
    ("combination:two_responses", {}, "One.\n******\nTwo.", "One.\n******\nOne."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it. "}, "say it. It.", "It. Say it."),
    ("startend:end_checker", {"end_phrase": "That is all."}, 'So. "That is all."', "That is all. Bye."),
    ("startend:quotation", {}, '"All of it."', '"All" of it.'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": AT_LEAST},
        "STOP now, PLEASE",
        "Stop NOW",
    ),
    ("change_case:english_capital", {}, "ALL OF IT!", "ALL of IT"),
    ("change_case:english_lowercase", {}, "all of it!", "All of it"),
    ("punctuation:no_comma", {}, "One and two", "One, two"),
]


@pytest.mark.parametrize(("kind", "parameters", "right", "wrong"), CASES)
def test_each_kind(kind: str, parameters: dict[str, Any], right: str, wrong: str) -> None:
    assert follows(kind, parameters, right) and not follows(kind, parameters, wrong)
    assert not follows(kind, parameters, " ")


def test_all_kinds_are_tested_and_others_are_refused() -> None:
    assert {kind for kind, *_ in CASES} == set(CHECKS) and len(CHECKS) == 25
    assert can_check("punctuation:no_comma", {})
    assert not can_check("punctuation:no_dash", {})
    assert not can_check("keywords:existence", {})
    assert not can_check("language:response_language", {"language": "de"})


def test_the_loose_rule_forgives_a_first_line_and_asterisks() -> None:
    instructions = json.dumps([("punctuation:no_comma", {}), ("startend:end_checker", {"end_phrase": "Bye"})])
    reply = "Sure, here it is:\nOne and two. *Bye*"
    assert followed(instructions, reply) == [False, False]
    assert followed(instructions, reply, loose=True) == [True, True]
