"""The yield of a run before it is made: headers, what earlier runs left, and a small pilot.

Sources that have been through the stages with these parameters count as they are. For the others the share of their
length that is kept is estimated from those, and from a pilot where one is asked for: a ratio estimate for each origin.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from ..store.atomic import text_digest
from ..store.records import Draft, Piece, Source
from ..synth.no_speech import NoSpeechItem
from .engine.local import Executor, LocalExecutor
from .engine.outputs import output_path, read_output
from .engine.source_task import RunStages, SourceTask
from .engine.stage import Stage
from .recipe import PipelineRecipe
from .run import source_tasks

_LEAST_PILOT = 20  # sources below which no estimate is sure
_LEAST_SAMPLE = 5  # sources of an origin below which all origins tell its share


@dataclass
class Yield:
    """Hours by what they are; `known`: of sources that went through all stages already, `hours_in` of all."""

    sources: int = 0
    hours_in: float = 0.0
    known: float = 0.0
    kept: float = 0.0
    error: float = 0.0
    by_origin: dict[str, tuple[float, float]] = field(default_factory=dict)


def plan_yield(
    recipe: PipelineRecipe, pilot: int = 0, within: float | None = None, executor: Executor | None = None
) -> Yield:
    """Hours of pieces that the stages of a source will keep.

    pilot: so many sources (chosen by the hash of their ids) are run first; 0 touches no audio. within: run more of
    them, where what is known does not do, until two standard errors are at most this share of the estimate.
    `error` is one standard error of `kept`, in hours; it is nan where nothing is known to estimate from.
    """
    work, tasks = Path(recipe.work), source_tasks(recipe)
    executor = executor or LocalExecutor(0)
    lengths = {task.source: length_s(task) for task in tasks}
    kept = {task.source: known_seconds(recipe.first_job, task, work) for task in tasks}
    waiting = sorted(tasks, key=lambda task: text_digest("pilot", task.source))
    count = pilot
    while True:
        chosen, waiting = waiting[:count], waiting[count:]
        if chosen:
            for _ in executor.map(RunStages(recipe.first_job, str(work)), chosen):
                pass
            kept |= {task.source: known_seconds(recipe.first_job, task, work) for task in chosen}
        expected = _estimate(tasks, lengths, kept)
        known = sum(value is not None for value in kept.values())
        if within is None or not waiting or (known >= _LEAST_PILOT and 2 * expected.error <= within * expected.kept):
            return expected
        waiting = [task for task in waiting if kept[task.source] is None]
        count = max(_LEAST_PILOT, known // 4)


def _estimate(tasks: Sequence[SourceTask], lengths: dict[str, float], kept: dict[str, float | None]) -> Yield:
    expected = Yield(len(tasks), sum(lengths.values()) / 3600)
    groups: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        groups[task.origin].append(task.source)
    pooled = [(lengths[name], value) for name, value in kept.items() if value is not None]
    variance = 0.0
    for origin, names in sorted(groups.items()):
        sample = [(lengths[name], value) for name in names if (value := kept[name]) is not None]
        unknown = sum(lengths[name] for name in names if kept[name] is None)
        used = sample if len(sample) >= _LEAST_SAMPLE else pooled
        share, deviation = _ratio(used)
        estimate = sum(value for _, value in sample)
        if unknown:
            estimate += share * unknown
            # Of the share, and of what the others really keep, which varies as the sample does.
            variance += (deviation * unknown) ** 2 * (1 + len(used) / (len(names) - len(sample)))
        expected.known += sum(length for length, _ in sample) / 3600
        expected.kept += estimate / 3600
        expected.by_origin[origin] = (sum(lengths[name] for name in names) / 3600, estimate / 3600)
    expected.error = math.sqrt(variance) / 3600
    return expected


def length_s(task: SourceTask) -> float:
    """Seconds of a source by its header; of a text, by its letters at the speed of reading."""
    record = task.records[0] if task.records else None
    if isinstance(record, Source):
        try:
            info = soundfile.info(record.path)
        except (soundfile.LibsndfileError, RuntimeError, OSError, TypeError):
            return 0.0
        return float(info.frames / info.samplerate) if info.frames < 1 << 40 else 0.0
    if isinstance(record, NoSpeechItem):
        return record.seconds
    texts = [record.text, *(part for turn in record.turns for part in (turn.user, turn.reply))] if record else []
    return float(sum(len(text) for text in texts)) / (4.5 if record and record.language == "zh" else 14.0)


def known_seconds(stages: Sequence[Stage[Any, Any]], task: SourceTask, work: Path) -> float | None:
    """Seconds that the stages keep of a source, if all their outputs are there; None otherwise."""
    digest = task.digest
    for number, stage in enumerate(stages):
        path = output_path(work, stage.name, stage.key(digest))
        if not path.is_file():
            return None
        output = read_output(path, stage.record)
        if not output.kept:
            return 0.0
        digest = output.digest
        if number == len(stages) - 1:
            return sum(piece.seconds for piece in output.kept if isinstance(piece, (Piece, Draft)))
    return None


def _ratio(sample: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Kept seconds a second, and the standard error of that, from (length, kept) of some sources."""
    total = sum(length for length, _ in sample)
    if not total:
        return math.nan, math.nan
    share = sum(kept for _, kept in sample) / total
    count = len(sample)
    if count < 2:
        return share, share
    residuals = sum((kept - share * length) ** 2 for length, kept in sample) / (count - 1)
    return share, math.sqrt(residuals / count) / (total / count)
