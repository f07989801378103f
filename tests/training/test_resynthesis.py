"""Codes to sound as one: losses fall, encoder and codebooks stay, resuming is exact, what it makes fits a model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from baichuan_audio.checkpoint import load
from baichuan_audio.data.store.codes_store import CodesStore, write_codes
from baichuan_audio.data.store.manifest import ClipWriter
from baichuan_audio.errors import ConfigError, TrainingError
from baichuan_audio.training.common.assemble import assemble
from baichuan_audio.training.common.checkpointing import module_weights, save_training_state
from baichuan_audio.training.common.distributed.world import World
from baichuan_audio.training.common.recipe import OptimizerRecipe
from baichuan_audio.training.tokenizer.text_loss import PhoneticHead
from baichuan_audio.training.vocoder.resynthesis import (
    CodesToWaveform,
    PerceptualLoss,
    ResynthesisBatches,
    ResynthesisRecipe,
    to_rate,
    train,
)

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def workspace(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of tones, their codes by the base's tokenizer, and an ear that was never taught."""
    root = tmp_path_factory.mktemp("resynthesis")
    tokenizer = load(base).tokenizer
    codes = {}
    with ClipWriter(root / "corpus") as writer:
        for number, seconds in enumerate([0.9, 1.6, 1.21, 1.1]):
            time = np.arange(int(seconds * 24_000)) / 24_000
            tone = sum(np.sin(2 * np.pi * (120 + 30 * number) * h * time) / h for h in range(1, 6)) * 0.1
            tone = (tone * (1 + np.sin(9 * time))).astype(np.float32)
            writer.add(
                tone, id=f"c{number}", language="en", speaker="s", transcript=None, source="synthetic",
                license="CC0", split="train" if number < 3 else "validation", kind="answer",
            )  # fmt: skip
            codes[f"c{number}"] = tokenizer.encode(torch.from_numpy(tone), 24_000)
    write_codes(codes, root / "codes")
    torch.manual_seed(3)
    head = PhoneticHead(tokenizer.config.d_model * tokenizer.config.avg_pooler, 16)
    save_training_state(root / "ear", 1, {"tokenizer": tokenizer, "phonetic_head": head}, {})
    return root


@pytest.fixture
def recipe(base: Path, workspace: Path, tmp_path: Path) -> ResynthesisRecipe:
    return ResynthesisRecipe(
        output=str(tmp_path / "out"),
        steps=12,
        config=str(base / "config.json"),
        decoder_checkpoint=str(base),
        vocoder=str(base / "vocoder.safetensors"),
        perceptual_model=str(workspace / "ear"),
        dataset=str(workspace / "corpus"),
        codes=str(workspace / "codes"),
        source_weights={"answer": 1.0},
        crop_seconds=0.8,
        batch_seconds=1.6,
        fft_sizes=(512, 1024),
        optimizer=OptimizerRecipe(learning_rate=3e-3, warmup_steps=2),
        threads=1,
        log_every=1,
        sample_every=12,
        checkpoint_every=6,
    )


def parts_of(output: str | Path) -> dict[str, Tensor]:
    names = ("tokenizer", "flow", "vocoder")
    return {f"{name}.{key}": value for name in names for key, value in module_weights(output, name).items()}


def test_losses_fall_and_only_what_speaks_learns(recipe: ResynthesisRecipe, base: Path) -> None:
    train(recipe)
    rows = [json.loads(line) for line in (Path(recipe.output) / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert {"validation/sounds", "validation/features", "validation/mel_mae"} <= set(rows[-1])
    assert list((Path(recipe.output) / "samples").glob("*.wav"))

    before = load(base, dtype=torch.float32)
    old = {f"{name}.{key}": value for name in ("tokenizer", "flow", "vocoder")
           for key, value in getattr(before, name).state_dict().items()}  # fmt: skip
    changed = {name for name, value in parts_of(recipe.output).items() if not torch.equal(value, old[name])}
    assert not any(name.startswith(("tokenizer.encoder", "tokenizer.bridge.vq")) for name in changed)
    assert not any(name.startswith("flow.conditional_decoder") for name in changed)
    assert any(name.startswith("tokenizer.decoder.layers") for name in changed)
    assert any(name.startswith("flow.prenet") for name in changed)
    assert any(name.startswith("vocoder.blocks") for name in changed)


def test_a_stopped_run_resumes_exactly(recipe: ResynthesisRecipe, tmp_path: Path) -> None:
    unbroken = replace(recipe, steps=5, output=str(tmp_path / "unbroken"))
    train(unbroken)
    broken = replace(unbroken, output=str(tmp_path / "broken"))
    train(broken, stop_after=2)
    train(broken)
    wanted, got = parts_of(unbroken.output), parts_of(broken.output)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)


def test_what_it_makes_is_a_models_part(recipe: ResynthesisRecipe, base: Path, tmp_path: Path) -> None:
    train(replace(recipe, steps=2))
    out, made = Path(recipe.output), tmp_path / "model"
    assemble(base, made, tokenizer=str(out), flow=str(out), vocoder=str(out / "vocoder.safetensors"))
    old, new = load(base), load(made)
    noise = 0.1 * torch.randn(24_000, generator=torch.Generator().manual_seed(1))
    codes = old.tokenizer.encode(noise, 24_000)
    assert torch.equal(codes, new.tokenizer.encode(noise, 24_000))
    assert not torch.equal(old.tokenizer.decode(codes), new.tokenizer.decode(codes))


def test_a_batch_holds_what_was_said(recipe: ResynthesisRecipe, workspace: Path) -> None:
    batches = ResynthesisBatches(recipe, CodesToWaveform(recipe))
    codes, waveforms, mels = batches.batch(0, World())[0]
    frames = 4 * codes.shape[2] - 1
    assert waveforms.shape == (len(codes), frames * 480) and mels.shape == (len(codes), 80, frames)
    again = batches.batch(0, World())[0]
    assert all(torch.equal(a, b) for a, b in zip(again, (codes, waveforms, mels), strict=True))
    assert not torch.equal(batches.batch(1, World())[0][1], waveforms)


def test_crops_at_the_edges_begin_or_end_with_their_clip(recipe: ResynthesisRecipe, workspace: Path) -> None:
    speaker = CodesToWaveform(recipe)
    clips = [codes for name, codes in _codes(workspace).items() if name != "c3"]
    for share, all_at_edges in ((1.0, True), (0.0, False)):
        batches = ResynthesisBatches(replace(recipe, boundary_crop_prob=share), speaker)
        rows = [row for step in range(8) for row in batches.batch(step, World())[0][0]]
        at_edge = [
            any(
                torch.equal(row, part) for clip in clips for part in (clip[:, : row.shape[1]], clip[:, -row.shape[1] :])
            )
            for row in rows
        ]
        assert all(at_edge) == all_at_edges


def _codes(workspace: Path) -> dict[str, Tensor]:
    store = CodesStore(workspace / "codes")
    return {f"c{number}": store[f"c{number}"] for number in range(4)}


def test_the_ear_is_frozen_and_tells_sounds_apart(recipe: ResynthesisRecipe) -> None:
    perceptual_loss = PerceptualLoss(recipe)
    made = (0.1 * torch.randn(2, 48 * 480)).requires_grad_()
    same = perceptual_loss(made, made.detach())
    assert max(float(value.detach()) for value in same.values()) < 1e-6
    other = perceptual_loss(made, 0.1 * torch.randn(2, 48 * 480))
    sum(other.values()).backward()  # type: ignore[union-attr]
    assert made.grad is not None and float(made.grad.abs().sum()) > 0
    assert all(float(other[name].detach()) > 10 * float(same[name].detach()) for name in other)
    assert not any(parameter.requires_grad for parameter in perceptual_loss.parameters())


def test_resampling_keeps_what_both_rates_hold() -> None:
    time = torch.arange(24_000, dtype=torch.float64) / 24_000
    at_16k = torch.arange(16_000, dtype=torch.float64) / 16_000
    tone = torch.sin(2 * torch.pi * 440 * time) + torch.sin(2 * torch.pi * 10_000 * time)
    torch.testing.assert_close(to_rate(tone[None], 24_000, 16_000)[0], torch.sin(2 * torch.pi * 440 * at_16k))


def test_bad_inputs_are_named(recipe: ResynthesisRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="crop_seconds"):
        replace(recipe, crop_seconds=0.0)
    with pytest.raises(TrainingError, match="holds no training state"):
        train(replace(recipe, perceptual_model=str(tmp_path / "none")))
    config = json.loads(Path(recipe.config).read_text())
    config["flow_matching_config"]["diffusion_steps"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="diffusion_steps"):
        train(replace(recipe, config=str(tmp_path / "config.json")))
