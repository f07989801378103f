"""The figures of a live evaluation, computed from its rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..judge.api import matches
from ..results import outputs_by_set, read_results
from ..statistics import rate
from ..suites.asr import percent
from ..suites.scoring import strict_points
from . import full_duplex

LATE_S = 0.06
"""Sending that fell so far behind the clock makes an item late: its times are not to be trusted."""
_INTERRUPTIONS = ("user_interruption",)


def summarize(path: Path) -> dict[str, Any]:
    """All figures of a result file, by task; shares in per cent with their 95 % intervals, times in seconds."""
    header, rows = read_results(path)
    verdicts = {row["id"]: row for row in rows if row["kind"] == "verdict"}
    figures = {name: _subset(members, verdicts, header) for name, members in outputs_by_set(rows).items()}
    return {"provenance": header, "sets": figures}


def _subset(
    rows: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Mapping[str, Any]], header: Mapping[str, Any]
) -> dict[str, Any]:
    usable = [row for row in rows if "error" not in row]
    figures: dict[str, Any] = {
        "items": len(rows),
        "failed": len(rows) - len(usable),
        "late": sum(row["lag_s"] > LATE_S for row in usable),
    }
    if header["suite"] == full_duplex.NAME:
        scores = [full_duplex.score(row) for row in usable]
        return figures | _task_figures(str(rows[0]["task"]), scores, figures["failed"])
    right = [_right(row, verdicts) for row in rows]
    judged = [value for value in right if value is not None]
    return figures | {
        "correct": _share(judged),
        "not_judged": len(right) - len(judged),
        "response_s": _times([row["response_s"] for row in usable]),
    }


def _right(row: Mapping[str, Any], verdicts: Mapping[str, Mapping[str, Any]]) -> bool | None:
    if "error" in row:
        return False
    verdict = verdicts.get(row["id"])
    return None if verdict is None else strict_points("json", str(verdict["text"])) == 100.0


def _task_figures(task: str, scores: Sequence[Mapping[str, Any]], failed: int) -> dict[str, Any]:
    """Failed items count as what the task does not want."""
    if task == "pause_handling":
        return {
            "taken_over": _share([score["taken_over"] for score in scores] + [True] * failed),
            "false_alarms": _share([score["false_alarm"] for score in scores] + [True] * failed),
        }
    if task == "backchannel":
        return {
            "taken_over": _share([score["taken_over"] for score in scores] + [True] * failed),
            "backchannels_per_s": round(float(np.mean([score["backchannels_per_s"] for score in scores] or [0])), 4),
        }
    response = {"response_s": _times([score["response_s"] for score in scores])}
    if task == "turn_taking":
        return {"taken_over": _share([score["taken_over"] for score in scores] + [False] * failed), **response}
    spoke = [score for score in scores if score["speaking"]]
    figures = {
        "model_was_speaking": len(spoke),
        "stopped": _share([score["stopped"] for score in spoke]),
        "stop_s": _times([score["stop_s"] for score in spoke]),
        "taken_over": _share([score["taken_over"] for score in scores] + [False] * failed),
        **response,
    }
    if task in _INTERRUPTIONS:
        figures["interruption_success"] = _share([score["stopped"] and score["taken_over"] for score in spoke])
    return figures


def _share(outcomes: Sequence[bool]) -> dict[str, Any] | None:
    return percent(rate([float(outcome) for outcome in outcomes]), highest=1.0) if outcomes else None


def _times(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    middle, late = np.percentile(known, [50, 95])
    return {"p50": round(float(middle), 3), "p95": round(float(late), 3), "items": len(known)}


def short_answer_matches(answer: str, official: str) -> bool:
    """Whether a reply to a question with a one-word answer is right, without a judge.

    Of the words that the category allows, the reply must hold the right one and no other.
    """
    rivals = next((group for group in (("yes", "no"), ("valid", "invalid")) if official.lower() in group), ())
    others = [word for word in rivals if word != official.lower()]
    return matches(answer, [official]) and not matches(answer, others)
