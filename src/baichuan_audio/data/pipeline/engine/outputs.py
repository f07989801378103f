"""The file that a stage leaves for one source: its records and what it dropped, one JSON line each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import DataError
from ...store.atomic import write_text
from ...store.records import Dropped, from_mapping, to_json


@dataclass(frozen=True)
class StageOutput:
    """What one stage left for one source. `digest` names the content (of what it kept) for the next stage."""

    kept: Sequence[Any]
    dropped: Sequence[Dropped]
    digest: str


def output_path(work: Path, stage: str, key: str) -> Path:
    return work / "stages" / stage / key[:2] / f"{key}.jsonl"


def write_output(path: Path, kept: Sequence[Any], dropped: Sequence[Dropped]) -> StageOutput:
    """Writes the file at once and whole."""
    lines = [to_json(record) for record in kept]
    left_out = [to_json(record) for record in dropped]
    body = [*(f'["kept",{line}]' for line in lines), *(f'["dropped",{line}]' for line in left_out)]
    write_text(path, "".join(line + "\n" for line in body))
    return StageOutput(tuple(kept), tuple(dropped), _digest(lines))


def read_output(path: Path, record: type) -> StageOutput:
    """What `write_output` wrote.

    Raises:
        DataError: the file is damaged.
    """
    kept: list[Any] = []
    dropped: list[Dropped] = []
    lines: list[str] = []
    for state, values in read_lines(path):
        if state == "kept":
            kept.append(from_mapping(record, values))
            lines.append(to_json(kept[-1]))
        else:
            dropped.append(from_mapping(Dropped, values))
    return StageOutput(tuple(kept), tuple(dropped), _digest(lines))


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("kept" or "dropped", the record as a mapping) of each line."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            state, values = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}, is damaged; remove the file and run again.") from error
        yield state, values


def _digest(lines: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8") + b"\n")
    return digest.hexdigest()[:32]
