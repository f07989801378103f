"""OpenAudioBench in its published layout: `eval_datas/<set>/<set>.csv` with `eval_datas/<set>/audios/`.

Five sets, 2,701 items (arXiv 2502.17239, section 4.3): what is said, which column holds question and reference, and
how the published scoring turns a judge's verdict into points are stated here once.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import DataError
from .items import Benchmark, FaultList, Item, named, read_csv, surplus_audio

NAME = "openaudiobench"
VERSION = "1"
AUDIO_COLUMN = "audio_filename"
VerdictForm = Literal["rubric", "score_is", "json", "rating"]


@dataclass(frozen=True)
class SubsetFormat:
    """One set: columns, published number of items, form of the judge's verdict, language."""

    name: str
    items: int
    question: str
    reference: str
    verdict: VerdictForm
    language: str
    aliases: str = ""  # column with one more right answer


SETS = {
    form.name: form
    for form in (
        SubsetFormat("reasoning_qa", 202, "Prompt", "参考答案", "rubric", "zh"),
        SubsetFormat("llama_questions", 300, "Questions", "Answer", "score_is", "en"),
        SubsetFormat("web_questions", 1000, "question", "answers", "json", "en"),
        SubsetFormat(
            "trivia_qa", 1000, "question", "answer_normalized_aliases", "json", "en", "answer_normalized_value"
        ),
        SubsetFormat("alpaca_eval", 199, "instruction", "output", "rating", "en"),
    )
}


def load(root: Path, strict: bool = False) -> Benchmark:
    """Items of all sets below `root` (the repository, or its `eval_datas`).

    A set that is missing or broken is told and left out, as is a row that cannot be used; `strict` raises instead.
    Raises DataError where nothing can be used.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; give the one that holds eval_datas.")
    base = root / "eval_datas" if (root / "eval_datas").is_dir() else root
    present = [form for form in SETS.values() if (base / form.name).is_dir()]
    if not present:
        raise DataError(f"{root}: there is none of the sets {', '.join(SETS)}; give the folder that holds eval_datas.")
    benchmark = Benchmark(NAME)
    for form in SETS.values():
        if form not in present:
            benchmark.problems.append(f"{base / form.name}: this set is missing.")
            continue
        try:
            _read_set(base / form.name, form, benchmark)
        except DataError as error:
            benchmark.problems.append(str(error))
    return benchmark.checked(root, strict)


def _read_set(folder: Path, form: SubsetFormat, benchmark: Benchmark) -> None:
    table, audios = folder / f"{form.name}.csv", folder / "audios"
    rows, problems = read_csv(table, (form.question, form.reference, AUDIO_COLUMN))
    if not audios.is_dir():
        raise DataError(f"{audios}: the folder with the recordings is missing.")
    benchmark.expected[form.name] = form.items
    benchmark.problems += problems
    faults = FaultList(table, form.name, benchmark)
    for row in rows:
        name, texts = row[AUDIO_COLUMN].strip(), {"question": row[form.question]}
        if form.verdict != "rating":
            texts["reference"] = row[form.reference]
        if faults.usable(name, audios / name, audios, texts):
            benchmark.items.append(_item(row, form, audios / name, name))
    faults.report()
    if surplus := surplus_audio(audios, {row[AUDIO_COLUMN].strip() for row in rows}):
        benchmark.problems.append(f"{audios}: {len(surplus)} recordings without a row were left out: {named(surplus)}.")
    if len(rows) != form.items:
        benchmark.problems.append(f"{table}: {len(rows)} rows, {form.items} were published.")


def _item(row: dict[str, str], form: SubsetFormat, audio: Path, name: str) -> Item:
    raw = row[form.reference]
    references = () if form.verdict == "rating" else split_references(raw, commas=bool(form.aliases))
    if form.aliases and (value := row.get(form.aliases, "").strip()):
        references = tuple(dict.fromkeys([value, *references]))
    return Item(f"{form.name}/{name}", form.name, audio, row[form.question], references, raw, form.language)


def split_references(raw: str, commas: bool = False) -> tuple[str, ...]:
    """The right answers in one cell: a list in Python's or JSON's writing, or joined by `;`, else one answer.

    commas: also split at commas, in texts whose own punctuation was removed.
    """
    text = raw.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            listed = None
        if isinstance(listed, list):
            return tuple(answer for entry in listed if (answer := str(entry).strip()))
    parts = text.split(";")
    if commas and len(parts) == 1:
        parts = text.split(",")
    return tuple(answer for part in parts if (answer := part.strip()))
