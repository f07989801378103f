"""How far a judge can be trusted: whether it repeats itself, and whether people agree with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..results import read_results
from ..suites.items import Item
from ..suites.openaudiobench import SETS, VerdictForm
from ..suites.scoring import strict_points
from ..suites.summary import reply_text
from .api import Judge


def measure_judge(
    path: Path,
    judges: Sequence[Judge],
    marks: Mapping[str, bool] | None = None,
    setting: str = "s2t",
    limit: int = 100,
) -> dict[str, Any]:
    """Judge the replies of a result file several times -> flips, unparsed verdicts and means of each set, and kappa.

    judges: the same judge with another `repeat` each. marks: by item, whether people call the reply right; kappa
    compares the first judge with them on sets whose verdicts are right or wrong. limit: items of each set.
    """
    _, rows = read_results(path)
    sets: dict[str, list[tuple[Item, str]]] = {}
    for row in rows:
        text = reply_text(row, setting) if row["kind"] == "output" else None
        members = sets.setdefault(row["subset"], []) if text is not None else []
        if text is not None and len(members) < limit and judges[0].judges(item := item_of(row)):
            members.append((item, text))
    result, by_judge, by_people = dict[str, Any](), list[str](), list[str]()
    for name, replies in sets.items():
        if not replies:
            continue
        form: VerdictForm = SETS[name].verdict if judges[0].parses_official else "json"
        runs = [[strict_points(form, judge.judge(*reply).text) for reply in replies] for judge in judges]
        result[name] = {
            "items": len(replies),
            "flips": sum(len(set(points)) > 1 for points in zip(*runs, strict=True)),
            "unparsed": sum(points is None for run in runs for points in run),
            "means": [sum(points or 0.0 for points in run) / len(run) for run in runs],
        }
        for (item, _), points in zip(replies, runs[0], strict=True):
            if marks and item.id in marks and form in ("json", "score_is"):
                by_judge.append(str(points == 100))
                by_people.append(str(marks[item.id]))
    kappa = cohen_kappa(by_judge, by_people) if by_judge else None
    return {"sets": result, "marked_items": len(by_judge), "kappa": kappa}


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Agreement of two judges beyond chance (Cohen, 1960); 1 where both always give one and the same label.

    Raises ValueError for no or unequally many labels.
    """
    if not first or len(first) != len(second):
        raise ValueError("agreement needs as many labels on both sides, at least one.")
    count = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    chance = sum(first.count(label) * second.count(label) for label in set(first)) / count**2
    return 1.0 if chance == 1 else (agreed - chance) / (1 - chance)


def item_of(row: Mapping[str, Any]) -> Item:
    """The item of an output row, without its audio."""
    return Item(
        row["id"],
        row["subset"],
        None,
        row["question"],
        tuple(row["references"]),
        row["raw_reference"],
        row["language"],
        row["speaker"],
    )
