"""Tensor parallelism of the backbone: the losses, states and models of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_workspace import TEXTS, WORDS, make_workspace, random_model, recipe
from processes import run_in
from test_distributed import COMMON, assert_equal, gradients, steps

import baichuan_audio
from baichuan_audio.errors import ConfigError, TrainingError
from baichuan_audio.language_model.backbone import BackboneConfig
from baichuan_audio.language_model.build_tokenizer import build_text_tokenizer
from baichuan_audio.training.common.distributed.tensor_parallel import check_split
from baichuan_audio.training.common.distributed.world import processes
from baichuan_audio.training.language_model import train as language_model
from baichuan_audio.training.language_model.recipe import LanguageModelRecipe
from baichuan_audio.training.language_model.validation import Validation

pytestmark = pytest.mark.usefixtures("plain_log")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers, whose four heads share two keys."""
    folder = make_workspace(tmp_path_factory.mktemp("tensor"))
    config = json.loads((folder / "template.json").read_text())
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    random_model(config, build_text_tokenizer(TEXTS, WORDS), folder / "model")
    return folder


def changed(root: Path, output: Path, **changes: Any) -> LanguageModelRecipe:
    settings = {"stage": "stage2", "validation_sequences": 2, "checkpoint_every": 2, "sample_every": 2}
    settings |= {"packing": True, "packs_per_step": 2, "tokens_per_step": 300}
    return recipe(root, output, **COMMON | settings | changes)


def validation(settings: LanguageModelRecipe, output: Path) -> float:
    """Of the model that a run has saved, by this process."""
    model = baichuan_audio.load(output / "model", dtype=torch.float32)
    return Validation(settings, model).measure()["validation/text"]


@pytest.mark.parametrize("muon", [False, True])
def test_it_trains_as_one_process_and_goes_on_with_any_number(root: Path, tmp_path: Path, muon: bool) -> None:
    """4 processes (2 shards of 2) -> 1 -> 2 (one shard of 2)."""
    one, parts = tmp_path / "one", tmp_path / "parts"
    language_model.train(changed(root, one, steps=6, sample_every=6, muon=muon))
    for last, count, tensor in ((2, 4, 2), (4, 1, 1), (6, 2, 2)):
        settings = changed(root, parts, steps=last, muon=muon, tensor_parallel=tensor)
        run_in(count, lambda rank, settings=settings: language_model.train(settings), tensor)
        assert validation(settings, parts) == pytest.approx(steps(parts, "validation/text")[last], rel=1e-5)
    for name in ("loss", "grad_norm"):
        assert list(steps(one, name).values()) == pytest.approx(list(steps(parts, name).values()), rel=1e-5), name
    assert steps(one, "samples_crc") == steps(parts, "samples_crc")


def test_it_has_the_gradient_of_one_process(root: Path, tmp_path: Path) -> None:
    """Of every parameter; with layers computed again too."""

    def of(**changes: Any) -> dict[str, torch.Tensor]:
        return gradients(lambda: language_model.train(changed(root, tmp_path, stage="sft", **changes)))

    whole = of()
    norm = float(torch.stack([gradient.norm() for gradient in whole.values()]).norm())
    for split in run_in(2, lambda rank: [of(tensor_parallel=2), of(activation_checkpointing=True)], 2)[1]:
        assert split["parts.language_model.layers.1.self_attn.W_pack.bias"].any()
        assert_equal(split, whole, floor=1e-6 * norm)


def test_what_cannot_be_split_is_one_sentence(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel must be at least 1, and 1 with an `adapter`"):
        changed(root, tmp_path, tensor_parallel=0)
    config = BackboneConfig.from_config(json.loads((root / "model" / "config.json").read_text()))
    with pytest.raises(ConfigError, match="4 processes cannot share 2 key and value heads"):
        check_split(config, 4)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "3")
    with pytest.raises(TrainingError, match="2 does not divide the 3 processes"), processes("cpu", tensor=2):
        pass
