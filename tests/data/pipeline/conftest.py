"""A few sources, whole and broken, and a recipe whose backends need no network and no download."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from baichuan_audio.config import strict
from baichuan_audio.data.pipeline.recipe import PipelineRecipe

SIMPLE = {
    "vad": {"backend": "energy"},
    "speakers": {"backend": "spectrum", "change": 0.0, "change_given": 0.0, "distance": 0.5, "mixture": 9.0},
    "language": {"backend": "declared"},
    "quality": {"mos": 0.0},
    "recognise": {"recognisers": []},
    "align": {"aligners": ["proportional"]},
    "duplicates": {"difference": 0.2},
}


def speech_like(seconds: float, seed: int, rate: int = 24_000) -> np.ndarray:
    """Noise with the rhythm of speech: it passes the filters of signal measures and needs no recording."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    syllables = np.clip(np.sin(2 * np.pi * (3 + 0.2 * seed) * time), 0, None) ** 0.5
    return (0.1 * rng.standard_normal(len(time)) * syllables).astype(np.float32)


def write_sources(folder: Path, count: int = 4, seconds: float = 3.0) -> Path:
    """A manifest of made-up recordings, each its words "one two three ..."."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        path = folder / f"clip{number}.wav"
        soundfile.write(path, speech_like(seconds, number), 24_000)
        rows.append(
            {
                "path": path.name,
                "language": "en",
                "speaker": None,
                "transcript": "one two three four five",
                "license": "CC0-1.0",
                "source": "tests",
            }
        )
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def simple_recipe(root: Path, manifest: Path, **entries: object) -> PipelineRecipe:
    values = {**SIMPLE, "sources": str(manifest), "work": str(root / "work"), "output": str(root / "shards"), **entries}
    return strict(PipelineRecipe, values, "recipe")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_sources(tmp_path / "sources")
