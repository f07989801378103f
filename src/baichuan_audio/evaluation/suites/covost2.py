"""CoVoST 2 as published: speech translated into text, English and Mandarin."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ...data.store.atomic import text_digest
from ...errors import DataError
from .items import Benchmark, FaultList, Item, read_text
from .transcripts import check_root

VERSION = "1"
PUBLISHED = {"en_zh-CN": 15_531, "zh-CN_en": 4_898}
LANGUAGES = {"en_zh-CN": ("en", "zh"), "zh-CN_en": ("zh", "en")}
"""Direction -> language of the speech, and of the translation."""
INSTRUCTIONS = {
    "en_zh-CN": "请将下面的英语语音翻译成中文，只写译文:",
    "zh-CN_en": "Translate the following Chinese speech into English. Write only the translation:",
}
INSTRUCTIONS_DIGEST = text_digest(*(part for name in sorted(INSTRUCTIONS) for part in (name, INSTRUCTIONS[name])))
_COLUMNS = ("path", "sentence", "translation")
_REMOVED = "REMOVE"


def load(root: Path, strict: bool = False) -> Benchmark:
    """`covost_v2.<from>_<to>.test.tsv` (path, sentence, translation, client_id) and Common Voice's `<from>/clips/`.

    The tables may lie in `root` or in `<from>/`. Rows that say REMOVE are passed over. Raises
    DataError without a table.
    """
    check_root(root)
    benchmark = Benchmark("covost2")
    tables = dict[str, Path]()
    for direction in LANGUAGES:
        source = direction.partition("_")[0]
        name = f"covost_v2.{direction}.test.tsv"
        if table := next((path for path in (root / name, root / source / name) if path.is_file()), None):
            tables[direction] = table
    if not tables:
        raise DataError(f"{root}: there is none of covost_v2.<{'|'.join(LANGUAGES)}>.test.tsv.")
    for direction, table in tables.items():
        try:
            _read_direction(root, table, direction, benchmark)
        except DataError as error:
            benchmark.problems.append(str(error))
    benchmark.compare_counts(PUBLISHED)
    return benchmark.checked(root, strict)


def _read_direction(root: Path, table: Path, direction: str, benchmark: Benchmark) -> None:
    text, _ = read_text(table)
    lines = [row for row in csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    header = lines[0] if lines else []
    if missing := [name for name in _COLUMNS if name not in header]:
        raise DataError(f"{table}: column {', '.join(missing)} is missing; there are {', '.join(header)}.")
    source, _ = LANGUAGES[direction]
    clips = root / direction.partition("_")[0] / "clips"
    if not clips.is_dir():
        raise DataError(f"{clips}: the folder with Common Voice's recordings is missing.")
    rows = [dict(zip(header, line, strict=True)) for line in lines[1:] if len(line) == len(header)]
    if len(rows) < len(lines) - 1:
        benchmark.problems.append(f"{table}: {len(lines) - 1 - len(rows)} rows with another number of cells.")
    faults = FaultList(table, direction, benchmark)
    for row in rows:
        name, translation = row["path"].strip(), row["translation"].strip()
        if _REMOVED in (row["sentence"].strip(), translation):
            continue
        audio = clips / (name if name.endswith(".mp3") or "." in name else f"{name}.mp3")
        if faults.usable(name, audio, clips, {"translation": translation}):
            item = Item(
                f"{direction}/{name}", direction, audio, row["sentence"], (translation,), row["translation"], source,
                row.get("client_id", ""),
            )  # fmt: skip
            benchmark.items.append(item)
    faults.report()
