"""A stage that sees all sources at once; it runs between two jobs, on records without sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .journal import Journal
from .outputs import StageOutput, output_path, read_output, write_output
from .source_task import seconds_of
from .stage import Stage, StageResult


class CrossStage(Stage[Any, Any]):
    """Records of all sources -> what is kept and dropped of each."""

    def run_all(self, records: Mapping[str, Sequence[Any]]) -> Mapping[str, StageResult[Any]]:
        raise NotImplementedError


def run_cross_stage(
    stage: CrossStage, work: Path, inputs: Mapping[str, tuple[str, type]]
) -> dict[str, tuple[str, str]]:
    """inputs: source -> (output file of the stage before, its class). Returns source -> (file, digest).

    Each source's output is a file of its own, so that what follows is run again only where something changed.
    """
    outputs = {source: read_output(Path(path), record) for source, (path, record) in sorted(inputs.items())}
    key = stage.key("".join(output.digest + source for source, output in outputs.items()))
    paths = {source: output_path(work, stage.name, stage.key(key + source)) for source in outputs}
    if all(path.is_file() for path in paths.values()):
        return {source: (str(path), read_output(path, stage.record).digest) for source, path in paths.items()}
    journal = Journal(work)
    began = journal.began(stage.name, key)
    results = stage.run_all({source: output.kept for source, output in outputs.items()})
    files: dict[str, tuple[str, str]] = {}
    for source, path in paths.items():
        written: StageOutput = write_output(path, results[source].kept, results[source].dropped)
        files[source] = (str(path), written.digest)
    journal.ended(stage.name, key, began, sum(seconds_of(output.kept) for output in outputs.values()))
    return files
