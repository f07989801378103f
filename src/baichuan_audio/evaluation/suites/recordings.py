"""Recordings of your own, by a manifest: an error rate for each set, and whether silence stays without words."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from ...text.lines import read_json_rows
from .items import Benchmark, FaultList, Item
from .transcripts import check_root

MANIFEST = "manifest.jsonl"
LANGUAGES = ("en", "zh")


def load(root: Path, strict: bool = False) -> Benchmark:
    """`manifest.jsonl` with a `path` below its folder, `transcript` and `language` (en, zh) a line.

    An empty transcript is that of a recording without words. `set` is the set that a recording belongs to, by default
    the first folder of its path; `speaker` makes recordings one cluster. Raises DataError without a manifest.
    """
    check_root(root)
    table = root / MANIFEST
    if not table.is_file():
        raise DataError(f"{table}: this file is missing.")
    benchmark, faults = Benchmark("recordings"), dict[str, FaultList]()
    for number, row in read_json_rows(table):
        path, text, language = (row.get(name) for name in ("path", "transcript", "language"))
        if not isinstance(path, str) or not isinstance(text, str) or language not in LANGUAGES:
            benchmark.problems.append(f"{table}: row {number} lacks a path, a transcript or a language (en, zh).")
            continue
        subset = str(row.get("set") or (Path(path).parts[0] if len(Path(path).parts) > 1 else "recordings"))
        noted = faults.setdefault(subset, FaultList(table, subset, benchmark))
        if noted.usable(path, root / path, root, {}):
            speaker = str(row.get("speaker") or "")
            item = Item(f"{subset}/{path}", subset, root / path, text, (text,), text, language, speaker)
            benchmark.items.append(item)
    for noted in faults.values():
        noted.report()
    return benchmark.checked(root, strict)
