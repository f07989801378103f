"""S2SBench as published: which continuation of a spoken or typed context the model finds more likely.

sStoryCloze and zh-sStoryCloze have two rows a story, the right ending first; sCMMLU has four options a question.
Source: arXiv 2505.14438 and the protocol in its repository.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from .items import Benchmark, FaultList, Item, read_text
from .transcripts import check_root

VERSION = "1"
STORIES = {
    "sstorycloze": ("sStory_s2t.jsonl", "s-story-firstspeech", "en"),
    "zh_sstorycloze": ("zh_story.jsonl", "zh_story", "zh"),
}
OPTIONS = ("A", "B", "C", "D")
_QUESTIONS = "scmmlu"
_SUFFIXES = (".wav", ".flac", ".opus", ".mp3")


def load(root: Path, strict: bool = False) -> Benchmark:
    """`S2S/StoryCloze/{sStory_s2t,zh_story}.jsonl`, `S2S/cmmlu/cmmlu_rewrite_4.jsonl` and recordings `<uttid>.wav`.

    Recordings may be compressed (.flac, .opus, .mp3).
    A story of which one row cannot be used is left out whole. Raises DataError where no set is there.
    """
    check_root(root)
    base = root / "S2S" if (root / "S2S").is_dir() else root
    benchmark = Benchmark("s2sbench")
    tables = {name: base / "StoryCloze" / parts[0] for name, parts in STORIES.items()}
    tables[_QUESTIONS] = base / "cmmlu" / "cmmlu_rewrite_4.jsonl"
    present = {name: table for name, table in tables.items() if table.is_file()}
    if not present:
        raise DataError(
            f"{root}: there is none of {', '.join(str(table.relative_to(base)) for table in tables.values())}."
        )
    benchmark.problems += [f"{table}: this set is missing." for name, table in tables.items() if name not in present]
    for name, table in present.items():
        if name == _QUESTIONS:
            _read_questions(table, benchmark)
        else:
            _read_stories(table, name, benchmark)
    return benchmark.checked(root, strict)


def _read_stories(table: Path, subset: str, benchmark: Benchmark) -> None:
    """Rows 2k and 2k + 1 are the right and the wrong ending of one story, whose context both repeat."""
    _, folder, language = STORIES[subset]
    numbers: dict[int, Mapping[str, Any]] = {}
    for row in _rows(table, ("uttid", "first", "last"), benchmark):
        try:
            numbers.setdefault(int(str(row["uttid"]).partition("_")[0]), row)
        except ValueError:
            benchmark.problems.append(f"{table}: '{row['uttid']}' is no number of a row.")
    faults = FaultList(table, subset, benchmark)
    for even in sorted(number for number in numbers if number % 2 == 0):
        pair = [numbers[number] for number in (even, even + 1) if number in numbers]
        if len(pair) < 2:
            benchmark.problems.append(f"{table}: row {even} has no row {even + 1} beside it and was left out.")
            continue
        items = [_item(table.parent / folder, subset, row, language, [str(row["last"])], label)
                 for row, label in zip(pair, ("right", "wrong"), strict=True)]  # fmt: skip
        usable = [_usable(faults, item, table.parent / folder) for item in items]
        if all(usable):
            benchmark.items += items
    faults.report()


def _read_questions(table: Path, benchmark: Benchmark) -> None:
    folder = table.parent / "cmmlu_rewrite"
    faults = FaultList(table, _QUESTIONS, benchmark)
    for row in _rows(table, ("uttid", "first", *OPTIONS, "answer"), benchmark):
        answer = str(row["answer"]).strip()
        if answer not in OPTIONS:
            benchmark.problems.append(f"{table}: the answer of '{row['uttid']}' is '{answer}', none of A to D.")
            continue
        item = _item(folder, _QUESTIONS, row, "zh", [str(row[option]) for option in OPTIONS], answer)
        if _usable(faults, item, folder):
            benchmark.items.append(item)
    faults.report()


def _item(folder: Path, subset: str, row: Mapping[str, Any], language: str, choices: Sequence[str], label: str) -> Item:
    name = str(row["uttid"])
    published = folder / f"{name}.wav"
    audio = next(
        (path for path in (published.with_suffix(suffix) for suffix in _SUFFIXES) if path.is_file()), published
    )
    return Item(
        f"{subset}/{name}", subset, audio, str(row["first"]), (label,), label, language,
        choices=tuple(choices),
    )  # fmt: skip


def _usable(faults: FaultList, item: Item, folder: Path) -> bool:
    texts = {"context": item.question} | {f"choice {number}": text for number, text in enumerate(item.choices, 1)}
    return faults.usable(item.id.partition("/")[2], item.audio, folder, texts)


def _rows(table: Path, keys: Sequence[str], benchmark: Benchmark) -> list[Mapping[str, Any]]:
    """Objects of a JSON lines file that have all `keys`; others are told."""
    rows, broken = list[Mapping[str, Any]](), list[int]()
    for number, line in enumerate(read_text(table)[0].splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and all(key in row for key in keys):
            rows.append(row)
        else:
            broken.append(number)
    if broken:
        benchmark.problems.append(
            f"{table}: {len(broken)} lines, the first of them {broken[0]}, are no JSON objects with {', '.join(keys)}."
        )
    return rows
