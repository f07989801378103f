"""VoiceBench's rows: spoken instructions, questions, choices and requests that should be refused.

Published as parquet files; JSON lines beside recordings are read too. `ifeval` and `mtbench` are not scored here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import DataError, MissingDependencyError
from .items import Benchmark, FaultList, Item, read_text
from .transcripts import check_root

VERSION = "1"
AnswerForm = Literal["rating5", "yes_no", "letter", "binary", "refusal"]


@dataclass(frozen=True)
class SubsetForm:
    """One set: its published size, and how a reply becomes points.

    rating5: a judge's 1 to 5. yes_no: a judge compares with the reference. letter, binary: the reply states one of A to
    D, or yes or no (BBH also (a) or (b)). refusal: it declines.
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
}
_NEEDS_REFERENCE = ("yes_no", "letter", "binary")


def load(root: Path, strict: bool = False) -> Benchmark:
    """`<set>/*.parquet` with `audio`, `prompt` and perhaps `reference`, or `<set>/*.jsonl` whose `audio` is a path.

    Sets that are not scored are told. Raises DataError where no set is there.

    A parquet file's recordings are written beside it once, into the folder `<file>.audio`.
    """
    check_root(root)
    base = root / "data" if (root / "data").is_dir() else root
    present = [name for name in SETS if (base / name).is_dir()]
    if not present:
        raise DataError(f"{root}: there is none of the sets {', '.join(SETS)}.")
    benchmark = Benchmark("voicebench")
    for name in ("ifeval", "mtbench"):
        if (base / name).is_dir():
            benchmark.problems.append(f"{base / name}: this set is not scored here and was left out.")
    for name in present:
        try:
            _read_set(base / name, name, benchmark)
        except DataError as error:
            benchmark.problems.append(str(error))
    benchmark.compare_counts({name: SETS[name].items for name in present if name != "sd-qa"})
    return benchmark.checked(root, strict)


def _read_set(folder: Path, name: str, benchmark: Benchmark) -> None:
    tables = sorted(folder.glob("*.parquet")) or sorted(folder.glob("*.jsonl"))
    if not tables:
        raise DataError(f"{folder}: there is no .parquet and no .jsonl file in it.")
    for table in tables:
        faults = FaultList(table, name, benchmark)
        rows = _parquet_rows(table) if table.suffix == ".parquet" else _json_rows(table)
        for number, (row, audio) in enumerate(rows):
            reference = str(row.get("reference") or "")
            texts = {"prompt": str(row["prompt"])}
            if SETS[name].form in _NEEDS_REFERENCE:
                texts["reference"] = reference
            label = f"{table.stem}/{number:05d}"
            if faults.usable(label, audio, folder, texts):
                benchmark.items.append(_item(name, label, row, audio, reference))
        faults.report()


def _item(name: str, label: str, row: Mapping[str, Any], audio: Path, reference: str) -> Item:
    references = (reference,) if SETS[name].form == "yes_no" else ()
    region = label.partition("-")[0] if name == "sd-qa" else ""
    return Item(f"{name}/{label}", name, audio, str(row["prompt"]), references, reference, "en", region)


def _json_rows(table: Path) -> Iterator[tuple[Mapping[str, Any], Path]]:
    for number, line in enumerate(read_text(table)[0].splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            audio = table.parent / str(row["audio"])
            row["prompt"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{table}, line {number}: no JSON object with 'audio' and 'prompt'.") from error
        yield row, audio


def _parquet_rows(table: Path) -> Iterator[tuple[Mapping[str, Any], Path]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingDependencyError("parquet files need pyarrow: pip install 'baichuan-audio[eval]'.") from error
    try:
        file = parquet.ParquetFile(table)
        missing = {"audio", "prompt"} - set(file.schema_arrow.names)
        if missing:
            raise DataError(f"{table}: column {', '.join(sorted(missing))} is missing.")
        folder, number = table.with_name(table.name + ".audio"), 0
        for batch in file.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                audio = row.pop("audio") or {}
                yield row, _written(folder, number, audio)
                number += 1
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
