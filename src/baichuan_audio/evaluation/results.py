"""One JSON lines file an evaluation: its provenance first, then one row for each output and each verdict, in order.

Rows hold raw texts and no times, so two runs of the same inputs write the same bytes and every score can be computed
again from the file alone. A run that was stopped goes on behind the last whole row. A file whose provenance differs
from what is asked now is refused: figures of two models, judges or data sets are never mixed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ..data.store.atomic import file_digest, text_digest
from ..errors import BaichuanAudioError
from ..version import __version__

FORMAT = 1
_WEIGHT_FILES = ("*.safetensors", "*.pt", "config.json", "tokenizer.json", "tokenizer_config.json")


class EvaluationError(BaichuanAudioError):
    """An evaluation cannot start, or cannot go on with what it has written."""


class ResultFile:
    """Rows of one evaluation, appended in a fixed order; `with` closes it.

    Opening reads what is there already: `done` maps (kind, id, setting) to its row. A last line that was cut off is
    removed. Raises EvaluationError where the file was written with other inputs, naming them, or is no result file.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any]) -> None:
        self.path = path
        self.done: dict[tuple[str, str, str], dict[str, Any]] = {}
        header = {"kind": "header", "format": FORMAT, **provenance}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            _lock(self._file, path)
            rows, length = _whole_rows(path)
            if rows:
                _refuse_changes(path, rows[0], header)
            self._file.truncate(length)
        except BaseException:
            self._file.close()
            raise
        for row in rows[1:]:
            self.done[_key(row)] = row
        if not rows:
            self._write(header)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; it is on its way to the disk when this returns. Rows that are there already stay."""
        if _key(row) not in self.done:
            self._write(row)
            self.done[_key(row)] = dict(row)

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(encode_row(row))
        self._file.flush()

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One line: keys sorted, text as it is, so that equal rows are equal bytes."""
    return (json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n").encode("utf-8", "replace")


def read_results(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Provenance and rows of a result file. Raises EvaluationError where it is missing or is none."""
    if not path.is_file():
        raise EvaluationError(f"{path}: there is no result file; run the evaluation first.")
    rows, _ = _whole_rows(path)
    if not rows:
        raise EvaluationError(f"{path}: this file is empty; delete it and run the evaluation again.")
    _check_header(path, rows[0])
    return rows[0], rows[1:]


def outputs_by_set(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The output rows of each set, in the order of the file."""
    sets: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] == "output":
            sets.setdefault(row["subset"], []).append(row)
    return sets


def weights_digest(folder: Path) -> str:
    """Hash of everything in a checkpoint directory that decides what the model says."""
    paths = sorted({path for pattern in _WEIGHT_FILES for path in folder.glob(pattern)})
    return text_digest(*(f"{path.name}:{file_digest(path)}" for path in paths))


def library_versions(*packages: str) -> dict[str, str]:
    """Versions of this package and of installed others, for the provenance."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"baichuan-audio": __version__}
    for package in ("torch", "numpy", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep other processes from writing the same file; the lock ends with this process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise EvaluationError(f"{path}: another evaluation is writing this file; wait for it to end.") from error


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row["kind"]), str(row["id"]), str(row.get("setting", ""))


def _whole_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows up to the last line break, and how many bytes they take; what follows was cut off by a stop."""
    rows, length = [], 0
    for number, line in enumerate(_lines(path), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
                raise ValueError
            if number > 1:
                _key(row)
        except (ValueError, KeyError) as error:
            raise EvaluationError(f"{path}: line {number} is no row of a result file; name another output.") from error
        rows.append(row)
        length += len(line)
    return rows, length


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _check_header(path: Path, header: Mapping[str, Any]) -> None:
    if header["kind"] != "header" or header.get("format") != FORMAT:
        raise EvaluationError(f"{path}: this is no result file of format {FORMAT}; name another output.")


def _refuse_changes(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    _check_header(path, old)
    changed = sorted(_differences(old, json.loads(encode_row(new))))
    if changed:
        raise EvaluationError(
            f"{path} was written with other inputs ({', '.join(changed)}); name another output, or delete it."
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterable[str]:
    """Dotted names of the entries in which two provenances differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield name
