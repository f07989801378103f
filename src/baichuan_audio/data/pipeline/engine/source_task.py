"""One source through a row of stages: the task that every executor runs."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import AudioError, DataError
from ...store.records import Dropped
from .journal import Journal
from .outputs import StageOutput, output_path, read_output, write_output
from .stage import Context, Stage, StageResult

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EIO)


@dataclass(frozen=True)
class SourceTask:
    """One source and where its records stand.

    records: what the first stage takes, small; or None and `previous`, the output file and class of the stage before.
    digest: hash of their content.
    """

    source: str
    origin: str
    digest: str
    records: tuple[Any, ...] | None = None
    previous: tuple[str, type] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a source fared: its outputs as (stage, file), the digest of the last, how many tasks were really run.

    problem: why it was set aside, "" where it was not. lasting: the output says so too, so that the next run need not
    try again.
    """

    source: str
    outputs: tuple[tuple[str, str], ...]
    digest: str
    ran: int
    problem: str = ""
    lasting: bool = True


@dataclass(frozen=True)
class RunStages:
    """Takes a source through the stages, skipping those whose output is there; picklable, so that workers can have it.

    Raises:
        MissingDependencyError, ConfigError: a stage cannot work at all.
        OSError: the disk is full.
    """

    stages: tuple[Stage[Any, Any], ...]
    work: str

    def __call__(self, task: SourceTask) -> Outcome:
        context, ran = Context(Path(self.work)), 0
        outputs: list[tuple[str, str]] = []
        records, digest = self._input(task), task.digest
        problem = ""
        for stage in self.stages:
            key = stage.key(digest)
            path = output_path(context.work, stage.name, key)
            if path.is_file():
                output = read_output(path, stage.record)
            else:
                ran += 1
                try:
                    output = self._run(stage, records, context, path, key, task)
                except (AudioError, DataError) as error:
                    output = _set_aside(path, task, records, str(error))
                except Exception as error:
                    if not _may_go_on(error):
                        raise
                    problem = f"{stage.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
                    return Outcome(task.source, tuple(outputs), digest, ran, problem, lasting=False)
            outputs.append((stage.name, str(path)))
            records, digest = output.kept, output.digest
            whole = [drop for drop in output.dropped if drop.id == task.source]
            if whole and not records:
                problem = f"{stage.name}: {whole[0].reason}"
                break
        return Outcome(task.source, tuple(outputs), digest, ran, problem)

    def _input(self, task: SourceTask) -> Sequence[Any]:
        if task.records is not None:
            return task.records
        assert task.previous is not None
        path, record = task.previous
        return read_output(Path(path), record).kept

    def _run(
        self, stage: Stage[Any, Any], records: Sequence[Any], context: Context, path: Path, key: str, task: SourceTask
    ) -> StageOutput:
        journal = _journal(context.work)
        began = journal.began(stage.name, key)
        result = stage.run(records, context) if records else StageResult(())
        output = write_output(path, result.kept, result.dropped)
        journal.ended(stage.name, key, began, seconds_of(records))
        return output


def seconds_of(records: Sequence[Any]) -> float:
    """Seconds of audio in some records; 0 for records that have none."""
    total = 0.0
    for record in records:
        if hasattr(record, "seconds"):
            total += record.seconds
        elif hasattr(record, "samples"):
            total += record.samples / 24_000
    return total


_JOURNALS: dict[Path, Journal] = {}


def _journal(work: Path) -> Journal:
    if work not in _JOURNALS:
        _JOURNALS[work] = Journal(work)
    return _JOURNALS[work]


def _set_aside(path: Path, task: SourceTask, records: Sequence[Any], reason: str) -> StageOutput:
    return write_output(path, (), [Dropped(task.source, task.source, task.origin, reason, seconds_of(records))])


def _may_go_on(error: Exception) -> bool:
    """Whether other sources can be expected to fare better."""
    from ....errors import BaichuanAudioError

    return not isinstance(error, BaichuanAudioError) and not (isinstance(error, OSError) and error.errno in _FULL)
