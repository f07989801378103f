"""Vocoder training: loss falls, resuming is exact, HiFT and discriminators take part."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baichuan_audio.data.store.manifest import ClipStore, ClipWriter
from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.training.common.checkpointing import module_weights
from baichuan_audio.training.common.recipe import OptimizerRecipe, load_stage_recipe
from baichuan_audio.training.vocoder.losses import SpectralLoss, pitch
from baichuan_audio.training.vocoder.train import VocoderCrops, VocoderRecipe, train
from baichuan_audio.vocoder.discriminators import DiscriminatorConfig
from baichuan_audio.vocoder.hift import HiftConfig, load_hift
from baichuan_audio.vocoder.vocos import VocosConfig

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Ten short harmonic sounds."""
    time = np.arange(24000) / 24000
    with ClipWriter(tmp_path / "store") as writer:
        for i in range(10):
            tone = sum(np.sin(2 * np.pi * (100 + 20 * i) * h * time) / h for h in range(1, 6)) * 0.15
            writer.add(
                (tone[: 24000 - 2000 * i]).astype(np.float32),
                id=f"clip{i}",
                language="en",
                speaker="tone",
                transcript=None,
                source="synthetic",
                license="none",
                split="validation" if i == 9 else "train",
                kind="answer" if i % 2 else "real",
            )
    return tmp_path / "store"


@pytest.fixture
def recipe(store: Path, tmp_path: Path) -> VocoderRecipe:
    return VocoderRecipe(
        dataset=str(store),
        output=str(tmp_path / "out"),
        steps=12,
        threads=1,
        log_every=1,
        sample_every=100,
        checkpoint_every=100,
        vocos=VocosConfig(dim=24, ffn_dim=32, num_layers=1),
        batch_size=2,
        crop_frames=10,
        fft_sizes=(256, 512),
        num_loss_mel_bins=20,
        optimizer=OptimizerRecipe(learning_rate=4e-3, betas=(0.8, 0.99), warmup_steps=1, grad_clip=10.0),
        discriminators=DiscriminatorConfig(periods=(2,), period_channels=2, fft_sizes=(256,), fft_channels=2),
    )


def losses(recipe: VocoderRecipe) -> list[float]:
    rows = map(json.loads, Path(recipe.output, "log.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def weights(recipe: VocoderRecipe) -> dict[str, torch.Tensor]:
    names = ("vocoder", "discriminators")
    return {f"{name}.{key}": value for name in names for key, value in module_weights(recipe.output, name).items()}


def test_the_loss_falls(recipe: VocoderRecipe) -> None:
    recipe = replace(recipe, source_weights={"real": 1.0}, gain_db=(0.0, 0.0))
    train(recipe)
    seen = losses(recipe)
    assert len(seen) == 12 and sum(seen[-3:]) < 0.95 * sum(seen[:3])
    assert Path(recipe.output, "vocoder.safetensors").is_file()
    assert list(Path(recipe.output, "samples").glob("*.wav"))


def test_a_stopped_run_resumes_exactly_and_only_asked_modules_learn(recipe: VocoderRecipe, tmp_path: Path) -> None:
    recipe = replace(recipe, steps=4, adversarial_start_step=1, predicted_f0_start_step=2)
    train(recipe)
    resumed = replace(recipe, output=str(tmp_path / "resumed"))
    train(resumed, stop_after=2)
    torch.rand(5)  # another process would not have this random state either
    train(resumed)
    one, other = weights(recipe), weights(resumed)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

    first = replace(recipe, steps=1, adversarial_start_step=-1, output=str(tmp_path / "first"))
    train(first)  # in the same state as the others before their discriminators took part
    assert any(not torch.equal(weights(first)[name], one[name]) for name in one if name.startswith("discriminators."))
    for changed in ({"adversarial": 0.0}, {"feature_matching": 0.0}):
        without = replace(recipe, weights=replace(recipe.weights, **changed), output=str(tmp_path / "_".join(changed)))
        train(without)
        other = weights(without)
        assert any(not torch.equal(other[name], one[name]) for name in one if name.startswith("vocoder."))

    silent = replace(recipe, adversarial_start_step=-1, output=str(tmp_path / "silent"))
    train(silent, stop_after=1)
    start = {name: module_weights(tmp_path / "silent", name) for name in ("vocoder", "discriminators")}
    train(silent)
    end = weights(silent)
    for name, tensor in start["discriminators"].items():
        assert torch.equal(end[f"discriminators.{name}"], tensor)
    assert all(not torch.equal(end[f"vocoder.{name}"], tensor) for name, tensor in start["vocoder"].items())


def test_hift_trains_and_resumes_from_its_file(recipe: VocoderRecipe, tmp_path: Path) -> None:
    hift = HiftConfig(base_channels=8, f0_channels=8, residual_kernels=(3,), num_dilations=1, source_kernels=(3, 3, 3))
    recipe = replace(
        recipe, architecture="hift", hift=hift, crop_frames=8, gain_db=(0.0, 0.0), source_weights={"real": 1.0}
    )
    train(recipe)
    seen = losses(recipe)
    assert sum(seen[-3:]) < sum(seen[:3])
    file = Path(recipe.output, "hift.pt")
    assert load_hift(file).config == hift
    train(replace(recipe, init_from=str(file), steps=1, output=str(tmp_path / "again")))
    assert losses(replace(recipe, output=str(tmp_path / "again")))[0] < seen[0]


def test_batches_depend_on_seed_and_step_only(recipe: VocoderRecipe, store: Path) -> None:
    sampler = VocoderCrops(ClipStore(store), recipe, 4800)
    again = VocoderCrops(ClipStore(store), recipe, 4800)
    assert torch.equal(sampler.waveforms(sampler.crops(5)), again.waveforms(again.crops(5)))
    assert not torch.equal(sampler.waveforms(sampler.crops(5)), sampler.waveforms(sampler.crops(6)))
    assert sampler.waveforms(sampler.crops(0)).shape == (2, 4800)
    with pytest.raises(DataError, match="no usable clip of the sources question"):
        VocoderCrops(ClipStore(store), replace(recipe, source_weights={"question": 1.0}), 4800)


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(ConfigError, match="architecture"):
        load_stage_recipe(RECIPES / "nano" / "stages" / "vocoder.yaml", VocoderRecipe, ["architecture=griffin"])


def test_pitch_of_harmonic_sounds() -> None:
    time = torch.arange(12000) / 24000
    for hz in (90.0, 150.0, 240.0, 400.0):
        tone = sum(torch.sin(2 * torch.pi * hz * h * time) / h for h in range(1, 6)) * 0.2
        f0, voiced = pitch(tone[None], 24000, 480)
        assert f0.shape == (1, 25) and voiced[0, 3:-3].min() == 1
        assert (f0[0, 3:-3] / hz - 1).abs().max() < 0.03
    assert pitch(torch.zeros(1, 4800), 24000, 480)[1].sum() == 0


def test_spectral_loss_is_zero_for_equal_waveforms() -> None:
    loss = SpectralLoss((256,), 24000, 20)
    waveform = torch.randn(1, 4800)
    assert all(float(value) == 0 for value in loss(waveform, waveform).values())
    assert all(float(value) > 0.05 for value in loss(waveform, waveform.flip(-1)).values())


def test_a_vocos_goes_on_from_its_file(recipe: VocoderRecipe, tmp_path: Path) -> None:
    train(recipe)
    file = Path(recipe.output, "vocoder.safetensors")
    on = replace(recipe, init_from=str(file), steps=1, output=str(tmp_path / "on"))
    train(on)
    assert losses(on)[0] < losses(recipe)[0]
    assert (tmp_path / "on" / "vocoder.safetensors").read_bytes() != file.read_bytes()


def test_without_kinds_all_training_clips_are_drawn(store: Path, recipe: VocoderRecipe) -> None:
    sampler = VocoderCrops(ClipStore(store), recipe, 4800)
    drawn = {crop.clip.id for step in range(40) for crop in sampler.crops(step)}
    assert drawn == {clip.id for clip in ClipStore(store).clips if clip.split == "train"}
