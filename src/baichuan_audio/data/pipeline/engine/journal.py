"""When each task began and ended, one file a process: what speed, repeated work and the report are read off.

Nothing depends on these files; they may be removed at any time.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class Journal:
    """Appends lines to this process' file in `work/journal`."""

    def __init__(self, work: Path) -> None:
        folder = work / "journal"
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"

    def began(self, stage: str, key: str) -> tuple[float, float]:
        """Notes the beginning and returns what `ended` takes."""
        self._write({"began": key, "stage": stage})
        return time.perf_counter(), time.process_time()

    def ended(self, stage: str, key: str, began: tuple[float, float], seconds: float) -> None:
        """`seconds`: of audio that went in."""
        took, cpu = round(time.perf_counter() - began[0], 6), round(time.process_time() - began[1], 6)
        self._write({"ended": key, "stage": stage, "took": took, "cpu": cpu, "seconds": round(seconds, 3)})

    def _write(self, row: dict[str, object]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class StageTime:
    """Wall and CPU seconds that a stage took, seconds of audio that went in, and how many tasks."""

    took: float
    cpu: float
    audio: float
    tasks: int


def stage_times(work: Path) -> dict[str, StageTime]:
    """By stage, over all runs in this folder."""
    times: dict[str, StageTime] = {}
    for row in _rows(work):
        if "ended" in row:
            stage, before = str(row["stage"]), times.get(str(row["stage"]), StageTime(0.0, 0.0, 0.0, 0))
            took, cpu, audio = (float(str(row[name])) for name in ("took", "cpu", "seconds"))
            times[stage] = StageTime(before.took + took, before.cpu + cpu, before.audio + audio, before.tasks + 1)
    return times


def task_starts(work: Path) -> dict[str, int]:
    """How often each task was begun."""
    counts: dict[str, int] = defaultdict(int)
    for row in _rows(work):
        if "began" in row:
            counts[str(row["began"])] += 1
    return dict(counts)


def _rows(work: Path) -> Iterator[dict[str, object]]:
    for path in sorted((work / "journal").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # the process was killed while it wrote
                continue
