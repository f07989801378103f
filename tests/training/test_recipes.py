"""Recipes of all stages: shipped files are valid, old names are read with a warning, mistakes are named alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from baichuan_audio.errors import ConfigError
from baichuan_audio.training import STAGE_NAMES
from baichuan_audio.training.common.recipe import RENAMED_KEYS, load_stage_recipe
from baichuan_audio.training.stages import STAGES

RECIPES = Path(__file__).parents[2] / "recipes"
STAGE_OF = {"flow_voice": "flow"}
FOLDERS = ("nano/stages", "base-7b", "ablations")
DATA = ("speech", "sentences", "recordings")  # of the data pipeline
SHIPPED = sorted(
    {path for folder in FOLDERS for path in RECIPES.glob(f"{folder}/*.yaml")}
    - {RECIPES / f"nano/stages/{name}.yaml" for name in DATA}
)


def stage_of(path: Path) -> str:
    return "lm" if path.stem.startswith("lm_") else STAGE_OF.get(path.stem, path.stem)


def set_entry(values: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    values[last] = value


def entry(values: dict[str, Any], name: str) -> Any:
    *groups, last = name.split(".")
    for group in groups:
        values = values.get(group) or {}
    return values.get(last)


def remove_entry(values: dict[str, Any], name: str) -> None:
    *groups, last = name.split(".")
    for group in groups:
        values = values[group]
    del values[last]


def test_every_stage_has_a_recipe_and_a_function() -> None:
    assert set(STAGES) == set(STAGE_NAMES)
    common = {"output", "steps", "seed", "threads", "device", "log_every", "sample_every", "checkpoint_every"}
    for stage in STAGES.values():
        names = set(stage.recipe.__dataclass_fields__)
        assert common | {"dataset", "optimizer"} <= names and not {"corpus", "clips", "data", "initial"} & names


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_shipped_recipes_are_valid_and_old_names_mean_the_same(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_class = STAGES[stage_of(path)].recipe
    recipe = load_stage_recipe(path, recipe_class)
    assert not capsys.readouterr().err
    seen = 0
    for old, new in RENAMED_KEYS.items():
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        value = entry(values, new)
        if value is None or (old.partition(".")[0] in recipe_class.__dataclass_fields__ and "." not in old):
            continue
        remove_entry(values, new)
        set_entry(values, old, value)
        (tmp_path / "old.yaml").write_text(json.dumps(values), encoding="utf-8")
        assert load_stage_recipe(tmp_path / "old.yaml", recipe_class) == recipe, old
        warning = capsys.readouterr().err
        assert warning.count("\n") == 1 and f"'{old}' is now called '{new}'" in warning
        seen += 1
    assert seen >= 2


def test_mistakes_are_one_error_in_every_stage(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for name, stage in STAGES.items():
        shipped = next(path for path in SHIPPED if stage_of(path) == ("lm" if name == "sft" else name))
        values = yaml.safe_load(shipped.read_text(encoding="utf-8"))
        for change, message in (
            ({"stepz": 3}, "unknown entry 'stepz'; did you mean 'steps'"),
            ({"steps": 0}, "steps must be at least 1"),
            ({"optimizer": {"schedule": "step"}}, "schedule must be"),
            ({"log_every": "often"}, "log_every must be of type int"),
        ):
            path.write_text(json.dumps(values | change), encoding="utf-8")
            with pytest.raises(ConfigError, match=message):
                load_stage_recipe(path, stage.recipe)
        path.write_text(json.dumps(values | {"dataset": "a", "corpus": "b"}), encoding="utf-8")
        with pytest.raises(ConfigError, match="'corpus' is now called 'dataset', and both are given"):
            load_stage_recipe(path, stage.recipe)


def test_overrides_may_have_old_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe_class = STAGES["tokenizer"].recipe
    path = tmp_path / "r.yaml"
    path.write_text("output: x\nsteps: 3\nconfig: c\nclips: {corpus: y, max_seconds: 5}\n")
    recipe = load_stage_recipe(path, recipe_class, ["clips.seconds_per_step=9", "mel_from=2"])
    assert (recipe.dataset, recipe.crop_seconds, recipe.batch_seconds, recipe.mel_start_step) == ("y", 5.0, 9.0, 2)  # type: ignore[attr-defined]
    assert capsys.readouterr().err.count("is now called") == 4
