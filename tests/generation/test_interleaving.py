"""Where text and speech take turns: every few words, never within one."""

from __future__ import annotations

from typing import Any

import pytest

from baichuan_audio.errors import ConfigError
from baichuan_audio.generation.interleaving import (
    ensure_terminal_punctuation,
    interleave_min_letters,
    lookahead_schedule,
    split_words,
)


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("The opposite of dirty is clean.", ["The opposite", " of dirty", " is clean."]),
        (" Girl is spelled G, I.  Yes", [" Girl is", " spelled", " G,", " I.", "  Yes"]),
        ("八减四等于四。 Good", ["八减", "四等", "于四。", " Good"]),
        ("3.5 is it?", ["3.5 is it?"]),
        ("well   ", ["well   "]),
        (" ", [" "]),
        ("", []),
    ],
)
def test_runs_of_words(model: Any, text: str, runs: list[str]) -> None:
    found = split_words(text, model.text_tokenizer, 5)
    assert found == runs and "".join(found) == text


def test_text_is_a_run_ahead_within_a_clause() -> None:
    assert lookahead_schedule([]) == [] and lookahead_schedule(["one"]) == [("one", 1)]
    assert lookahead_schedule(["The", " big"]) == [("The big", 2)]
    assert lookahead_schedule(["The", " big", " red", " dog."]) == [("The big", 1), (" red", 2), (" dog.", 4)]
    runs = ["Yes,", " it is", " red.", " And you?"]
    assert lookahead_schedule(runs) == [("Yes,", 1), (" it is red.", 3), (" And you?", 4)]


def test_what_is_read_aloud_ends_with_a_mark() -> None:
    assert [ensure_terminal_punctuation(text) for text in ("so it is ", "Is it?", "3.5", "是", "好，")] == [
        "so it is.", "Is it?", "3.5.", "是。", "好，",
    ]  # fmt: skip
    assert ensure_terminal_punctuation(" ") == ""


def test_the_entry_is_checked() -> None:
    assert interleave_min_letters({}) is None and interleave_min_letters({"interleave_min_letters": 5}) == 5
    for wrong in (0, "5", True, 2.5):
        with pytest.raises(ConfigError, match="interleave_min_letters"):
            interleave_min_letters({"interleave_min_letters": wrong})
