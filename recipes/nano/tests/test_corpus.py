"""The corpus builder from end to end: engines, recordings, what is planned and what is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from baichuan_audio.config import load_recipe
from baichuan_audio.data.store.manifest import ClipStore
from nano.commands import make_corpus
from nano.corpus.build import CorpusRecipe

RECIPE = Path(__file__).parents[1] / "corpus.yaml"
SIZES = {"train_dialogues": 3, "validation_dialogues": 1, "test_dialogues": 1}
SIZES |= {"read_train": 1, "read_validation": 1, "read_test": 1}
ENGINES = all(shutil.which(program) for program in ("flite", "festival", "espeak-ng"))


def build(output: Path, *recordings: Path) -> int:
    sizes = [f"sizes.{name}={value}" for name, value in SIZES.items()]
    named = "recordings=" + json.dumps([str(path) for path in recordings])
    return make_corpus([str(RECIPE), named, *sizes, "--output", str(output)])


@pytest.mark.skipif(not ENGINES, reason="needs flite, festival and espeak-ng")
def test_a_corpus_stopped_on_the_way_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "libri" / "dev-clean" / "84" / "121"
    folder.mkdir(parents=True)
    soundfile.write(folder / "84-121-0000.flac", 0.1 * np.sin(np.arange(16_000, dtype=np.float32)), 16_000)
    (folder / "84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n")
    assert build(tmp_path / "corpus", tmp_path / "libri") == 0

    clips = ClipStore(tmp_path / "corpus" / "audio").clips
    real = [clip for clip in clips if clip.kind == "real"]
    assert [(clip.transcript, clip.language, clip.samples) for clip in real] == [("go do you hear", "en", 24_000)]
    rows = [json.loads(line) for line in (tmp_path / "corpus" / "dialogues.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "validation", "test"} and len(rows) == 5
    assert {clip.language for clip in clips} == {"en", "zh"} and all(clip.samples > 2400 for clip in clips)

    listing = tmp_path / "corpus" / "audio" / "clips.jsonl"
    listing.write_text("".join(listing.read_text().splitlines(keepends=True)[:-9]))
    assert build(tmp_path / "corpus", tmp_path / "libri") == 0
    again = ClipStore(tmp_path / "corpus" / "audio").clips
    assert sorted(clip.id for clip in again) == sorted(clip.id for clip in clips)


@pytest.mark.skipif(not ENGINES, reason="needs flite, festival and espeak-ng")
def test_missing_recordings_are_one_sentence_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(tmp_path / "corpus", tmp_path / "speech") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "speech: no recordings. Name a manifest" in told[0] and "recordings=[]" in told[0]
    assert not (tmp_path / "corpus").exists()


def test_the_recipe_of_nano_names_recordings() -> None:
    assert load_recipe(RECIPE, CorpusRecipe).recordings == ("../shared/speech/manifest.jsonl",)
    assert load_recipe(RECIPE, CorpusRecipe, ["recordings=[]"]).recordings == ()
