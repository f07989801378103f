"""Intervals that hold what they promise, and tests against values from tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from baichuan_audio.evaluation import statistics
from baichuan_audio.evaluation.statistics import items_needed, mcnemar, paired_difference, rate


def simulated(questions: int, voices: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items of questions of differing difficulty, each asked by one voice: right or not, question, voice."""
    difficulty, clearness = draw.normal(0, 1, questions), draw.normal(0, 0.3, voices)
    question = np.repeat(np.arange(questions), 2)
    voice = draw.integers(0, voices, len(question))
    chance = 1 / (1 + np.exp(-(0.8 + difficulty[question] + clearness[voice])))
    return (draw.random(len(question)) < chance).astype(float), question, voice


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    many = np.random.default_rng(1).normal(0, math.hypot(1, 0.3), 400_000)
    truth = float((1 / (1 + np.exp(-(0.8 + many)))).mean())
    covered = 0
    for _ in range(1000):
        right, question, voice = simulated(150, 10, draw)
        found = rate(right, None, question.tolist(), voice.tolist())
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_intervals_of_error_rates_and_differences_cover_too() -> None:
    """Errors of recordings of unequal length by twelve speakers of unequal clearness, and two systems on the same."""
    draw = np.random.default_rng(3)
    rate_covered = difference_covered = 0
    for _ in range(600):
        clearness = draw.gamma(4.0, 0.025, 12)  # a mean of 0.1 errors a word
        speaker = draw.integers(0, 12, 150)
        words = draw.integers(3, 30, 150)
        errors = draw.binomial(words, np.minimum(clearness[speaker], 1.0))
        found = rate(errors.tolist(), words.tolist(), None, speaker.tolist())
        rate_covered += found.low <= 0.1 <= found.high
        hard = draw.random(150)
        first = (draw.random(150) < 0.4 + 0.4 * hard).astype(float)
        second = (draw.random(150) < 0.45 + 0.4 * hard).astype(float)
        difference = paired_difference(first.tolist(), second.tolist())
        difference_covered += difference.low <= 0.05 <= difference.high
    assert 0.93 <= rate_covered / 600 <= 0.97
    assert 0.93 <= difference_covered / 600 <= 0.97


def test_ignoring_shared_questions_promises_too_much() -> None:
    draw = np.random.default_rng(0)
    question = np.repeat(np.arange(40), 10)
    right = (draw.random(40) < 0.5)[question].astype(float)  # all of a question's items are alike
    alone, shared = rate(right), rate(right, None, question.tolist())
    assert shared.high - shared.low > 2.5 * (alone.high - alone.low)
    assert shared.value == alone.value == right.mean()


def test_error_rates_weigh_items_by_their_words() -> None:
    estimate = rate([1, 0, 3], [10, 5, 15])
    assert estimate.value == pytest.approx(4 / 30) and estimate.low < 4 / 30 < estimate.high and estimate.items == 3


def test_items_that_all_agree_leave_some_doubt() -> None:
    assert (rate([1.0, 1.0]).low, rate([1.0, 1.0]).high) == (pytest.approx(2 / (2 + 1.96**2), abs=1e-3), 1.0)
    assert rate([0.0] * 50).high == pytest.approx(0.0713, abs=1e-3)
    assert rate([1.0] * 4, None, ["a", "a", "b", "b"]).low == rate([1.0, 1.0]).low  # two questions


def test_one_voice_says_nothing_of_others() -> None:
    assert rate([1, 0, 1], None, ["a", "b", "c"], ["v"] * 3).high == math.inf


def test_paired_difference_is_narrower_than_two_rates() -> None:
    draw = np.random.default_rng(2)
    first = (draw.random(300) < 0.6).astype(float)
    second = first.copy()
    second[:12] = 1 - second[:12]
    change = paired_difference(first.tolist(), second.tolist())
    assert change.value == pytest.approx((second - first).mean())
    assert change.high - change.low < 0.5 * (rate(first.tolist()).high - rate(first.tolist()).low)


def test_mcnemar_is_the_binomial_test() -> None:
    first = [True] * 2 + [False] * 10 + [True] * 20
    second = [False] * 2 + [True] * 10 + [True] * 20
    # 2 against 10: two-sided binomial, 2 * (1 + 12 + 66) / 4096
    assert mcnemar(first, second) == pytest.approx(2 * 79 / 4096)
    assert mcnemar(first, first) == 1.0


@pytest.mark.parametrize(
    ("difference", "discordant", "items"), [(0.05, 0.2, 625), (0.02, 0.1, 1961), (0.01, 0.1, 7847)]
)
def test_items_needed(difference: float, discordant: float, items: int) -> None:
    assert items_needed(difference, discordant) == pytest.approx(items, rel=0.01)


def test_quantiles_of_students_t() -> None:
    for freedom, value in ((1, 12.706), (4, 2.7764), (30, 2.0423), (1e6, 1.96)):
        assert statistics._t_quantile(freedom) == pytest.approx(value, rel=1e-3)


def test_impossible_input_is_told() -> None:
    with pytest.raises(ValueError, match="needs items"):
        rate([])
    with pytest.raises(ValueError, match="not all 0"):
        rate([1.0], [0.0])
    with pytest.raises(ValueError, match="same items"):
        mcnemar([True], [])
    with pytest.raises(ValueError, match="same items"):
        paired_difference([1.0], [])
    with pytest.raises(ValueError, match="discordant"):
        items_needed(0.3, 0.2)


def test_a_difference_without_any_change_keeps_some_doubt_on_both_sides() -> None:
    same = paired_difference([1, 0, 1, 0], [1, 0, 1, 0])
    assert same.value == 0 and same.low == -same.high and 0 < same.high < 1
    best = paired_difference([0] * 20, [1] * 20)
    assert best.value == best.high == 1 and 0.5 < best.low < 1
    assert paired_difference([0] * 200, [0] * 200).high < same.high / 5
