"""Big Bench Audio in its published layout: `metadata.jsonl` beside `data/question_<id>.mp3`.

1,000 spoken questions of four categories of Big Bench Hard (arXiv 2210.09261), each with a one-word answer; the file
names `category`, `official_answer`, `file_name` and `id`. The words of the questions are not published with it.
"""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import DataError
from ..suites.items import Benchmark, Item, audio_problem, named, read_text

NAME = "big_bench_audio"
VERSION = "1"
ITEMS = 1000
CATEGORIES = ("formal_fallacies", "navigate", "object_counting", "web_of_lies")
_FIELDS = ("category", "official_answer", "file_name")


def load(root: Path, strict: bool = False) -> Benchmark:
    """Its items, by category; a row that cannot be used is told and left out, or raises DataError with `strict`."""
    table = root / "metadata.jsonl"
    if not table.is_file():
        raise DataError(f"{table}: this file is missing; give the folder that holds metadata.jsonl.")
    benchmark, faults = Benchmark(NAME), dict[str, list[str]]()
    for number, line in enumerate(read_text(table)[0].splitlines(), 1):
        if not line.strip():
            continue
        item = _item(root, line)
        if isinstance(item, Item):
            benchmark.items.append(item)
        else:
            faults.setdefault(item, []).append(f"line {number}")
    for fault, lines in faults.items():
        benchmark.problems.append(f"{table}: {len(lines)} left out, {fault}: {named(lines)}.")
    count = len(benchmark.items) + sum(map(len, faults.values()))
    if count != ITEMS:
        benchmark.problems.append(f"{table}: {count} rows, {ITEMS} were published.")
    return benchmark.checked(root, strict)


def _item(root: Path, line: str) -> Item | str:
    """The item of a row, or what is wrong with it."""
    try:
        row = json.loads(line)
        category, answer, name = (str(row[field]).strip() for field in _FIELDS)
    except (ValueError, KeyError, TypeError):
        return f"no object with {', '.join(_FIELDS)}"
    name = name.replace("\\", "/")
    audio = root / name
    if category not in CATEGORIES or not answer:
        return "an unknown category, or no answer"
    if not audio.resolve().is_relative_to(root.resolve()):
        return "a recording outside of the folder"
    problem = audio_problem(audio)
    if problem:
        return f"a recording that is {problem}"
    return Item(f"{category}/{Path(name).name}", category, audio, "", (answer,), answer, "en")
