"""The tokenizer stage that starts from a Whisper model: its encoder learns slowly, its text decoder not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_whisper import AUDIO, WIDTH, WORDS, make_whisper

from baichuan_audio.data.store.manifest import ClipWriter
from baichuan_audio.errors import CheckpointError
from baichuan_audio.pretrained.whisper import read_whisper
from baichuan_audio.training.common.distributed.world import World
from baichuan_audio.training.common.optim import gradient_norms, make_optimizer, optimizer_step, with_gradients
from baichuan_audio.training.common.recipe import OptimizerRecipe
from baichuan_audio.training.tokenizer import train as stage
from baichuan_audio.training.tokenizer.frozen_whisper import FrozenWhisper, is_whisper
from baichuan_audio.training.tokenizer.recipe import AugmentRecipe, LossWeights, TokenizerRecipe


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Whisper model in Hugging Face's layout, with a tokenizer of four words."""
    folder = tmp_path_factory.mktemp("whisper")
    make_whisper(folder)
    return folder


@pytest.fixture
def recipe(whisper: Path, tmp_path: Path) -> TokenizerRecipe:
    random = np.random.default_rng(0)
    with ClipWriter(tmp_path / "corpus") as writer:
        for index in range(8):
            time = np.arange(int(24000 * 0.7)) / 24000
            tone = 0.3 * np.sin(2 * np.pi * (200 + 200 * (index % 4)) * time) + 0.01 * random.standard_normal(len(time))
            fields = {"language": "en", "speaker": "tone", "transcript": WORDS[index % 4], "source": "tests"}
            fields |= {"license": "CC0-1.0", "split": "validation" if index == 7 else "train", "kind": "read"}
            writer.add(tone.astype(np.float32), id=f"clip{index}", **fields)
    (tmp_path / "config.json").write_text(json.dumps({"audio_config": AUDIO, "vocoder_config": {"channels": [16, 16]}}))
    return TokenizerRecipe(
        output=str(tmp_path / "run"),
        config=str(tmp_path / "config.json"),
        dataset=str(tmp_path / "corpus"),
        steps=40,
        log_every=1,
        sample_every=40,
        checkpoint_every=40,
        batch_seconds=4.0,
        min_seconds=0.1,
        encoder=str(whisper),
        text_model=str(whisper),
        encoder_lr_ratio=0.1,
        quantize_start_step=10,
        ramp_steps=5,
        optimizer=OptimizerRecipe(learning_rate=3e-3, warmup_steps=2),
        augment=AugmentRecipe(speed_range=(1.0, 1.0), noise_share=0.0, gain_db_range=(0.0, 0.0)),
        weights=LossWeights(text=2.0, phonetic=0.0),
    )


def test_it_learns_the_words_through_the_frozen_decoder(recipe: TokenizerRecipe):
    stage.train(recipe)
    rows = [json.loads(line) for line in (Path(recipe.output) / "log.jsonl").read_text().splitlines()]
    losses = [row["text"] for row in rows if "text" in row]
    assert len(losses) == recipe.steps and sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert any("validation/text_en" in row for row in rows)


def test_it_starts_as_the_whisper_encoder(recipe: TokenizerRecipe, whisper: Path):
    tokenizer, head = stage.build(recipe)
    source = read_whisper(whisper).encoder_state()
    state = tokenizer.encoder.state_dict()
    assert source and all(torch.equal(state[name], tensor) for name, tensor in source.items())
    text_model = FrozenWhisper(whisper, head.spread.in_features)
    decoder = text_model._frozen[0]
    assert not any(name.startswith("_frozen") for name, _ in text_model.named_parameters())
    vectors = torch.randn(2, 3, 4 * WIDTH, requires_grad=True)
    text_model.loss(vectors, torch.tensor([3, 2]), ["one", "two"], ["en", "en"]).backward()
    assert vectors.grad[1, 2].abs().max() == 0 and vectors.grad[1, 1].abs().max() > 0, "padding has a gradient"
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert text_model.loss(vectors, torch.tensor([3, 2]), [None, ""], ["en", "en"]) is None


def test_the_language_is_part_of_the_prompt(whisper: Path):
    text_model = FrozenWhisper(whisper, 4 * WIDTH)
    torch.manual_seed(1)
    for parameter in text_model._frozen[0].parameters():
        torch.nn.init.normal_(parameter)
    inputs = torch.randn(1, 3, 4 * WIDTH), torch.tensor([3]), ["one"]
    assert not torch.equal(text_model.loss(*inputs, ["en"]), text_model.loss(*inputs, ["zh"]))


def test_pretrained_parameters_learn_at_their_share_of_the_rate():
    slow, fast = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    recipe = OptimizerRecipe(learning_rate=0.1, warmup_steps=0, schedule="constant", weight_decay=0.0)
    optimizer = make_optimizer([slow, fast], recipe, [slow], 0.1)
    (slow.sum() + fast.sum()).backward()
    parameters = with_gradients(optimizer)
    norms = gradient_norms(parameters, World())
    assert optimizer_step(optimizer, parameters, norms, recipe, 0, 10)["lr"] == 0.1
    assert torch.allclose(1 - slow, 0.1 * (1 - fast), rtol=1e-4) and bool((fast < 1).all())


def test_what_does_not_fit_is_one_sentence(recipe: TokenizerRecipe, whisper: Path, tmp_path: Path):
    assert is_whisper(whisper)
    config = json.loads(Path(recipe.config).read_text())
    config["audio_config"]["encoder_ffn_dim"] = 128
    (tmp_path / "other.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="encoder"):
        stage.build(replace(recipe, config=str(tmp_path / "other.json")))
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).write_bytes((whisper / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        FrozenWhisper(tmp_path / "bare", 4 * WIDTH)
