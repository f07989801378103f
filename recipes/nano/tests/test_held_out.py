"""What is held out never reaches training, and the sets made of it can be measured on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from baichuan_audio.config import load_recipe
from baichuan_audio.data.importers import read_manifest
from baichuan_audio.data.pipeline.recipe import PipelineRecipe
from baichuan_audio.errors import DataError
from baichuan_audio.evaluation.suites.registry import SUITES
from nano.commands import make_sets
from nano.evaluation.held_out import VOICES, facts, is_held_out, write_sets
from nano.questions.forms import FACT_FORMS

STAGES = Path(__file__).parents[1] / "stages"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two sentences of a reader, one of each a reader who is held out, and many words of unnamed people."""
    rows = []
    for path, language, speaker, text in (
        ("librispeech/1.flac", "en", "ls40", "Hello there."),
        ("librispeech/2.flac", "en", "ls19", "He began."),
        ("aishell1/1.flac", "zh", "S0252", "你好吗"),
        *((f"wakewords/{number}.flac", "en", "crowd", "computer") for number in range(120)),
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / path, np.full(4000, 0.1, np.float32), 16_000)
        facts_of_row = {"path": path, "language": language, "speaker": speaker, "transcript": text}
        rows.append(json.dumps(facts_of_row | {"license": "CC0", "source": "test"}) + "\n")
    file = tmp_path / "manifest.jsonl"
    file.write_text("".join(rows), encoding="utf-8")
    return file


def spoken(text: str, language: str, voice: str) -> NDArray[np.float32]:
    assert voice in VOICES[language]
    return np.full(2400, 0.1, np.float32)


def test_held_out_people_are_in_the_sets_and_not_in_training(manifest: Path, tmp_path: Path) -> None:
    assert make_sets(["training", str(manifest), str(tmp_path / "other" / "training.jsonl")]) == 0
    training = {each.path.resolve() for each in read_manifest(tmp_path / "other" / "training.jsonl")}
    held_out = {each.path.resolve() for each in read_manifest(manifest) if is_held_out(each)}
    assert all(path.is_file() for path in training) and not training & held_out
    assert {path.relative_to(tmp_path).as_posix() for path in held_out} >= {"librispeech/2.flac", "aishell1/1.flac"}
    assert 1 <= sum("wakewords" in str(path) for path in held_out) <= 15 < len(training)

    write_sets(manifest, tmp_path / "sets", spoken, ["今天天气很好。"] * 60, limit=3)
    suites = {name: SUITES[name].load(tmp_path / "sets" / name, True) for name in ("recordings", "reconstruction")}
    counts = {item.subset for item in suites["recordings"].items}
    assert counts == {"readers", "mandarin", "commands", "voices_en", "voices_zh", "no_speech"}
    assert [item.references for item in suites["recordings"].items if item.subset == "no_speech"] == [("",)] * 3
    assert {item.references for item in suites["reconstruction"].items} == {("He began.",), ("你好吗",)}
    asked = SUITES["openaudiobench"].load(tmp_path / "sets" / "openaudiobench", False).items
    assert [(item.question, item.references[0]) for item in asked] == facts()[:3]
    assert len(SUITES["seed_tts"].load(tmp_path / "sets" / "seed_tts", False).items) == 6


def test_recordings_without_anything_held_out_are_refused(manifest: Path, tmp_path: Path) -> None:
    first = manifest.read_text(encoding="utf-8").splitlines()[0]
    manifest.write_text(first + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="none of its recordings is held out"):
        write_sets(manifest, tmp_path / "sets", spoken, [])


def test_training_asks_no_fact_and_speaks_in_no_voice_of_the_sets() -> None:
    trained = {form.format(x=filler).lower() for form, fillers in FACT_FORMS for filler in fillers.split("|")}
    questions = [question for question, _ in facts()]
    assert len(set(questions)) == len(questions) > 100 and all(answers for _, answers in facts())
    assert not trained & {question.lower() for question in questions}
    for name in ("speech", "sentences"):
        recipe = load_recipe(STAGES / f"{name}.yaml", PipelineRecipe)
        voices = "\n".join([*recipe.synthesise.voices, *recipe.synthesise.reply_voices])
        assert not [voice for of_language in VOICES.values() for voice in of_language if voice in voices]
