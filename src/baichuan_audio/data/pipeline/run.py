"""Runs a recipe: jobs over sources, the stages between them, the shards."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..store.atomic import text_digest, write_text
from ..store.records import Draft, Source, to_json
from ..store.shards import IndexEntry
from .backends.registry import check_backend
from .engine.cross_stage import CrossStage, run_cross_stage
from .engine.local import Executor, LocalExecutor
from .engine.outputs import read_output
from .engine.source_task import Outcome, RunStages, SourceTask
from .engine.stage import Stage
from .recipe import PipelineRecipe
from .shard_tasks import WriteShard, finish_shards, plan_shards
from .sources import read_sources, read_texts
from .stages.make_no_speech import ORIGIN, no_speech_items

RUN_FILE = "run.json"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    outputs: source -> (stage, file) of all its stages. set_aside: source -> reason. ran: tasks that were really run.
    """

    outputs: Mapping[str, Sequence[tuple[str, str]]]
    set_aside: Mapping[str, str]
    ran: int
    entries: Sequence[IndexEntry]


def run_pipeline(
    recipe: PipelineRecipe,
    executor: Executor | None = None,
    progress: Progress = lambda what, done, total: None,
) -> RunResult:
    """Everything from the sources to the finished shards; what is there already is not done again.

    Raises:
        DataError, ConfigError, MissingDependencyError: nothing can be done at all.
    """
    Path(recipe.work).mkdir(parents=True, exist_ok=True)
    return run_jobs(
        source_tasks(recipe),
        (recipe.first_job, recipe.across, recipe.last_job),
        recipe,
        executor or LocalExecutor(0),
        progress,
    )


def source_tasks(recipe: PipelineRecipe) -> list[SourceTask]:
    """A task for each recording, text or item without speech of a recipe."""
    if recipe.texts:
        items = read_texts(recipe.texts, recipe.license, recipe.origin)
        return [SourceTask(item.id, item.origin, text_digest(to_json(item)), (item,)) for item in items]
    if recipe.no_speech.count:
        made = no_speech_items(recipe.no_speech, recipe.license)
        return [SourceTask(item.id, ORIGIN, text_digest(to_json(item)), (item,)) for item in made]
    sources = read_sources(recipe.sources, Path(recipe.work), recipe.license, recipe.origin)
    return [source_task(source) for source in sources]


def source_task(source: Source) -> SourceTask:
    """The first task of a source. Where its file lies does not count, only what is in it."""
    digest = text_digest(to_json(dataclasses.replace(source, path="")))
    return SourceTask(source.id, source.origin, digest, (source,))


def run_jobs(
    tasks: Sequence[SourceTask],
    jobs: tuple[Sequence[Stage[Any, Any]], Sequence[CrossStage], Sequence[Stage[Any, Any]]],
    recipe: PipelineRecipe,
    executor: Executor,
    progress: Progress = lambda what, done, total: None,
) -> RunResult:
    """Tasks through a first job, the stages between, a last job, and into shards."""
    work = Path(recipe.work).absolute()
    first, across, last = jobs
    for stage in (*first, *across, *last):
        for kind, name in stage.backends():
            check_backend(kind, name)
    outputs: dict[str, list[tuple[str, str]]] = {task.source: [] for task in tasks}
    problems: dict[str, str] = {}
    ran = 0
    outcomes = _run_job(first, tasks, work, executor, problems, "pieces", progress)
    ran += sum(outcome.ran for outcome in outcomes.values())
    for source, outcome in outcomes.items():
        outputs[source] += outcome.outputs
    if len(problems) == len(tasks):
        source, problem = next(iter(sorted(problems.items())))
        raise DataError(f"all {len(tasks)} sources were set aside, e.g. {source}: {problem}.")
    at = {source: (o.outputs[-1][1], first[-1].record) for source, o in outcomes.items() if not o.problem}
    digests = {source: outcomes[source].digest for source in at}
    for stage_across in across:
        files = run_cross_stage(stage_across, work, at)
        at = {source: (path, stage_across.record) for source, (path, _) in files.items()}
        digests = {source: digest for source, (_, digest) in files.items()}
        for source, (path, _) in files.items():
            outputs[source].append((stage_across.name, path))
    origins = {task.source: task.origin for task in tasks}
    following = [SourceTask(name, origins[name], digests[name], None, at[name]) for name in sorted(at)]
    outcomes = _run_job(last, following, work, executor, problems, "samples", progress)
    ran += sum(outcome.ran for outcome in outcomes.values())
    drafts: list[Draft] = []
    for source, outcome in sorted(outcomes.items()):
        outputs[source] += outcome.outputs
        if not outcome.problem:
            drafts += read_output(Path(outcome.outputs[-1][1]), Draft).kept
    entries = _write_shards(drafts, recipe, executor, progress)
    result = RunResult(outputs, problems, ran, entries)
    _save(work, result)
    return result


def _run_job(
    stages: Sequence[Stage[Any, Any]],
    tasks: Sequence[SourceTask],
    work: Path,
    executor: Executor,
    problems: dict[str, str],
    what: str,
    progress: Progress,
) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    for done, (task, outcome) in enumerate(executor.map(RunStages(tuple(stages), str(work)), tasks), 1):
        if outcome is None:
            problems[task.source] = "the worker died twice on it (out of memory, or a crash in a library)"
        else:
            outcomes[task.source] = outcome
            if outcome.problem:
                problems[task.source] = outcome.problem
        progress(what, done, len(tasks))
    return outcomes


def _write_shards(
    drafts: Sequence[Draft], recipe: PipelineRecipe, executor: Executor, progress: Progress
) -> list[IndexEntry]:
    work, output = Path(recipe.work).absolute(), Path(recipe.output)
    tasks = plan_shards(drafts, recipe.shard_samples)
    shards: dict[str, str] = {}
    for done, (task, key) in enumerate(executor.map(WriteShard(str(work)), tasks), 1):
        if key is None:
            raise DataError(f"{task.name} could not be written: its worker died twice; is there memory enough?")
        shards[task.name] = key
        progress("shards", done, len(tasks))
    return finish_shards(work, output, shards, {})


def _save(work: Path, result: RunResult) -> None:
    """What `report` and `inspect` need to know of the last run."""
    outputs = {source: list(files) for source, files in sorted(result.outputs.items())}
    text = json.dumps({"outputs": outputs, "set_aside": dict(sorted(result.set_aside.items()))}, ensure_ascii=False)
    write_text(work / RUN_FILE, text)


def load_run(work: str | Path) -> tuple[dict[str, list[tuple[str, str]]], dict[str, str]]:
    """Outputs and set-aside sources of the last run in a work folder.

    Raises:
        DataError: there was none.
    """
    path = Path(work) / RUN_FILE
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{work} holds no finished run; make one with `baichuan-audio data run`.") from error
    return {s: [(stage, file) for stage, file in files] for s, files in saved["outputs"].items()}, saved["set_aside"]
