"""The stages of nano: commands that exist, recipes that their entries fit, inputs that something writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from baichuan_audio.assembled import BaseModel
from baichuan_audio.checkpoint import read_json
from baichuan_audio.config import load_recipe, strict
from baichuan_audio.data.pipeline.recipe import PipelineRecipe
from baichuan_audio.errors import ConfigError
from baichuan_audio.training.common.recipe import load_stage_recipe
from baichuan_audio.training.language_model.recipe import LanguageModelRecipe
from baichuan_audio.training.stages import STAGES
from nano.pipeline import Pipeline
from nano.stages import LLM, Settings, Stage, stages

ROOT = Path(__file__).parents[3]
SETTINGS = [Settings(speech="speech/manifest.jsonl"), Settings(quick=True)]


def every_stage(kind: str) -> list[Stage]:
    return [each for settings in SETTINGS for each in stages(settings) if each.command[2:3] == (kind,)]


@pytest.mark.parametrize("settings", SETTINGS, ids=["whole", "quick"])
def test_commands_exist_and_read_what_is_there(settings: Settings, parses: Callable[[Stage], list[str]]) -> None:
    pipeline = Pipeline(stages(settings), settings.work)
    assert len({each.name for each in pipeline.stages}) == len(pipeline.stages)
    made: set[str] = set()
    for each in pipeline.stages:
        unknown = [path for path in each.inputs if path not in made and not (ROOT / path).is_file()]
        assert each.outputs and not unknown, each.name
        made |= set(each.outputs)
        parses(each)
    assert settings.output in made


def test_entries_fit_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for each in every_stage("train"):
        recipe = load_stage_recipe(each.command[4], STAGES[each.command[3]].recipe, each.command[5:])
        assert recipe.output == each.outputs[0]
        if isinstance(recipe, LanguageModelRecipe):
            assert not isinstance(recipe.dataset, str) and recipe.dataset
            assert {shards.path for shards in recipe.dataset} == {path for path in each.inputs if "codes" in path}
            assert recipe.init_from.removesuffix("/model") in each.inputs


def test_data_recipes_take_their_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for each in every_stage("data"):
        if each.command[3] == "run":
            recipe = load_recipe(each.command[4], PipelineRecipe, each.command[5:])
            assert (recipe.output,) == each.outputs


def test_the_rehearsal_touches_the_same_stages_and_needs_no_recordings() -> None:
    whole, quick = ([each.name for each in stages(settings)] for settings in SETTINGS)
    assert quick == [name for name in whole if "recordings" not in name and name != "sets"]


def test_a_trained_tokenizer_stands_for_its_stage() -> None:
    made = {each.name: each for each in stages(Settings(speech="speech/manifest.jsonl", tokenizer="ours.safetensors"))}
    assert "tokenizer" not in made
    assert "ours.safetensors" in made["start"].inputs and "ours.safetensors" in made["start"].command
    assert "codebook_source=ours.safetensors" in made["lm_stage1"].command


def test_the_base_is_the_one_that_training_starts_from() -> None:
    entry = strict(BaseModel, read_json(ROOT / "recipes/nano/stages/base_model.json"), "base_model.json")
    assert list(entry.files) == [LLM]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"NANO": "fast"}, "NANO must be quick, or next as where it is not set, not 'fast'"),
        ({}, "SPEECH must name a manifest of recordings"),
        ({"NANO": "next"}, "SPEECH must name a manifest of recordings"),
        ({"NANO": "next", "SPEECH": "nowhere.jsonl"}, "SPEECH must name a manifest of recordings"),
        ({"NANO": "quick", "TOKENIZER": "nowhere.safetensors"}, "TOKENIZER: there is no file nowhere.safetensors"),
    ],
)
def test_bad_settings_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.from_environment(environment)
