"""Two result files of one suite, item by item: paired differences with intervals, and exact McNemar tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import ConfigError
from ...results import EvaluationError, read_results
from ...statistics import items_needed, mcnemar, paired_difference, rate
from ..registry import SUITES
from .units import Unit, clusters

_MUST_AGREE = ("suite", "suite_version", "judge", "recogniser", "normalizers", "measures", "instructions")
_MEASURED = " mel_mae"  # a distance, not a share


@dataclass(frozen=True)
class Comparison:
    """One figure of both files: values and their difference (second - first), in per cent, or as measured.

    low, high: its 95 % interval, None where nothing bounds it. mcnemar_p: where items are right or wrong.
    discordant: share of items on which both differ.
    """

    suite: str
    figure: str
    items: int
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    mcnemar_p: float | None
    discordant: float | None


def compare_results(first: Path, second: Path) -> list[Comparison]:
    """Every figure that both files have, over the items that both have.

    Raises EvaluationError for files of other suites, judges, recognisers, normalisers or data: their difference would
    not be one of the systems.
    """
    headers = [read_results(path)[0] for path in (first, second)]
    changed = [name for name in _MUST_AGREE if headers[0].get(name) != headers[1].get(name)]
    if headers[0]["data"]["digest"] != headers[1]["data"]["digest"] and headers[0]["limit"] == headers[1]["limit"]:
        changed.append("data")
    if changed:
        raise EvaluationError(f"{first} and {second} differ in {', '.join(changed)}, so they cannot be compared.")
    suite = SUITES.get(headers[0]["suite"])
    if suite is None:
        raise EvaluationError(f"{first} is of {headers[0]['suite']}, whose items are not compared one by one.")
    units = [suite.units(path) for path in (first, second)]
    result = []
    for figure in units[0]:
        shared = [item for item in units[0][figure] if item in units[1].get(figure, {})]
        if shared:
            sides = [[side[figure][item] for item in shared] for side in units]
            result.append(_comparison(headers[0]["suite"], figure, sides[0], sides[1]))
    if not result:
        raise EvaluationError(f"{first} and {second} have no figure and no item in common.")
    return result


def _comparison(suite: str, figure: str, first: Sequence[Unit], second: Sequence[Unit]) -> Comparison:
    sizes = [unit.size for unit in first]
    changes = [after.hits - before.hits for before, after in zip(first, second, strict=True)]
    if figure.endswith(_MEASURED) or any(size != 1 for size in sizes):
        estimate = rate(changes, sizes, *clusters(first))
    else:
        questions, speakers = clusters(first)
        old, new = ([unit.hits for unit in side] for side in (first, second))
        estimate = paired_difference(old, new, questions, speakers)
    scale = 1.0 if figure.endswith(_MEASURED) else 100.0
    totals = [scale * sum(unit.hits for unit in side) / sum(sizes) for side in (first, second)]
    binary = all(unit.binary for unit in (*first, *second))
    bounded = estimate.high != float("inf")
    return Comparison(
        suite,
        figure,
        len(first),
        totals[0],
        totals[1],
        scale * estimate.value,
        scale * estimate.low if bounded else None,
        scale * estimate.high if bounded else None,
        mcnemar([unit.hits == 1 for unit in first], [unit.hits == 1 for unit in second]) if binary else None,
        sum(change != 0 for change in changes) / len(changes) if binary else None,
    )


def power_table(points: Sequence[float], discordant: Sequence[float], power: float) -> list[dict[str, Any]]:
    """Paired items needed to find differences of so many points, for each share of items on which systems differ.

    Raises ConfigError for numbers that are impossible.
    """
    rows = []
    for share in discordant:
        for difference in points:
            if not 0 < difference <= 100 or not 0 < share <= 1 or not 0 < power < 1:
                raise ConfigError(
                    "points lie between 0 and 100, the share of discordant items and the power in 0 to 1."
                )
            needed = items_needed(difference / 100, share, power) if difference / 100 <= share else None
            rows.append({"discordant": share, "points": difference, "items": needed})
    return rows
