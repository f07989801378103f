"""Reads text files as lines and rows, with byte-order marks, UTF-16, any line ends, a missing last newline.

The encoding is UTF-8, or UTF-16 if a byte-order mark or zero bytes show it. Any other encoding raises a DataError with
file, line and likely name, because a wrong guess would give wrong words.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DataError

T = TypeVar("T")
Line = tuple[int, str]
"""Number, counted from 1, and text without its line end."""

_MARKS = (  # UTF-32's mark begins with UTF-16's, so it comes first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GUESSES = ("gb18030", "big5", "shift_jis", "cp1252")
_ASCII = "".join(map(chr, range(128)))
_SHOWN = 60  # characters of a bad row that its error quotes


def read_lines(path: str | Path) -> Iterator[Line]:
    """The lines of a text file that are not blank, each with its number.

    Raises DataError naming the file, and the line where there is one, when it cannot be read as text.
    """
    for number, line, _ in _numbered_lines(Path(path)):
        yield number, line


def read_text(path: str | Path) -> str:
    """A whole text file, its line ends as "\\n"; DataError as for `read_lines`."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    encoding = _encoding(data[:4])
    if encoding == "utf-8":
        text = "\n".join(line for _, line, _ in _utf8_lines(path, io.BytesIO(data), keep_blank=True))
        return text + "\n" if data.endswith((b"\n", b"\r")) else text
    return _decoded(path, data, encoding)


def read_json_rows(path: str | Path, *, growing: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file, or of one JSON array (or object) on any number of lines, each with its number.

    The number is that of the line; in an array on several lines, of the entry. growing: another process may be
    appending, so an incomplete last line without newline is skipped.
    Raises DataError naming file and line for anything else.
    """
    path = Path(path)
    lines = _numbered_lines(path)
    for number, line, ended in lines:
        if line.lstrip().startswith("["):
            yield from _array(path)
            return
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if growing and not ended:
                return
            whole = _parsed(read_text(path)) if number == 1 or line.strip() == "{" else None
            if isinstance(whole, dict):
                yield 1, whole
                return
            raise DataError(
                f"{path}, line {number}, is not JSON ({_reason(error)}): {_short(line)}; a list is one JSON object a "
                "line, or one array of objects."
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}, is not a JSON object: {_short(line)}.")
        yield number, row


def parse_rows(path: str | Path, parse: Callable[[Any], T], what: str) -> Iterator[T]:
    """Each JSON line of a file through `parse`; where that fails, a DataError with file and line.

    what: name of the content of a line, for the error: "line 2 is no alignment".
    """
    for number, line in read_lines(path):
        try:
            yield parse(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{path}, line {number}, is no {what} ({_reason(error)}): {_short(line)}.") from error


def read_table(path: str | Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV or TSV file under its header, each with the number of its last line.

    Raises DataError for a row with more or fewer cells than the header.
    """
    path = Path(path)
    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = max("\t,;", key=header.count)
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(rows, [])]
        for cells in rows:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{path}, line {rows.line_num}: {len(cells)} cells under a header of {len(names)} "
                    f"({', '.join(names)})."
                )
            yield rows.line_num, {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}, is no row of a table ({error}).") from error


def _array(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file that is one JSON array."""
    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: the JSON array is broken ({error.msg}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: the JSON array cannot be read ({_reason(error)}).") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, entry {number} of the array, is not a JSON object: {_short(str(row))}.")
        yield number, row


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _numbered_lines(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Lines that are not blank: number, text, and whether a line end follows."""
    try:
        with path.open("rb") as file:
            encoding = _encoding(file.peek(4)[:4])
            if encoding == "utf-8":
                yield from _utf8_lines(path, file)
                return
            text = _decoded(path, file.read(), encoding)
    except OSError as error:
        raise _unreadable(path, error) from error
    last = text.count("\n") + 1
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line, number < last


def _utf8_lines(path: Path, file: Any, keep_blank: bool = False) -> Iterator[tuple[int, str, bool]]:
    """One line at a time, so that a file may be larger than the memory."""
    number = 0
    for data in file:
        if number == 0:
            data = data.removeprefix(codecs.BOM_UTF8)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(_not_utf8(path, number + 1, data, error)) from error
        ended = text.endswith(("\n", "\r"))
        for part in (
            text.removesuffix("\n").removesuffix("\r").split("\r")
        ):  # "\r" alone is a line end of old Macintosh files
            number += 1
            if keep_blank or part.strip():
                yield number, part, ended


def _encoding(start: bytes) -> str:
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if len(start) >= 2 and 0 in start[:2]:  # UTF-16 without its mark: a Latin letter has a zero byte
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    return "utf-8"


def _decoded(path: Path, data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} looks like {encoding.upper()} and is damaged ({error.reason}).") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _not_utf8(path: Path, number: int, data: bytes, error: UnicodeDecodeError) -> str:
    for guess in _GUESSES:
        try:
            text = data.decode(guess)
        except UnicodeDecodeError:
            continue
        shown = _short(text.lstrip(_ASCII))
        return (
            f"{path}, line {number}, is not UTF-8 (as {guess.upper()} it reads {shown}); if that is right, convert the "
            f"file with `iconv -f {guess.upper()} -t UTF-8`."
        )
    return f"{path}, line {number}, is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}); save it as UTF-8."


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read ({error.strerror or error}).")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
