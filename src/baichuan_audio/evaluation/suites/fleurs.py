"""FLEURS as published: read sentences of the languages that this package scores."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ...errors import DataError
from .items import Benchmark, read_text
from .transcripts import Recording, add_recordings, check_root

LANGUAGES = {"en_us": "en", "cmn_hans_cn": "zh"}
PUBLISHED = {"en_us": 647, "cmn_hans_cn": 945}


def load(root: Path, strict: bool = False) -> Benchmark:
    """`<language>/test/*.wav` with `metadata/<language>/test.tsv`, or `<language>/{test.tsv,audio/test/*.wav}`.

    The tables have no header: id, file, raw transcript, transcript, characters, samples, gender.
    """
    check_root(root)
    benchmark = Benchmark("fleurs")
    for language, code in LANGUAGES.items():
        tables = (root / "metadata" / language / "test.tsv", root / language / "test.tsv")
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            if (root / language).is_dir():
                benchmark.problems.append(f"{tables[0]}: this file is missing.")
            continue
        folders = (root / language / "test", root / language / "audio" / "test")
        folder = next((path for path in folders if path.is_dir()), folders[0])
        rows = _rows(table, benchmark)
        add_recordings(
            (Recording(folder / name, text, raw=raw) for name, raw, text in rows), table, language, code, benchmark
        )
    if not benchmark.items and not benchmark.problems:
        raise DataError(f"{root}: there is none of the languages {', '.join(LANGUAGES)} with its test.tsv.")
    benchmark.compare_counts(PUBLISHED)
    return benchmark.checked(root, strict)


def _rows(table: Path, benchmark: Benchmark) -> list[tuple[str, str, str]]:
    text, _ = read_text(table)
    lines = [row for row in csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    rows = [(row[1], row[2], row[3]) for row in lines if len(row) >= 4]
    if len(rows) < len(lines):
        benchmark.problems.append(f"{table}: {len(lines) - len(rows)} lines with less than four columns were left out.")
    return rows
