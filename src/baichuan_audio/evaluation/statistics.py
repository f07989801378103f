"""Intervals, paired tests and sample sizes for rates over test items.

Items that share a question, or a voice, are not independent. The variance of a rate is therefore clustered: by
question, plus by voice, less by both at once (Cameron, Gelbach and Miller, "Robust inference with multiway
clustering", 2011), and the interval is a t interval whose degrees of freedom follow Satterthwaite. It is what a
cluster bootstrap gives to first order, without random numbers: a bootstrap over questions and voices at once covered
99 to 100 % where most questions have one voice. Coverage by simulation: 94 to 95 % from eight voices on, 93 % with
four.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_GRID = 401
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A rate or a difference with its interval: value in [low, high] with 95 % confidence, from `items` items."""

    value: float
    low: float
    high: float
    items: int


def rate(
    hits: Sequence[float],
    sizes: Sequence[float] | None = None,
    questions: Sequence[Hashable] | None = None,
    voices: Sequence[Hashable] | None = None,
) -> Estimate:
    """sum(hits) / sum(sizes) with its 95 % interval: accuracy (sizes None: 1 each) or an error rate (errors, words).

    questions, voices: what each item shares with others; None: every item stands for itself.
    Raises ValueError for empty or unequal input, or where all sizes are 0.
    """
    top = np.asarray(hits, float)
    below = np.ones_like(top) if sizes is None else np.asarray(sizes, float)
    columns = [column for column in (questions, voices) if column is not None]
    if not len(top) or any(len(column) != len(top) for column in (below, *columns)):
        raise ValueError("a rate needs items, and as many sizes, questions and voices as hits.")
    if below.sum() <= 0:
        raise ValueError("a rate needs items whose sizes are not all 0.")
    value = float(top.sum() / below.sum())
    half = _half_width(top, below, questions, voices)
    if half == 0 and sizes is None and value in (0.0, 1.0):  # all alike: Wilson's bound, since others may still differ
        groups = len(top) if questions is None else len(set(questions))
        doubt = _Z**2 / (groups + _Z**2)
        return Estimate(value, value - doubt * value, value + doubt * (1 - value), len(top))
    return Estimate(value, value - half, value + half, len(top))


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    questions: Sequence[Hashable] | None = None,
    voices: Sequence[Hashable] | None = None,
) -> Estimate:
    """Mean of second - first over the same items, with its 95 % interval within [-1, 1].

    Where every item changes alike, others may still change otherwise: Wilson's bound on both sides. Raises ValueError
    for unequal lengths.
    """
    if len(first) != len(second):
        raise ValueError("a paired difference needs the same items on both sides.")
    changes = (np.asarray(second, float) - np.asarray(first, float)).tolist()
    estimate = rate(changes, [1.0] * len(changes), questions, voices)
    if estimate.high > estimate.low:
        return estimate
    groups = len(changes) if questions is None else len(set(questions))
    doubt = _Z**2 / (groups + _Z**2)
    value = estimate.value
    return Estimate(value, max(value - doubt, -1.0), min(value + doubt, 1.0), estimate.items)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided p value that two systems are right equally often on the same items (McNemar, 1947).

    Only items on which they differ count: a binomial test of one half. Raises ValueError for unequal lengths.
    """
    if len(first) != len(second):
        raise ValueError("McNemar's test needs the same items on both sides.")
    gained = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    lost = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    count, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**count)


def items_needed(difference: float, discordant: float, power: float = 0.8, level: float = 0.05) -> int:
    """Paired items needed to find `difference` (0.02: two points) where a share `discordant` of items differ.

    Connor, "Sample size for testing differences in proportions for the paired-sample design", 1987, equation 3.
    Raises ValueError for shares that are impossible.
    """
    if not 0 < difference <= discordant <= 1 or not 0 < power < 1 or not 0 < level < 1:
        raise ValueError("needed: 0 < difference <= discordant <= 1, and power and level between 0 and 1.")
    normal = NormalDist()
    above, beyond = normal.inv_cdf(1 - level / 2), normal.inv_cdf(power)
    root = above * math.sqrt(discordant) + beyond * math.sqrt(discordant - difference**2)
    return math.ceil((root / difference) ** 2)


def _half_width(
    top: np.ndarray,
    below: np.ndarray,
    questions: Sequence[Hashable] | None,
    voices: Sequence[Hashable] | None,
) -> float:
    items = np.arange(len(top))
    by_question = items if questions is None else _numbers(questions)
    variance, groups = _variance(top, below, by_question)
    if groups < 2:
        return math.inf
    if voices is None:
        return _t_quantile(groups - 1) * math.sqrt(variance)
    by_voice = _numbers(voices)
    voice_variance, voice_groups = _variance(top, below, by_voice)
    if voice_groups < 2:
        return math.inf  # nothing is known of other voices
    both = _numbers(list(zip(by_question.tolist(), by_voice.tolist(), strict=True)))
    shared, _ = _variance(top, below, both)
    extra = max(voice_variance - shared, 0.0)
    total = variance + extra
    if total == 0:
        return 0.0
    freedom = total**2 / (variance**2 / (groups - 1) + extra**2 / (voice_groups - 1))
    return _t_quantile(freedom) * math.sqrt(total)


def _numbers(labels: Sequence[Hashable]) -> np.ndarray:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels])


def _variance(top: np.ndarray, below: np.ndarray, groups: np.ndarray) -> tuple[float, int]:
    """Variance of sum(top) / sum(below), linearised, when whole groups are independent; and the number of groups."""
    count = int(groups.max()) + 1
    if count < 2:
        return 0.0, count
    residuals = np.bincount(groups, top - top.sum() / below.sum() * below, count)
    return float(np.square(residuals).sum()) / float(below.sum()) ** 2 * count / (count - 1), count


def _t_quantile(freedom: float, share: float = 0.975) -> float:
    """Quantile of Student's t distribution, by bisection over its integrated density."""
    freedom = max(freedom, 1.0)
    norm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    low, high = 0.0, 64.0
    for _ in range(60):
        middle = (low + high) / 2
        grid = np.linspace(0.0, middle, _GRID)
        density = np.exp(norm - (freedom + 1) / 2 * np.log1p(grid**2 / freedom))
        below = 0.5 + float((density.sum() - (density[0] + density[-1]) / 2) * (grid[1] - grid[0]))
        low, high = (middle, high) if below < share else (low, middle)
    return (low + high) / 2
