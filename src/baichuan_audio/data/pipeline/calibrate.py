"""Proposes the filters' thresholds from a sample that somebody has judged by ear."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from ...text.lines import parse_rows
from ..store.records import Piece
from .engine.local import Executor, LocalExecutor
from .engine.outputs import read_output
from .engine.source_task import RunStages
from .recipe import PipelineRecipe
from .run import source_tasks


@dataclass(frozen=True)
class Filter:
    """A threshold: its place in the recipe, the score it judges, whether low scores are bad, and a value that lets
    everything pass."""

    stage: str
    entry: str
    score: str
    low_is_bad: bool
    open_value: float


FILTERS = (
    Filter("quality", "bandwidth_hz", "bandwidth_hz", True, 0.0),
    Filter("quality", "clipping", "clipping", False, 1e9),
    Filter("quality", "tones", "tones", False, 2.0),
    Filter("quality", "mos", "mos_ovrl", True, 0.001),
    Filter("recognise", "disagreement", "disagreement", False, 99.0),
    Filter("recognise", "disagreement_given", "letter_disagreement", False, 99.0),
    Filter("recognise", "confidence", "asr_confidence", True, 0.0),
    Filter("language", "against", "language", True, 2.0),
)


@dataclass(frozen=True)
class Proposal:
    """A filter's threshold now and as proposed: the shares of bad sources caught and of good ones lost by each."""

    name: str
    now: float
    proposed: float
    good: int
    bad: int
    caught_now: float
    lost_now: float
    caught: float
    lost: float


def calibrate(
    recipe: PipelineRecipe,
    labels: Mapping[str, str],
    executor: Executor | None = None,
    most_lost: float = 0.05,
) -> list[Proposal]:
    """labels: source id -> "good", or the filter's score that should catch it ("clipping", "tones", ...), or "bad".

    All filters are opened and the scores of every source taken. A threshold is proposed that loses at most `most_lost`
    of the good sources and catches most of those that are bad for its reason ("bad": for any), half-way between the
    nearest scores on both sides. A filter without bad examples is set so that it loses no good one.

    Raises:
        DataError: nothing is labelled good.
    """
    opened = _opened(recipe)
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    tasks = [task for task in source_tasks(opened) if task.source in labels]
    if not any(labels[task.source] == "good" for task in tasks):
        raise DataError("no source of the recipe is labelled good; give labels as JSON lines with `id` and `label`.")
    stages = opened.first_job[: [stage.name for stage in opened.first_job].index("recognise") + 1]
    for task, outcome in (executor or LocalExecutor(0)).map(RunStages(stages, opened.work), tasks):
        if outcome is None or not outcome.outputs:
            continue
        for piece in read_output(Path(outcome.outputs[-1][1]), Piece).kept:
            for name, value in piece.scores.items():
                scores[task.source][name].append(value)
    proposals = []
    for item in FILTERS:
        now = float(getattr(getattr(recipe, item.stage), item.entry))
        pick = min if item.low_is_bad else max
        good = [pick(s[item.score]) for name, s in scores.items() if labels[name] == "good" and s[item.score]]
        bad = [
            pick(s[item.score]) for name, s in scores.items() if labels[name] in (item.score, "bad") and s[item.score]
        ]
        if item.entry == "against":  # judged by another figure than the one it is compared with
            continue
        if good:
            proposals.append(_propose(f"{item.stage}.{item.entry}", now, good, bad, item.low_is_bad, most_lost))
    return proposals


def _opened(recipe: PipelineRecipe) -> PipelineRecipe:
    """The recipe with all filters open; every piece gets its opinion score."""
    changed = {}
    for stage in ("quality", "recognise", "language"):
        values = {item.entry: item.open_value for item in FILTERS if item.stage == stage}
        changed[stage] = dataclasses.replace(getattr(recipe, stage), **values)
    if recipe.quality.mos > 0:
        changed["quality"] = dataclasses.replace(changed["quality"], mos_share=1.0)
    else:
        changed["quality"] = dataclasses.replace(changed["quality"], mos=0.0)
    return dataclasses.replace(recipe, **changed)


def _propose(
    name: str, now: float, good: Sequence[float], bad: Sequence[float], low_is_bad: bool, most_lost: float
) -> Proposal:
    sign = -1.0 if low_is_bad else 1.0
    goods, bads = sorted(sign * value for value in good), sorted(sign * value for value in bad)
    allowed = math.floor(most_lost * len(goods)) if bads else 0
    best = (-1.0, 0.0, goods[-1])
    for lost in range(allowed + 1):
        # Above the largest good score that is to pass, half-way to the next bad one.
        edge = goods[len(goods) - 1 - lost]
        above = [value for value in bads if value > edge]
        ceiling = min(above) if above else edge + abs(edge) * 0.1 + 1e-6
        if lost:
            ceiling = min(ceiling, goods[len(goods) - lost])
        caught = len(above) / len(bads) if bads else 0.0
        if caught - 0.5 * lost / len(goods) > best[0]:
            best = (caught - 0.5 * lost / len(goods), lost, (edge + ceiling) / 2)
    threshold = best[2]

    def share(values: Sequence[float], limit: float) -> float:
        return sum(value > limit for value in values) / max(1, len(values))

    return Proposal(
        name,
        now,
        round(sign * threshold, 4),
        len(goods),
        len(bads),
        share(bads, sign * now),
        share(goods, sign * now),
        share(bads, threshold),
        share(goods, threshold),
    )


def read_labels(path: str | Path) -> dict[str, str]:
    """JSON lines with `id` and `label`. Raises DataError for a line that has neither."""
    return dict(parse_rows(path, lambda row: (str(row["id"]), str(row["label"])), "row with `id` and `label`"))
