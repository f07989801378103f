"""AISHELL-1 as published: read Mandarin, the test split."""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from .items import Benchmark
from .transcripts import Recording, add_recordings, check_root, read_transcripts, report_surplus

PUBLISHED = {"test": 7176}
_TRANSCRIPT = Path("transcript") / "aishell_transcript_v0.8.txt"


def load(root: Path, strict: bool = False) -> Benchmark:
    """`data_aishell/wav/test/S*/*.wav` with `data_aishell/transcript/aishell_transcript_v0.8.txt`."""
    check_root(root)
    base = root / "data_aishell" if (root / "data_aishell").is_dir() else root
    benchmark = Benchmark("aishell1")
    recordings = sorted((base / "wav" / "test").glob("S*/*.wav"))
    if not recordings:
        raise DataError(
            f"{base / 'wav' / 'test'}: there is no recording S*/*.wav; unpack the archives of the speakers."
        )
    rows = read_transcripts(base / _TRANSCRIPT, benchmark)
    paired = [Recording(path, rows[path.stem], path.parent.name) for path in recordings if path.stem in rows]
    add_recordings(paired, base / _TRANSCRIPT, "test", "zh", benchmark)
    if rows:
        report_surplus(base, (path.name for path in recordings if path.stem not in rows), benchmark)
    benchmark.compare_counts(PUBLISHED)
    return benchmark.checked(root, strict)
