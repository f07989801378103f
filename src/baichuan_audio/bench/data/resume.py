"""Kills, workers and executors: whether every way of running ends in the same bytes, and how much is done twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...data.pipeline.engine.journal import stage_times, task_starts
from ...data.pipeline.engine.local import Executor
from ...data.pipeline.recipe import PipelineRecipe
from ...data.pipeline.run import run_pipeline

_PROGRAM = """
import json, sys
from baichuan_audio.config import strict
from baichuan_audio.data.pipeline.engine.local import LocalExecutor
from baichuan_audio.data.pipeline.recipe import PipelineRecipe
from baichuan_audio.data.pipeline.run import run_pipeline
recipe = strict(PipelineRecipe, json.load(open(sys.argv[1])), "recipe")
print("ready", flush=True)
run_pipeline(recipe, LocalExecutor(int(sys.argv[2])))
"""


@dataclass(frozen=True)
class KillFigures:
    """kills: runs that were killed before their end. repeated: tasks begun again. equal: the bytes are the same."""

    kills: int
    repeated: int
    workers: int
    equal: bool


def shard_hashes(folder: Path) -> dict[str, str]:
    """Hash of every file of a folder of shards."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.is_file()
    }


def at(recipe: PipelineRecipe, root: Path) -> PipelineRecipe:
    """The recipe with its work and output below another folder."""
    return replace(recipe, work=str(root / "work"), output=str(root / "shards"))


def measure_kills(recipe: PipelineRecipe, root: Path, kills: int, workers: int, seed: int = 0) -> KillFigures:
    """Runs the recipe to its end undisturbed, and once more killed (SIGKILL to the process group) again and again: each
    time a few tasks later, so that the kills fall on all stages, and at a random moment of a task."""
    run_pipeline(at(recipe, root / "whole"))
    tasks = len(task_starts(root / "whole" / "work"))
    broken = at(recipe, root / "broken")
    file = root / "recipe.json"
    file.write_text(json.dumps(asdict(broken)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    rng, killed = random.Random(seed), 0
    for _ in range(kills):
        command = [sys.executable, "-c", _PROGRAM, str(file), str(workers)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdout is not None
        process.stdout.readline()
        _wait_for(Path(broken.work), process, rng.randint(1, max(1, 2 * tasks // (kills + 1))))
        time.sleep(rng.uniform(0.0, 0.1))
        killed += process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    run_pipeline(broken)
    repeated = sum(count - 1 for count in task_starts(Path(broken.work)).values())
    equal = shard_hashes(root / "whole" / "shards") == shard_hashes(root / "broken" / "shards")
    return KillFigures(killed, repeated, workers, equal)


def _wait_for(work: Path, process: subprocess.Popen[bytes], more: int) -> None:
    """Until so many more tasks have begun than had when it was called, or the process has ended."""
    target = sum(task_starts(work).values()) + more
    while process.poll() is None and sum(task_starts(work).values()) < target:
        time.sleep(0.002)


@dataclass(frozen=True)
class WayFigures:
    """One way of running: wall seconds, seconds of the stages, whether the shards are those of the first way."""

    name: str
    wall: float
    stages: float
    equal: bool


def measure_ways(recipe: PipelineRecipe, root: Path, ways: dict[str, Executor]) -> list[WayFigures]:
    """Runs the recipe from nothing in each way."""
    rows: list[WayFigures] = []
    first: dict[str, str] | None = None
    for name, executor in ways.items():
        here = at(recipe, root / name.replace(" ", "-"))
        began = time.perf_counter()
        run_pipeline(here, executor)
        wall = time.perf_counter() - began
        hashes = shard_hashes(Path(here.output))
        first = hashes if first is None else first
        stages = sum(stage.took for stage in stage_times(Path(here.work)).values())
        rows.append(WayFigures(name, wall, stages, hashes == first))
    return rows
