"""Manifests of real recordings, as rows of one kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..text.language import language_code
from ..text.lines import read_json_rows, read_lines, read_table

MANIFEST = (
    "a manifest (JSON lines, a JSON array, or .csv/.tsv with a header: path, language, license, source, and where "
    "known speaker, transcript)"
)
"""What `read_manifest` reads, for errors."""
_NEEDED = ("path", "language", "license", "source")


@dataclass(frozen=True)
class Recording:
    """One file of real speech. `speaker` and `transcript` are None where unknown."""

    id: str
    path: Path
    language: str
    speaker: str | None
    transcript: str | None
    license: str
    source: str


def manifest_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a manifest as they are, each with its line. Raises DataError for a file that is none."""
    if path.is_dir():
        raise DataError(f"{path} is a folder, no manifest. Name {MANIFEST}.")
    if not path.is_file():
        raise DataError(f"no manifest at {path}")
    if path.suffix.lower() in (".csv", ".tsv"):
        return read_table(path)
    first = next(read_lines(path), (1, "{"))[1]
    if not first.lstrip().startswith(("{", "[")):
        raise DataError(f"{path} is no manifest: its first line is no JSON. Name {MANIFEST}.")
    return read_json_rows(path)


def read_manifest(path: str | Path) -> Iterator[Recording]:
    """Rows `path, language, speaker, transcript, license, source` beside their files: JSON, CSV or TSV with a header.

    Raises DataError, with file and line, for a row that is none, lacks an entry or names a recording a second time.
    """
    path = Path(path)
    lines: dict[str, int] = {}
    for number, row in manifest_rows(path):
        recording = _recording(path, number, row)
        first_line = lines.setdefault(recording.id, number)
        if first_line != number:
            raise DataError(f"{path}: the rows {first_line} and {number} both name the recording '{recording.id}'.")
        yield recording


def _recording(path: Path, number: int, row: Mapping[str, Any]) -> Recording:
    missing = [name for name in _NEEDED if not row.get(name)]
    if missing:
        raise DataError(
            f"{path}, line {number}: the row lacks {', '.join(map(repr, missing))}; "
            f"it has {', '.join(row) or 'nothing'}."
        )
    wrong = [name for name in (*_NEEDED, "transcript") if not isinstance(row.get(name), (str, type(None)))]
    if wrong:
        raise DataError(f"{path}, line {number}: {wrong[0]!r} must be a text, not {row[wrong[0]]!r}.")
    return Recording(
        id=str(Path(row["path"]).with_suffix("")),
        path=path.parent / row["path"],
        language=language_code(row["language"]) or row["language"],
        speaker=None if row.get("speaker") in (None, "") else str(row["speaker"]),
        transcript=row.get("transcript") or None,
        license=row["license"],
        source=row["source"],
    )
