"""What goes into the pipeline: manifests of every form."""

from __future__ import annotations

from pathlib import Path

import pytest

from baichuan_audio.data.pipeline.sources import read_sources
from baichuan_audio.errors import DataError


def test_a_table_is_a_manifest_too(tmp_path: Path):
    (tmp_path / "m.csv").write_text("path,language,transcript,license\nb.wav,,,CC0\na.wav,en,Hello.,\n")
    sources = read_sources(tmp_path / "m.csv", tmp_path / "work", license="own")
    assert [(s.id, s.language, s.transcript, s.license) for s in sources] == [
        ("a", "en", "Hello.", "own"),
        ("b", None, None, "CC0"),
    ]


def test_a_row_without_a_path_is_named(tmp_path: Path):
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav", "license": "x"}\n\n{"file": "b.wav"}\n')
    with pytest.raises(DataError, match=r"m\.jsonl, line 3: the row has no `path`"):
        read_sources(tmp_path / "m.jsonl", tmp_path / "work")
