"""What every benchmark is read into: items, and one sentence for each thing that is wrong with the files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...data.store.atomic import file_digest, text_digest
from ...errors import DataError
from ..results import EvaluationError

AUDIO_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm"}
_HEADERS = {".wav", ".flac", ".mp3", ".ogg", ".opus"}  # whose headers libsndfile reads
_LFS = b"version https://git-lfs"
_NAMED = 3  # file names in a sentence
_BLOCK = 1 << 16  # samples


@dataclass(frozen=True)
class Item:
    """One test item. `id` is its set and file name, the same on every machine.

    question: what the audio says, as text. references: the right answers. raw_reference: the reference as it stands in
    the file, which published prompts quote. language: "en" or "zh". speaker: "" where the layout does not tell.
    span: start and end in seconds of a part of the audio; None for all of it. choices: texts whose likelihood is
    compared. prompt_audio: a recording of the voice that a spoken text should have. follows: the user's turn
    before this one, in a conversation of two.
    """

    id: str
    subset: str
    audio: Path | None
    question: str
    references: tuple[str, ...]
    raw_reference: str
    language: str
    speaker: str = ""
    span: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    prompt_audio: Path | None = None
    follows: Item | None = None


@dataclass
class Benchmark:
    """Items in the order of the files; sentences about what is wrong; items each set should have but has not.

    expected: published number of items of a set that is there. unusable: rows that were left out.
    """

    name: str
    items: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    expected: dict[str, int] = field(default_factory=dict)
    unusable: Counter[str] = field(default_factory=Counter)

    def digest(self) -> str:
        """Hash of all that is measured on: ids, texts and the bytes of the audio."""
        parts, audio = list[str](), dict[Path | None, str]({None: ""})
        for item in self.items:
            for path in (item.audio, item.prompt_audio):
                if path not in audio:  # a long recording has many items
                    assert path is not None
                    audio[path] = file_digest(path)
            parts += [item.id, item.question, *item.references, item.raw_reference, item.language, item.speaker]
            parts += [*item.choices, str(item.span or ""), audio[item.audio], audio[item.prompt_audio]]
            parts += [item.follows.id] if item.follows else []
        return text_digest(*parts)

    def limited(self, limit: int | None) -> Benchmark:
        """The first `limit` items of every set; None for all."""
        return replace(self, items=first_of_each(self.items, limit))

    def compare_counts(self, published: Mapping[str, int]) -> None:
        """Tell where a set that is there has not the published number of items, used and left out together."""
        counts = Counter(item.subset for item in self.items)
        for subset, count in published.items():
            if subset not in counts and subset not in self.unusable:
                continue
            self.expected[subset] = count
            if counts[subset] + self.unusable[subset] != count:
                self.problems.append(
                    f"{subset}: {counts[subset] + self.unusable[subset]} items, {count} were published."
                )

    def checked(self, root: Path, strict: bool) -> Benchmark:
        """This, or DataError: without a usable item, and with `strict` for the first problem."""
        if self.problems and (strict or not self.items):
            raise DataError(self.problems[0])
        if not self.items:
            raise DataError(f"{root}: there is no item to measure on.")
        return self


def first_of_each(items: Sequence[Any], limit: int | None) -> list[Any]:
    """The first `limit` items of every set; None for all. Raises EvaluationError where none is left."""
    taken, chosen = Counter[str](), list[Any]()
    for item in items:
        taken[item.subset] += 1
        if limit is None or taken[item.subset] <= limit:
            chosen.append(item)
    if not chosen:
        raise EvaluationError("a limit of 0 leaves no item to measure on.")
    return chosen


def read_text(path: Path) -> tuple[str, str | None]:
    """A text file and, where it is not UTF-8, its encoding. Raises DataError with one sentence."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: this file cannot be read ({error.strerror or error}).") from error
    if content.startswith(_LFS):
        raise DataError(f"{path}: this is a Git LFS pointer, not the file; run 'git lfs pull'.")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding: str | None = "utf-16"
    else:
        encoding = None
        if b"\0" in content:
            raise DataError(f"{path}: this is no text file.")
    for name in (encoding,) if encoding else ("utf-8-sig", "gb18030"):
        try:
            return content.decode(name), None if name == "utf-8-sig" else name
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path}: this text is neither UTF-8 nor GB18030; save it as UTF-8.")


def read_csv(path: Path, columns: Sequence[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Rows of a CSV file as Excel and pandas write it, with problems. Raises DataError where no row can be used.

    Empty lines are passed over. A row with more or fewer cells than the header is left out and told.
    """
    if not path.is_file():
        raise DataError(f"{path}: this file is missing.")
    text, encoding = read_text(path)
    problems = [f"{path}: the text is {encoding}, not UTF-8; it was converted."] if encoding else []
    delimiter = "\t" if encoding == "utf-16" and "\t" in text.partition("\n")[0] else ","
    try:
        table = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if any(row)]
    except csv.Error as error:
        raise DataError(f"{path}: this is no CSV file ({error}).") from error
    if not table:
        raise DataError(f"{path}: this file is empty.")
    header = [name.strip().lstrip("\ufeff") for name in table[0]]
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(f"{path}: column {_quoted(missing)} is missing; there are {_quoted(header)}.")
    if len(table) == 1:
        raise DataError(f"{path}: there is no row below the header.")
    rows = [dict(zip(header, row, strict=True)) for row in table[1:] if len(row) == len(header)]
    if len(rows) < len(table) - 1:
        broken = [number for number, row in enumerate(table[1:], 2) if len(row) != len(header)]
        problems.append(f"{path}: {_counted(broken, 'row')} not as many cells as the header and left out.")
    return rows, problems


def audio_problem(path: Path) -> str | None:
    """Why a recording cannot be used: "missing", "empty" ...; None where nothing is wrong."""
    return inspect_audio(path)[0]


def inspect_audio(path: Path) -> tuple[str | None, int]:
    """Why a recording cannot be used, None where nothing is wrong; and its rate in Hz, 0 where no header tells.

    Samples are read only where the format can hold values that are no numbers.
    """
    import soundfile

    if not path.is_file():
        return "missing", 0
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if not start:
        return "empty", 0
    if start == _LFS:
        return "a Git LFS pointer", 0
    if path.suffix.lower() not in _HEADERS:
        return None, 0
    try:
        facts = soundfile.info(path)
        if not facts.frames:
            return "without samples", facts.samplerate
        if facts.subtype in ("FLOAT", "DOUBLE"):
            with soundfile.SoundFile(path) as sound:
                if not all(np.isfinite(block).all() for block in sound.blocks(_BLOCK)):
                    return "not finite (NaN or infinite samples)", facts.samplerate
    except soundfile.SoundFileError:
        return "no audio file", 0
    return None, facts.samplerate


class FaultList:
    """Rows of a table that cannot be used, told together by their fault at the end."""

    def __init__(self, table: Path, subset: str, benchmark: Benchmark) -> None:
        self._table, self._subset, self._benchmark = table, subset, benchmark
        self._faults, self._names = dict[str, list[str]](), set[str]()

    def usable(self, name: str, audio: Path | None, folder: Path, texts: Mapping[str, str]) -> bool:
        """Whether a row has a name of its own, a recording within `folder` and no empty text; else it is noted."""
        fault = self._fault(name, audio, folder, texts)
        self._names.add(name)
        if fault:
            self._faults.setdefault(fault, []).append(name or "(no name)")
        return not fault

    def report(self) -> None:
        """Tell what was noted."""
        for fault, names in self._faults.items():
            self._benchmark.problems.append(f"{self._table}: {len(names)} left out, {fault}: {named(names)}.")
            self._benchmark.unusable[self._subset] += len(names)

    def _fault(self, name: str, audio: Path | None, folder: Path, texts: Mapping[str, str]) -> str:
        if not name:
            return "no name"
        if name in self._names:
            return "a row that stands twice"
        if empty := [label for label, text in texts.items() if not text.strip()]:
            return f"no {' and no '.join(empty)}"
        if audio is None:
            return ""
        if not audio.resolve().is_relative_to(folder.resolve()):
            return f"a recording outside of {folder.name}/"
        problem = audio_problem(audio)
        return f"a recording that is {problem}" if problem else ""


def named(names: Iterable[str]) -> str:
    """A few names of many, for a sentence."""
    listed = sorted(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def surplus_audio(folder: Path, used: set[str]) -> list[str]:
    """Audio files below `folder` that no row names, by their path within it."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    return sorted(name for path in files if (name := path.relative_to(folder).as_posix()) not in used)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _counted(numbers: Sequence[int], noun: str) -> str:
    listed = ", ".join(str(number) for number in numbers[:_NAMED])
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"{noun} {listed}{more} has" if len(numbers) == 1 else f"{noun}s {listed}{more} have"
