"""Speech recognition in the layouts that LibriSpeech, AISHELL-1 and FLEURS are published in, and its error rates.

References and hypotheses are kept as they are; `score` applies a normaliser to the result file, without the model.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError, MissingDependencyError
from ..results import read_results
from ..statistics import Estimate, rate
from .items import Benchmark, Item, audio_problem, named, read_text
from .normalizers import DEFAULTS, fingerprint, normalize

VERSION = "1"
LIBRISPEECH_SPLITS = ("test-clean", "test-other", "dev-clean", "dev-other")
FLEURS_LANGUAGES = {"en_us": "en", "cmn_hans_cn": "zh"}
_AISHELL_TRANSCRIPT = Path("transcript") / "aishell_transcript_v0.8.txt"


def load_librispeech(root: Path, strict: bool = False) -> Benchmark:
    """`<split>/<speaker>/<chapter>/*.flac` with `<speaker>-<chapter>.trans.txt`; every test and dev split there is."""
    _check_root(root)
    base = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    benchmark = Benchmark("librispeech")
    splits = [base / name for name in LIBRISPEECH_SPLITS if (base / name).is_dir()]
    if not splits:
        raise DataError(f"{root}: there is none of the splits {', '.join(LIBRISPEECH_SPLITS)}.")
    for split in splits:
        chapters = sorted(path for path in split.glob("*/*") if path.is_dir())
        if not chapters:
            benchmark.problems.append(f"{split}: there is no folder <speaker>/<chapter> in it.")
        for folder in chapters:
            _read_chapter(folder, split.name, benchmark)
    return benchmark.checked(root, strict)


def _read_chapter(folder: Path, split: str, benchmark: Benchmark) -> None:
    speaker = folder.parent.name
    table = folder / f"{speaker}-{folder.name}.trans.txt"
    rows = _transcripts(table, benchmark)
    pairs = [(folder / f"{name}.flac", text) for name, text in rows.items()]
    _add(pairs, table, split, "en", lambda _: speaker, folder, benchmark)
    surplus = sorted(path.name for path in folder.glob("*.flac") if path.stem not in rows)
    if surplus and rows:
        benchmark.problems.append(f"{folder}: {len(surplus)} recordings without a transcript: {named(surplus)}.")


def load_aishell1(root: Path, strict: bool = False) -> Benchmark:
    """`data_aishell/wav/test/S*/*.wav` with `data_aishell/transcript/aishell_transcript_v0.8.txt`."""
    _check_root(root)
    base = root / "data_aishell" if (root / "data_aishell").is_dir() else root
    benchmark = Benchmark("aishell1")
    recordings = sorted((base / "wav" / "test").glob("S*/*.wav"))
    if not recordings:
        raise DataError(
            f"{base / 'wav' / 'test'}: there is no recording S*/*.wav; unpack the archives of the speakers."
        )
    rows = _transcripts(base / _AISHELL_TRANSCRIPT, benchmark)
    pairs = [(path, rows[path.stem]) for path in recordings if path.stem in rows]
    _add(pairs, base / _AISHELL_TRANSCRIPT, "test", "zh", lambda path: path.parent.name, base, benchmark)
    surplus = [path.name for path in recordings if path.stem not in rows]
    if surplus and rows:
        benchmark.problems.append(f"{base}: {len(surplus)} recordings without a transcript: {named(surplus)}.")
    return benchmark.checked(root, strict)


def load_fleurs(root: Path, strict: bool = False) -> Benchmark:
    """`<language>/test/*.wav` with `metadata/<language>/test.tsv`, or `<language>/{test.tsv,audio/test/*.wav}`.

    The tables have no header: id, file, raw transcript, transcript, characters, samples, gender.
    """
    _check_root(root)
    benchmark = Benchmark("fleurs")
    for language, code in FLEURS_LANGUAGES.items():
        tables = (root / "metadata" / language / "test.tsv", root / language / "test.tsv")
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            if (root / language).is_dir():
                benchmark.problems.append(f"{tables[0]}: this file is missing.")
            continue
        folders = (root / language / "test", root / language / "audio" / "test")
        folder = next((path for path in folders if path.is_dir()), folders[0])
        rows = _fleurs_rows(table, benchmark)
        pairs = [(folder / name, text) for name, _, text in rows]
        raw = {name: text for name, text, _ in rows}
        _add(pairs, table, language, code, lambda _: "", folder, benchmark, raw)
    if not benchmark.items and not benchmark.problems:
        raise DataError(f"{root}: there is none of the languages {', '.join(FLEURS_LANGUAGES)} with its test.tsv.")
    return benchmark.checked(root, strict)


def _fleurs_rows(table: Path, benchmark: Benchmark) -> list[tuple[str, str, str]]:
    text, _ = read_text(table)
    lines = [row for row in csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    rows = [(row[1], row[2], row[3]) for row in lines if len(row) >= 4]
    if len(rows) < len(lines):
        benchmark.problems.append(f"{table}: {len(lines) - len(rows)} lines with less than four columns were left out.")
    return rows


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder.")


def _transcripts(table: Path, benchmark: Benchmark) -> dict[str, str]:
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


def _add(
    pairs: Iterable[tuple[Path, str]],
    table: Path,
    subset: str,
    language: str,
    speaker_of: Callable[[Path], str],
    base: Path,
    benchmark: Benchmark,
    raw: Mapping[str, str] | None = None,
) -> None:
    """Items for recordings that can be used and have a transcript; the others are told."""
    faults: dict[str, list[str]] = defaultdict(list)
    known = {item.id for item in benchmark.items}
    for audio, text in pairs:
        problem = audio_problem(audio)
        if problem or not text.strip():
            faults[f"a recording that is {problem}" if problem else "no transcript"].append(audio.name)
            continue
        item = f"{subset}/{audio.name}"
        if item in known:
            faults["a recording named twice"].append(audio.name)
            continue
        known.add(item)
        shown = text if raw is None else raw[audio.name]
        benchmark.items.append(Item(item, subset, audio, text, (text,), shown, language, speaker_of(audio)))
    for fault, names in faults.items():
        benchmark.problems.append(f"{table}: {len(names)} left out, {fault}: {named(names)}.")
        benchmark.unusable[subset] += len(names)


@dataclass(frozen=True)
class TokenErrors:
    """Errors of one hypothesis: substitutions, insertions and deletions against `count` reference tokens."""

    errors: int
    count: int


def token_errors(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> list[TokenErrors]:
    """Errors of each hypothesis (jiwer's alignment). Raises MissingDependencyError without jiwer."""
    try:
        import jiwer
    except ImportError as error:
        raise MissingDependencyError("error rates need jiwer: pip install 'baichuan-audio[eval]'.") from error
    result = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        aligned = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        errors = aligned.substitutions + aligned.insertions + aligned.deletions
        result.append(TokenErrors(errors, len(reference)))
    return result


def score(path: Path, normalizers: Mapping[str, str] = DEFAULTS) -> dict[str, Any]:
    """Error rates of every subset in a result file: all its errors over all its tokens, in per cent.

    normalizers: for each language its name in `NORMALIZERS`. A recording that the system failed on counts with all its
    words missing; one whose reference has no token counts only in `empty_references`. Intervals treat a speaker's
    recordings as one cluster.
    """
    header, rows = read_results(path)
    subsets: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "output":
            subsets[row["subset"]].append(row)
    return {
        "provenance": header,
        "normalizers": {name: fingerprint(name) for name in sorted(set(normalizers.values()))},
        "sets": {subset: _subset_score(members, normalizers) for subset, members in subsets.items()},
    }


def _subset_score(rows: Sequence[Mapping[str, Any]], normalizers: Mapping[str, str]) -> dict[str, Any]:
    name = normalizers[rows[0]["language"]]
    references = [normalize(name, row["references"][0]) for row in rows]
    hypotheses = [normalize(name, str(row["replies"]["asr"].get("text", ""))) for row in rows]
    used = [index for index, reference in enumerate(references) if reference]
    errors = token_errors([references[index] for index in used], [hypotheses[index] for index in used])
    speakers = [rows[index]["speaker"] for index in used]
    estimate = corpus_rate(errors, speakers if all(speakers) else None)
    return {
        "normalizer": name,
        "error_rate": estimate,
        "errors": sum(item.errors for item in errors),
        "tokens": sum(item.count for item in errors),
        "items": len(rows),
        "failed": sum("error" in row["replies"]["asr"] for row in rows),
        "empty_references": len(rows) - len(used),
    }


def corpus_rate(errors: Sequence[TokenErrors], speakers: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Errors over tokens of all texts together in per cent, with its 95 % interval; None without a token."""
    if not sum(item.count for item in errors):
        return None
    return percent(rate([item.errors for item in errors], [item.count for item in errors], speakers))


def percent(estimate: Estimate, lowest: float = 0.0, highest: float = float("inf")) -> dict[str, Any]:
    """An estimate times 100, for a file: its interval within what is possible, None where nothing bounds it."""
    ends: list[float | None] = [100 * max(estimate.low, lowest), 100 * min(estimate.high, highest)]
    if math.isinf(estimate.high):
        ends = [None, None]  # a single question, or a single voice
    return {"value": 100 * estimate.value, "low": ends[0], "high": ends[1], "items": estimate.items}
