"""Shards for other programs: lhotse cuts. (webdataset reads the shards as they are.)"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .atomic import written_aside
from .records import SAMPLE_RATE, Sample
from .shards import IndexEntry, ShardReader


def export_lhotse(root: str | Path, output: str | Path) -> int:
    """Writes `cuts.jsonl.gz`, which lhotse reads by `CutSet.from_file`, and FLAC files; returns how many cuts.

    A supervision covers the whole cut; segments, masks, licence and transforms stand in its `custom` entry.
    """
    reader, output = ShardReader(root), Path(output)
    (output / "audio").mkdir(parents=True, exist_ok=True)
    with (
        written_aside(output / "cuts.jsonl.gz") as aside,
        aside.open("wb") as raw,
        # Without a time in its header, so that the same cuts are the same bytes.
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file,
    ):
        for cut in _cuts(reader, output):
            file.write(json.dumps(cut, ensure_ascii=False).encode("utf-8") + b"\n")
    return len(reader)


def _cuts(reader: ShardReader, output: Path) -> Iterator[dict[str, Any]]:
    for entry in reader.entries:
        path = output / "audio" / f"{entry.key}.flac"
        if not path.is_file():
            with written_aside(path) as aside:
                aside.write_bytes(reader.member(entry, "flac"))
        yield _cut(entry, reader.sample(entry), path)


def _cut(entry: IndexEntry, sample: Sample, path: Path) -> dict[str, Any]:
    custom = {
        "kind": sample.kind,
        "license": sample.license,
        "origin": sample.origin,
        "transforms": list(sample.transforms),
        "segments": [
            {
                "kind": s.kind,
                "text": s.text,
                "start": s.start / SAMPLE_RATE,
                "end": s.end / SAMPLE_RATE,
                "loss": s.loss,
                "role": s.role,
            }
            for s in sample.segments
        ],
    }
    text = " ".join(s.text.strip() for s in sample.segments if s.kind == "audio" and s.text)
    return {
        "id": entry.key,
        "start": 0,
        "duration": sample.seconds,
        "channel": 0,
        "supervisions": [
            {
                "id": entry.key,
                "recording_id": entry.key,
                "start": 0,
                "duration": sample.seconds,
                "channel": 0,
                "text": text,
                "language": sample.language,
                "speaker": sample.speaker,
                "custom": custom,
            }
        ],
        "recording": {
            "id": entry.key,
            "sources": [{"type": "file", "channels": [0], "source": str(path)}],
            "sampling_rate": SAMPLE_RATE,
            "num_samples": sample.samples,
            "duration": sample.seconds,
            "channel_ids": [0],
        },
        "type": "MonoCut",
    }
