"""Recordings with transcripts: what the readers of speech recognition sets share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from .items import Benchmark, Item, inspect_audio, named, read_text

RATE = 16_000
"""Of the published recordings, in Hz."""


def check_root(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder.")


def read_transcripts(table: Path, benchmark: Benchmark) -> dict[str, str]:
    """Lines `<name> <text>`; what is wrong goes to the problems."""
    if not table.is_file():
        benchmark.problems.append(f"{table}: this file is missing.")
        return {}
    try:
        text, _ = read_text(table)
    except DataError as error:
        benchmark.problems.append(str(error))
        return {}
    rows, repeated = dict[str, str](), set[str]()
    for line in text.splitlines():
        name, _, transcript = line.strip().partition(" ")
        if name in rows:
            repeated.add(name)
        elif name:
            rows[name] = transcript.strip()
    if repeated:
        benchmark.problems.append(f"{table}: {len(repeated)} names stand twice, the first counts: {named(repeated)}.")
    return rows


@dataclass(frozen=True)
class Recording:
    """One row of a table: a sound (or a part of one) and its text.

    name: of the item within its set; "": the file's. raw: the text before the publisher's own normalisation.
    """

    audio: Path
    text: str
    speaker: str = ""
    raw: str = ""
    name: str = ""
    span: tuple[float, float] | None = None


def add_recordings(
    recordings: Iterable[Recording], table: Path, subset: str, language: str, benchmark: Benchmark
) -> None:
    """Items for recordings that can be used and have a transcript; the others, and other rates than RATE, are told."""
    faults, rates = dict[str, list[str]](), Counter[int]()
    known = {item.id for item in benchmark.items}
    inspected = dict[Path, tuple[str | None, int]]()
    for row in recordings:
        name, item = row.name or row.audio.name, f"{subset}/{row.name or row.audio.name}"
        if row.audio not in inspected:
            inspected[row.audio] = inspect_audio(row.audio)
            rates[inspected[row.audio][1]] += 1
        problem = inspected[row.audio][0]
        fault = f"a recording that is {problem}" if problem else "" if row.text.strip() else "no transcript"
        fault = fault or ("a recording named twice" if item in known else "")
        if fault:
            faults.setdefault(fault, []).append(name)
            continue
        known.add(item)
        benchmark.items.append(
            Item(item, subset, row.audio, row.text, (row.text,), row.raw or row.text, language, row.speaker, row.span)
        )
    for fault, names in faults.items():
        benchmark.problems.append(f"{table}: {len(names)} left out, {fault}: {named(names)}.")
        benchmark.unusable[subset] += len(names)
    for other, count in sorted(rates.items()):
        if other not in (0, RATE):
            benchmark.problems.append(f"{subset}: {count} recordings are at {other} Hz, {RATE} Hz were published.")


def report_surplus(folder: Path, names: Iterable[str], benchmark: Benchmark) -> None:
    """Tell which recordings in `folder` have no transcript."""
    if listed := sorted(names):
        benchmark.problems.append(f"{folder}: {len(listed)} recordings without a transcript: {named(listed)}.")
