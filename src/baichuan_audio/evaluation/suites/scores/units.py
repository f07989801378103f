"""What a figure is made of: one unit an item, which two result files can be compared by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...statistics import Estimate, rate


@dataclass(frozen=True)
class Unit:
    """One item's share of a rate: `hits` of `size`, and what it has in common with others.

    binary: hits is 0 or 1, so that McNemar's test applies.
    """

    hits: float
    size: float = 1.0
    question: str = ""
    speaker: str = ""
    binary: bool = False


Units = dict[str, dict[str, Unit]]
"""Name of a figure, such as "test-clean asr" -> item -> its unit."""


def estimate_units(units: Sequence[Unit]) -> Estimate | None:
    """The share of hits (or hits over sizes) with its interval; None where there is nothing to divide by."""
    if sum(unit.size for unit in units) <= 0:
        return None
    shares = all(unit.size == 1 for unit in units)  # whose interval has a width even where all agree
    sizes = None if shares else [unit.size for unit in units]
    return rate([unit.hits for unit in units], sizes, *clusters(units))


def clusters(units: Sequence[Unit]) -> tuple[list[str] | None, list[str] | None]:
    """Questions and voices that items share; None where the layout does not tell, or all have one voice."""
    questions = [unit.question for unit in units]
    speakers = [unit.speaker for unit in units]
    return (questions if all(questions) else None), (speakers if all(speakers) and len(set(speakers)) > 1 else None)


def mean(values: Sequence[float], speakers: Sequence[str]) -> dict[str, Any] | None:
    """A mean with its interval, for a file; None of nothing."""
    if not values:
        return None
    voices = list(speakers) if all(speakers) and len(set(speakers)) > 1 else None
    # sizes keep a mean of exactly 0 or 1 from being taken for a share
    return shown(rate(values, [1.0] * len(values), None, voices))


def shown(estimate: Estimate) -> dict[str, Any]:
    """An estimate for a file: no ends where nothing bounds it."""
    bounded = math.isfinite(estimate.high)
    return {
        "value": estimate.value,
        "low": estimate.low if bounded else None,
        "high": estimate.high if bounded else None,
        "items": estimate.items,
    }
