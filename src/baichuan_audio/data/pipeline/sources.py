"""What goes in: a manifest of recordings, or a folder of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...text.language import voice_language
from ...text.lines import read_lines
from ..importers import manifest_rows
from ..store.atomic import file_digest, write_text
from ..store.records import Source, TextItem, Turn, Utterance

AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif", ".w64", ".caf"))


def read_sources(path: str | Path, work: Path, license: str | None = None, origin: str | None = None) -> list[Source]:
    """The sources of a manifest (rows with `path` and optionally language, speaker, transcript, license, source,
    utterances), or all audio files below a folder, in the order of their ids.

    license, origin: of rows that name none. A file's content is hashed once for each size and time of change.

    Raises:
        DataError: there is nothing, a row cannot be read, or no licence is known.
    """
    path = Path(path)
    rows = list(_manifest(path) if path.is_file() else _folder(path))
    if not rows:
        raise DataError(f"{path}: no recordings; name a manifest or a folder of audio files.")
    digests = _Digests(work / "digests.json")
    sources = [_source(row, digests, license, origin, path) for row in rows]
    digests.save()
    seen: dict[str, str] = {}
    for source in sources:
        if seen.setdefault(source.id, source.path) != source.path:
            raise DataError(f"{path}: two recordings would both be called '{source.id}'; rename one of them.")
    return sorted({source.id: source for source in sources}.values(), key=lambda source: source.id)


def _manifest(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in manifest_rows(path):
        name = row.get("path")
        if not name or not isinstance(name, str):
            raise DataError(f"{path}, line {number}: the row has no `path`.")
        yield {**row, "path": str(path.parent / name), "id": row.get("id") or str(Path(name).with_suffix(""))}


def _folder(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_dir():
        raise DataError(f"{path}: there is no such manifest or folder.")
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in AUDIO_SUFFIXES:
            yield {"path": str(file), "id": str(file.relative_to(path).with_suffix(""))}


def _source(row: Mapping[str, Any], digests: _Digests, license: str | None, origin: str | None, where: Path) -> Source:
    named = row.get("license") or license
    if not named:
        raise DataError(f"{where}: '{row['id']}' has no licence; give `license` in its row or in the recipe.")
    try:
        utterances = tuple(
            Utterance(float(u["start"]), float(u["end"]), str(u["text"])) for u in row.get("utterances") or ()
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: an utterance of '{row['id']}' lacks start, end or text.") from error
    return Source(
        id=str(row["id"]),
        path=str(row["path"]),
        digest=digests.of(Path(row["path"])),
        license=str(named),
        origin=str(row.get("source") or origin or "unknown"),
        language=row.get("language") or None,
        speaker=row.get("speaker") or None,
        transcript=row.get("transcript") or None,
        utterances=utterances,
    )


TEXT_KINDS = ("text", "aqa", "s2tt", "sft")


def read_texts(path: str | Path, license: str | None = None, origin: str | None = None) -> list[TextItem]:
    """Items of the text road: JSON lines with kind, language, text, answer, system, turns, split, license, source; or a
    .txt file, a text to be read aloud on each line, its language by its letters.

    Raises:
        DataError: there is nothing, a row cannot be read, or no licence is known.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file of texts.")
    items = []
    for number, line in read_lines(path):
        try:
            row = json.loads(line) if path.suffix == ".jsonl" else {"text": line.strip()}
            items.append(_text_item(row, f"{path.stem}-{number:06d}", license, origin))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}, line {number}: no item of the text road ({error}).") from error
    if not items:
        raise DataError(f"{path}: there are no texts in it.")
    return items


def _text_item(row: Mapping[str, Any], name: str, license: str | None, origin: str | None) -> TextItem:
    kind = row.get("kind", "text")
    if kind not in TEXT_KINDS:
        raise ValueError(f"kind '{kind}'; there are {', '.join(TEXT_KINDS)}")
    named = row.get("license") or license
    if not named:
        raise ValueError("no licence; give `license` in the row or in the recipe")
    turns = tuple(Turn(str(turn["user"]), str(turn["reply"])) for turn in row.get("turns") or ())
    text = str(row.get("text") or "")
    if kind == "sft" and not turns:
        raise ValueError("a dialogue without turns")
    if kind in ("aqa", "s2tt") and not row.get("answer"):
        raise ValueError(f"an item of kind {kind} needs an answer")
    sample = text or (turns[0].user if turns else "")
    return TextItem(
        id=str(row.get("id") or name),
        kind=str(kind),
        language=str(row.get("language") or voice_language(sample)),
        license=str(named),
        origin=str(row.get("source") or origin or "unknown"),
        text=text,
        answer=str(row.get("answer") or ""),
        system=str(row.get("system") or ""),
        turns=turns,
        split=str(row.get("split") or ""),
    )


class _Digests:
    """Hashes of files' contents, remembered by path, size and time of change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._known: dict[str, list[Any]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def of(self, path: Path) -> str:
        """The hash; "missing" for a file that is not there."""
        try:
            stat = os.stat(path)
            mark = [stat.st_size, stat.st_mtime_ns]
            known = self._known.get(str(path))
            if known is None or known[:2] != mark:
                known = [*mark, file_digest(path)]
                self._known[str(path)] = known
            return str(known[2])
        except OSError:
            return "missing"

    def save(self) -> None:
        write_text(self._path, json.dumps(self._known))
