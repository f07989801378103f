"""What every benchmark is read into: items, and one sentence for each thing that is wrong with the files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...data.store.atomic import file_digest, text_digest
from ...errors import DataError

AUDIO_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm"}
_HEADERS = {".wav", ".flac", ".mp3", ".ogg", ".opus"}  # whose headers libsndfile reads
_LFS = b"version https://git-lfs"
_NAMED = 3  # file names in a sentence


@dataclass(frozen=True)
class Item:
    """One test item. `id` is its set and file name, the same on every machine.

    question: what the audio says, as text. references: the right answers. raw_reference: the reference as it stands in
    the file, which published prompts quote. language: "en" or "zh". speaker: "" where the layout does not tell.
    span: start and end in seconds of a part of the audio; None for all of it. choices: texts whose likelihood is
    compared. prompt_audio: a recording of the voice that a spoken text should have.
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
        return text_digest(*parts)

    def limited(self, limit: int | None) -> Benchmark:
        """The first `limit` items of every set; None for all."""
        if limit is None:
            return self
        taken, items = Counter[str](), list[Item]()
        for item in self.items:
            taken[item.subset] += 1
            if taken[item.subset] <= limit:
                items.append(item)
        return Benchmark(self.name, items, self.problems, self.expected, self.unusable)

    def checked(self, root: Path, strict: bool) -> Benchmark:
        """This, or DataError: without a usable item, and with `strict` for the first problem."""
        if self.problems and (strict or not self.items):
            raise DataError(self.problems[0])
        if not self.items:
            raise DataError(f"{root}: there is no item to measure on.")
        return self


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
    """Why a recording cannot be used, by its size and header: "missing", "empty" ...; None where nothing is wrong."""
    import soundfile

    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if not start:
        return "empty"
    if start == _LFS:
        return "a Git LFS pointer"
    if path.suffix.lower() not in _HEADERS:
        return None
    try:
        return None if soundfile.info(path).frames else "without samples"
    except soundfile.SoundFileError:
        return "no audio file"


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
