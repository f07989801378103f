"""seed-tts-eval as published: texts to be read aloud in the voice of a recording."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .items import Benchmark, FaultList, Item, read_text
from .transcripts import check_root

VERSION = "1"
PUBLISHED = {"en": 1088, "zh": 2020, "zh-hard": 400}
_TABLES = {"en": ("en", "meta.lst"), "zh": ("zh", "meta.lst"), "zh-hard": ("zh", "hardcase.lst")}
_CELLS = (4, 5)  # with and without the recording of the text itself


def load(root: Path, strict: bool = False) -> Benchmark:
    """`{en,zh}/meta.lst` and `zh/hardcase.lst`, lines `name|text of the prompt|prompt audio|text to read`.

    Prompt recordings lie in the folder of the list. Raises DataError without a list.
    """
    check_root(root)
    benchmark = Benchmark("seed_tts")
    base = root / "seedtts_testset" if (root / "seedtts_testset").is_dir() else root
    tables = {subset: base.joinpath(*parts) for subset, parts in _TABLES.items() if base.joinpath(*parts).is_file()}
    if not tables:
        raise DataError(f"{root}: there is none of en/meta.lst, zh/meta.lst and zh/hardcase.lst.")
    for subset, table in tables.items():
        _read_list(table, subset, benchmark)
    benchmark.compare_counts(PUBLISHED)
    return benchmark.checked(root, strict)


def _read_list(table: Path, subset: str, benchmark: Benchmark) -> None:
    text, _ = read_text(table)
    lines = [line.split("|") for line in text.splitlines() if line.strip()]
    rows = [line for line in lines if len(line) in _CELLS]
    if len(rows) < len(lines):
        benchmark.problems.append(f"{table}: {len(lines) - len(rows)} lines have not four or five cells.")
    faults = FaultList(table, subset, benchmark)
    for name, _, prompt, content, *_ in rows:
        audio = table.parent / prompt.strip()
        if faults.usable(name.strip(), audio, table.parent, {"text": content}):
            item = Item(
                f"{subset}/{name.strip()}", subset, None, content.strip(), (content.strip(),), content,
                subset[:2], prompt.strip(), prompt_audio=audio,
            )  # fmt: skip
            benchmark.items.append(item)
    faults.report()
