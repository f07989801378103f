"""Accuracy by likelihood: how often the right continuation has the lower loss, beside what chance gives.

Ties count half. `official` is the published protocol: stories are right where the loss is lower, questions by pairs of
the answer and each other option, right where it is lower or equal.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...results import outputs_by_set, read_results
from ..asr import percent
from ..s2sbench import OPTIONS, STORIES
from .units import Unit, Units, estimate_units

SETTINGS = ("t2t_loss", "s2t_loss")
"""Context typed, and context spoken; the continuation is a text in both."""


def score_likelihoods(path: Path) -> dict[str, Any]:
    """Figures of every set and setting of a result file, in per cent."""
    header, rows = read_results(path)
    units, sets = likelihood_units(path), dict[str, Any]()
    for (name, members), setting in itertools.product(outputs_by_set(rows).items(), header["settings"]):
        figures = sets.setdefault(name, {"items": len(members), "settings": {}})
        story = name in STORIES
        kinds = {"pairwise": 50.0} if story else {"pairwise": 50.0, "four_way": 25.0}
        result: dict[str, Any] = {
            kind: _percent(units[f"{name} {setting} {kind}"]) | {"chance": chance} for kind, chance in kinds.items()
        }
        result["official"] = _official(members, setting, story)
        result["failed"] = sum("error" in row["replies"][setting] for row in members)
        figures["settings"][setting] = result
    return {"provenance": header, "sets": sets}


def likelihood_units(path: Path) -> Units:
    """One unit a story or question: the share of wrong continuations that are less likely than the right one."""
    header, rows = read_results(path)
    units: Units = {}
    for (name, members), setting in itertools.product(outputs_by_set(rows).items(), header["settings"]):
        for right, wrong, row in _compared(members, setting, name in STORIES):
            wins = [_win(right, other) for other in wrong]
            pairwise = Unit(sum(wins) / len(wins), 1.0, row["id"], "", len(wins) == 1)
            units.setdefault(f"{name} {setting} pairwise", {})[row["id"]] = pairwise
            if name not in STORIES:
                best = Unit(_best(right, wrong), 1.0, row["id"], "", True)
                units.setdefault(f"{name} {setting} four_way", {})[row["id"]] = best
    return units


def _compared(
    rows: Sequence[Mapping[str, Any]], setting: str, story: bool
) -> list[tuple[float, list[float], Mapping[str, Any]]]:
    """(loss of the right continuation, losses of the others, row); what failed has an infinite loss throughout."""
    result = []
    if story:
        for right, wrong in zip(rows[::2], rows[1::2], strict=False):
            losses = [_losses(row, setting, 1)[0] for row in (right, wrong)]
            result.append((losses[0], losses[1:], right))
        return result
    for row in rows:
        losses = _losses(row, setting, len(OPTIONS))
        answer = OPTIONS.index(row["raw_reference"])
        result.append((losses[answer], [loss for index, loss in enumerate(losses) if index != answer], row))
    return result


def _losses(row: Mapping[str, Any], setting: str, count: int) -> list[float]:
    losses = row["replies"][setting].get("losses")
    return [float("nan")] * count if losses is None else [float(loss) for loss in losses]


def _win(right: float, wrong: float) -> float:
    """1 for a lower loss, a half for a tie, 0 for a higher one and for one that could not be computed."""
    return 1.0 if right < wrong else 0.5 if right == wrong else 0.0


def _best(right: float, wrong: Sequence[float]) -> float:
    """The share of the right option among those with the lowest loss."""
    if not all(right <= other for other in wrong):
        return 0.0
    return 1 / (1 + sum(other == right for other in wrong))


def _percent(units: Mapping[str, Unit]) -> dict[str, Any]:
    estimate = estimate_units(list(units.values()))
    assert estimate is not None  # a set that is there has an item
    return percent(estimate, highest=1.0)


def _official(rows: Sequence[Mapping[str, Any]], setting: str, story: bool) -> dict[str, Any]:
    compared = [entry for entry in _compared(rows, setting, story) if entry[0] == entry[0]]
    if story:
        results = [right < other for right, wrong, _ in compared for other in wrong]
    else:
        results = [right <= other for right, wrong, _ in compared for other in wrong]
    return {"value": 100 * sum(results) / len(results) if results else None, "pairs": len(results)}
