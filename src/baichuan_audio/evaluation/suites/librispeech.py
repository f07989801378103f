"""LibriSpeech as published: read audiobooks in English, an error rate for each split."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .items import Benchmark
from .transcripts import Recording, add_recordings, check_root, read_transcripts, report_surplus

PUBLISHED = {"test-clean": 2620, "test-other": 2939, "dev-clean": 2703, "dev-other": 2864}


def load(root: Path, strict: bool = False) -> Benchmark:
    """`<split>/<speaker>/<chapter>/*.flac` with `<speaker>-<chapter>.trans.txt`; every test and dev split there is."""
    check_root(root)
    base = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    benchmark = Benchmark("librispeech")
    splits = [base / name for name in PUBLISHED if (base / name).is_dir()]
    if not splits:
        raise DataError(f"{root}: there is none of the splits {', '.join(PUBLISHED)}.")
    for split in splits:
        chapters = sorted(path for path in split.glob("*/*") if path.is_dir())
        if not chapters:
            benchmark.problems.append(f"{split}: there is no folder <speaker>/<chapter> in it.")
        for folder in chapters:
            _read_chapter(folder, split.name, benchmark)
    benchmark.compare_counts(PUBLISHED)
    return benchmark.checked(root, strict)


def _read_chapter(folder: Path, split: str, benchmark: Benchmark) -> None:
    speaker = folder.parent.name
    table = folder / f"{speaker}-{folder.name}.trans.txt"
    rows = read_transcripts(table, benchmark)
    recordings = [Recording(folder / f"{name}.flac", text, speaker) for name, text in rows.items()]
    add_recordings(recordings, table, split, "en", benchmark)
    if rows:
        report_surplus(folder, (path.name for path in folder.glob("*.flac") if path.stem not in rows), benchmark)
