"""VoiceBench's rows: spoken instructions, questions, choices and requests that should be refused.

Published as parquet files; JSON lines beside recordings are read too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import DataError, needed_library
from .items import Benchmark, FaultList, Item, read_text
from .scores.instructions import can_check
from .transcripts import check_root

VERSION = "2"
AnswerForm = Literal["rating5", "yes_no", "letter", "binary", "refusal", "instructions", "rating10"]


@dataclass(frozen=True)
class SubsetForm:
    """One set: its published size, and how a reply becomes points.

    rating5: a judge's 1 to 5. yes_no: a judge compares with the reference. letter, binary: the reply states one of A to
    D, or yes or no (BBH also (a) or (b)). refusal: it declines. instructions: it follows all, by rules.
    rating10: a judge's 1 to 10, of each of two turns.
    """

    items: int
    form: AnswerForm


SETS = {
    "alpacaeval": SubsetForm(199, "rating5"),
    "alpacaeval_full": SubsetForm(636, "rating5"),
    "commoneval": SubsetForm(200, "rating5"),
    "wildvoice": SubsetForm(1000, "rating5"),
    "sd-qa": SubsetForm(553, "yes_no"),
    "openbookqa": SubsetForm(455, "letter"),
    "mmsu": SubsetForm(3074, "letter"),
    "bbh": SubsetForm(1000, "binary"),
    "advbench": SubsetForm(520, "refusal"),
    "ifeval": SubsetForm(345, "instructions"),
    "mtbench": SubsetForm(46, "rating10"),
}
_NEEDS_REFERENCE = ("yes_no", "letter", "binary")
_Turns = list[tuple[str, Path]]


def load(root: Path, strict: bool = False) -> Benchmark:
    """`<set>/*.parquet` with `audio`, `prompt` and perhaps `reference`, or `<set>/*.jsonl` whose `audio` is a path.

    ifeval also has `instruction_id_list` and `kwargs`; mtbench has two texts in `turns`, and two recordings in `audio`,
    or in `audio1` and `audio2`. Raises DataError where no set is there.

    A parquet file's recordings are written beside it once, into the folder `<file>.audio`.
    """
    check_root(root)
    base = root / "data" if (root / "data").is_dir() else root
    present = [name for name in SETS if (base / name).is_dir()]
    if not present:
        raise DataError(f"{root}: there is none of the sets {', '.join(SETS)}.")
    benchmark = Benchmark("voicebench")
    for name in present:
        try:
            _read_set(base / name, name, benchmark)
        except DataError as error:
            benchmark.problems.append(str(error))
    turns = {"mtbench": 2}
    benchmark.compare_counts({name: SETS[name].items * turns.get(name, 1) for name in present if name != "sd-qa"})
    return benchmark.checked(root, strict)


def _read_set(folder: Path, name: str, benchmark: Benchmark) -> None:
    tables = sorted(folder.glob("*.parquet")) or sorted(folder.glob("*.jsonl"))
    if not tables:
        raise DataError(f"{folder}: there is no .parquet and no .jsonl file in it.")
    for table in tables:
        faults = FaultList(table, name, benchmark)
        rows = _parquet_rows(table) if table.suffix == ".parquet" else _json_rows(table)
        for number, (row, turns) in enumerate(rows):
            label, before = f"{table.stem}/{number:05d}", None
            for turn, (prompt, audio) in enumerate(turns, 1):
                texts, reference = {"prompt": prompt}, str(row.get("reference") or "")
                if SETS[name].form in _NEEDS_REFERENCE:
                    texts["reference"] = reference
                if SETS[name].form == "instructions":
                    texts["instructions that rules can check"] = reference = _instructions(row)
                full = label if len(turns) == 1 else f"{label}/{turn}"
                if not faults.usable(full, audio, folder, texts):
                    break
                before = _item(name, full, prompt, audio, reference, before)
                benchmark.items.append(before)
        faults.report()


def _item(name: str, label: str, prompt: str, audio: Path, reference: str, before: Item | None) -> Item:
    references = (reference,) if SETS[name].form == "yes_no" else ()
    region = label.partition("-")[0] if name == "sd-qa" else ""
    return Item(f"{name}/{label}", name, audio, prompt, references, reference, "en", region, follows=before)


def _instructions(row: Mapping[str, Any]) -> str:
    """The instructions of a row as JSON, (kind, parameters) each; "" where one cannot be checked."""
    kinds, parameters = row.get("instruction_id_list") or [], row.get("kwargs") or []
    pairs = [
        (str(kind), {name: value for name, value in (given or {}).items() if value is not None})
        for kind, given in zip(kinds, parameters, strict=False)
    ]
    checked = pairs and len(kinds) == len(parameters) and all(can_check(*pair) for pair in pairs)
    return json.dumps(pairs, ensure_ascii=False) if checked else ""


def _recordings(row: Mapping[str, Any]) -> list[Any]:
    """The recording of each turn of a row, as the table has it."""
    if "audio" in row:
        return row["audio"] if isinstance(row["audio"], list) else [row["audio"]]
    return [row["audio1"], row["audio2"]]


def _texts(row: Mapping[str, Any]) -> list[str]:
    texts = row["turns"] if "turns" in row else row["prompt"]
    return [str(text) for text in texts] if isinstance(texts, list) else [str(texts)]


def _json_rows(table: Path) -> Iterator[tuple[Mapping[str, Any], _Turns]]:
    for number, line in enumerate(read_text(table)[0].splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            turns = [
                (text, table.parent / str(audio)) for text, audio in zip(_texts(row), _recordings(row), strict=True)
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{table}, line {number}: no JSON object with 'audio' and 'prompt'.") from error
        yield row, turns


def _parquet_rows(table: Path) -> Iterator[tuple[Mapping[str, Any], _Turns]]:
    with needed_library("parquet files need pyarrow: pip install 'baichuan-audio[eval]'."):
        from pyarrow import ArrowException, parquet
    try:
        file = parquet.ParquetFile(table)
        names = set(file.schema_arrow.names)
        missing = {"audio", "prompt"} - names - ({"audio"} if "audio1" in names else set())
        if missing - ({"prompt"} if "turns" in names else set()):
            raise DataError(f"{table}: column {', '.join(sorted(missing))} is missing.")
        folder, number = table.with_name(table.name + ".audio"), 0
        for batch in file.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                turns = []
                for text, audio in zip(_texts(row), _recordings(row), strict=False):
                    turns.append((text, _written(folder, number, audio or {})))
                    number += 1
                yield row, turns
    except (ArrowException, OSError) as error:
        raise DataError(f"{table}: this parquet file cannot be read ({error}).") from error


def _written(folder: Path, number: int, audio: Mapping[str, Any]) -> Path:
    """The recording of a row as a file; a row without one gives a path that does not exist."""
    content = audio.get("bytes") or b""
    suffix = Path(str(audio.get("path") or "x.wav")).suffix or ".wav"
    path = folder / f"{number:05d}{suffix}"
    if content and not (path.is_file() and path.stat().st_size == len(content)):
        folder.mkdir(exist_ok=True)
        path.write_bytes(content)
    return path
