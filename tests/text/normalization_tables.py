"""The tables of readings in `tables/`, and how a reading is compared with what they accept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path

TABLES = Path(__file__).parent / "tables"
_CHOICE = re.compile(r"\(([^()]*)\)")


@dataclass(frozen=True)
class Line:
    """A text of one kind and the readings that are right, canonical."""

    kind: str
    text: str
    readings: frozenset[str]


def read_table(name: str) -> list[Line]:
    """The lines of a table: kind, text ("\\n" for a line break) and readings, "(a|b)" for either."""
    lines = []
    for line in (TABLES / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            kind, text, *readings = line.split("\t")
            accepted = {canonical(way) for reading in readings for way in _ways(reading)}
            lines.append(Line(kind, text.replace("\\n", "\n"), frozenset(accepted)))
    return lines


def _ways(reading: str) -> list[str]:
    parts = _CHOICE.split(reading)
    choices = [part.split("|") if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(way) for way in product(*choices)]


def canonical(reading: str) -> str:
    """Without what nobody hears: case, hyphens, punctuation, "and", spaces beside Chinese characters."""
    reading = reading.lower().replace("幺", "一").replace("〇", "零").replace("'", "").replace("’", "")
    reading = re.sub(r"[^\w\s]|_", " ", reading)
    reading = re.sub(r"\band\b", " ", reading)
    reading = re.sub(r"\b([ap]) m\b", r"\1m", reading)
    reading = re.sub(r"\b(o|oh)\b", "oh", reading)
    reading = re.sub(r"\s+", " ", reading).strip()
    return re.sub(r"(?<=[^\x00-\x7f]) | (?=[^\x00-\x7f])", "", reading)
