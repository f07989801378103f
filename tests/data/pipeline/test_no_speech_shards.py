"""Audio without speech from a recipe to a training batch: its transcript is empty, so the reply ends at once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baichuan_audio.cli import main
from baichuan_audio.config import load_recipe, strict
from baichuan_audio.data.mixture.config import ShardSet
from baichuan_audio.data.mixture.shard_sequences import ShardSequences
from baichuan_audio.data.pipeline.inspect_sample import describe
from baichuan_audio.data.pipeline.recipe import PipelineRecipe
from baichuan_audio.data.pipeline.run import run_pipeline
from baichuan_audio.data.store.clips_of_shards import add_clips
from baichuan_audio.data.store.export import export_lhotse
from baichuan_audio.data.store.manifest import ClipStore
from baichuan_audio.data.store.shards import ShardReader
from baichuan_audio.data.synth.no_speech import draw_item, render
from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.generation.transcription import transcription_prompt
from baichuan_audio.language_model.prompt import TRANSCRIBE_INSTRUCTION
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.training.language_model.data import sequence_format
from baichuan_audio.training.language_model.losses import losses
from baichuan_audio.training.language_model.steps import Collator
from conftest import CHECKPOINT

RECIPE = Path(__file__).parents[3] / "recipes" / "data" / "no_speech.yaml"


def no_speech_recipe(root: Path, **settings: Any) -> PipelineRecipe:
    entries = {"count": 12, "validation": 0.3, "seconds": [0.4, 1.2], **settings}
    values = {"work": str(root / "work"), "output": str(root / "shards"), "license": "CC0-1.0", "no_speech": entries}
    return strict(PipelineRecipe, values, "recipe")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> PipelineRecipe:
    made = no_speech_recipe(tmp_path_factory.mktemp("no_speech"))
    run_pipeline(made)
    return made


@pytest.fixture(scope="module")
def codes(recipe: PipelineRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("codes") / "codes"
    assert main(["data", "tokenize", recipe.output, "-o", str(output), "--model", str(CHECKPOINT)]) == 0
    return output


def test_every_item_becomes_a_sample_with_an_empty_transcript(recipe: PipelineRecipe):
    reader = ShardReader(recipe.output)
    items = {f"asr:{item.id}": item for item in (draw_item(recipe.no_speech, index) for index in range(12))}
    assert {entry.id for entry in reader.entries} == set(items) and {"train", "validation"} == {
        entry.split for entry in reader.entries
    }
    for entry in reader.entries:
        sample, item = reader.sample(entry), items[entry.id]
        assert [(s.kind, s.role, s.text, s.loss) for s in sample.segments] == [
            ("text", "prompt", TRANSCRIBE_INSTRUCTION, False),
            ("audio", "user", "", False),
            ("text", "reply", "", True),
        ]
        assert sample.split == entry.split == item.split and sample.license == "CC0-1.0"
        assert sample.transforms[0].startswith(item.form) and not sample.language and not sample.words
        assert np.abs(reader.waveform(entry) - render(item)).max() < 2 / 32768


def test_a_larger_set_goes_on_with_what_is_there(tmp_path: Path):
    first = run_pipeline(no_speech_recipe(tmp_path, count=4))
    assert first.ran == 8 and run_pipeline(no_speech_recipe(tmp_path, count=4)).ran == 0
    more = run_pipeline(no_speech_recipe(tmp_path, count=6))
    assert more.ran == 4 and {entry.id for entry in first.entries} < {entry.id for entry in more.entries}


@pytest.mark.parametrize("numbers", [None, (0, 1)], ids=["padded", "packed"])
def test_the_end_right_after_the_audio_is_all_that_is_learnt(
    model: BaichuanAudio, codes: Path, numbers: tuple[int, int] | None
):
    read = ShardSequences([ShardSet(str(codes))], sequence_format(model), languages=("en", "zh"))
    trained = [entry for entry in ShardReader(codes).entries if entry.split == "train"]
    assert len(read.sequences) == len(trained) and not read.left_out
    sequences = [stored.load() for stored in read.sequences[:2]]
    for stored, sequence in zip(read.sequences, sequences, strict=False):
        assert stored.length - len(sequence) in (0, 1)  # an encoder may give one frame less
        prompt = transcription_prompt(model.prompt_builder(), sequence.codes)
        assert sequence.ids.tolist() == [*prompt.ids.tolist(), model.special.end_of_text]
        assert sequence.text_loss.nonzero().tolist() == [[len(sequence) - 1]] and not sequence.audio_loss.any()
    batch = Collator(model)(sequences, numbers)
    assert batch.text.tolist() == 2 * [model.special.end_of_text]
    assert batch.ids.flatten()[batch.text_at].tolist() == 2 * [model.special.audio_end]
    assert batch.counts() == {"text": 2}
    (name,) = values = losses(model.language_model, model.audio_head, batch)
    assert name == "text" and torch.isfinite(values[name].nll).all()


def test_inspect_shows_the_empty_transcript(model: BaichuanAudio, codes: Path):
    reader = ShardReader(codes)
    entry = reader.entries[0]
    page = describe(reader.sample(entry), None, reader.codes(entry), (model.text_tokenizer, model.special))
    assert f"asr  -  -  {entry.seconds:.2f} s  split {entry.split}" in page
    assert " 2  text   reply   yes   -              -\n" in page and page.endswith("| end_of_text x1 t\n")


def test_other_stores_have_no_transcript_of_it(recipe: PipelineRecipe, tmp_path: Path):
    assert add_clips(recipe.output, tmp_path / "clips") == 12
    assert {clip.transcript for clip in ClipStore(tmp_path / "clips").clips} == {None}
    export_lhotse(recipe.output, tmp_path / "lhotse")
    with gzip.open(tmp_path / "lhotse" / "cuts.jsonl.gz", "rt") as file:
        assert {json.loads(line)["supervisions"][0]["text"] for line in file} == {""}


def test_the_shipped_recipe_is_planned_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shipped = load_recipe(RECIPE, PipelineRecipe)
    assert shipped.no_speech.count == 2000 and not shipped.across
    places = ["no_speech.count=50", f"work={tmp_path}", f"output={tmp_path / 'shards'}"]
    assert main(["data", "plan", str(RECIPE), *places, "--workers", "0", "--json"]) == 0
    hours = sum(draw_item(shipped.no_speech, index).seconds for index in range(50)) / 3600
    assert json.loads(capsys.readouterr().out)["hours"] == pytest.approx(hours, abs=1e-4)


def test_one_input_and_a_licence_are_needed(tmp_path: Path):
    with pytest.raises(ConfigError, match="one of the three"):
        strict(PipelineRecipe, {"texts": "texts.txt", "no_speech": {"count": 1}}, "recipe")
    with pytest.raises(ConfigError, match="one of the three"):
        strict(PipelineRecipe, {}, "recipe")
    with pytest.raises(DataError, match="no licence"):
        run_pipeline(strict(PipelineRecipe, {"work": str(tmp_path), "no_speech": {"count": 1}}, "recipe"))
