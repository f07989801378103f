"""Takes: texts read aloud by the language model itself, the best of several readings each.

A recording is one of many ways to say a text; the model's own best readings lie near its distribution and sharpen it
(rejection sampling finetuning, as in arXiv 2308.01825 for reasoning).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...text.lines import parse_rows
from ..store.codes_store import CodesStore, write_codes

TAKES_FILE = "takes.jsonl"
_REJECTED_FILE = "unclear.jsonl"


@dataclass(frozen=True)
class Take:
    """A text in a voice: the runs of words in which text and speech alternate, with their codes [K, T]."""

    text: str
    voice: str
    runs: tuple[tuple[str, Tensor], ...]
    error_rate: float
    """Phoneme error rate by the phonetic head."""


def write_takes(takes: Iterable[Take], folder: str | Path, rejected: Iterable[tuple[str, str]] = ()) -> int:
    """Write `takes.jsonl`, the codes, and the texts and voices without a take (`rejected`) -> how many takes.

    Raises DataError when there is none.
    """
    rows: list[dict[str, Any]] = []
    codes: dict[str, Tensor] = {}
    for number, take in enumerate(takes):
        names = [f"{number}-{index}" for index in range(len(take.runs))]
        codes |= {name: frames for name, (_, frames) in zip(names, take.runs, strict=True)}
        row = {"text": take.text, "voice": take.voice, "runs": [words for words, _ in take.runs], "codes": names}
        rows.append(row | {"wrong": round(take.error_rate, 4)})
    write_codes(codes, folder)
    _write_lines(rows, Path(folder) / TAKES_FILE)
    _write_lines(rejected, Path(folder) / _REJECTED_FILE)
    return len(rows)


def _write_lines(rows: Iterable[Any], path: Path) -> None:
    aside = path.with_name(path.name + ".part")
    aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    aside.replace(path)


def read_takes(folder: str | Path) -> list[Take]:
    """The takes that `write_takes` wrote. Raises DataError when the folder has none, or a damaged one."""
    store = CodesStore(folder)

    def parse(row: Any) -> Take:
        runs = tuple((words, store[name]) for words, name in zip(row["runs"], row["codes"], strict=True))
        return Take(row["text"], row["voice"], runs, float(row["wrong"]))

    return list(parse_rows(Path(folder) / TAKES_FILE, parse, "take"))


def read_rejected(folder: str | Path) -> list[tuple[str, str]]:
    """The texts and voices for which no reading was kept."""
    path = Path(folder) / _REJECTED_FILE
    if not path.is_file():
        return []

    def parse(row: Any) -> tuple[str, str]:
        text, voice = row
        return str(text), str(voice)

    return list(parse_rows(path, parse, "text with its voice"))
