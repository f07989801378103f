"""Flow training: losses fall, only the flow decoder learns, a resumed run equals the unbroken one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baichuan_audio.audio_tokenizer import AudioTokenizer
from baichuan_audio.data.store.codes_store import write_codes
from baichuan_audio.data.store.manifest import ClipWriter
from baichuan_audio.errors import ConfigError, DataError, TrainingError
from baichuan_audio.flow_decoder import FlowDecoder
from baichuan_audio.training.common.checkpointing import load_module, save_training_state
from baichuan_audio.training.common.distributed.world import World
from baichuan_audio.training.common.recipe import OptimizerRecipe
from baichuan_audio.training.flow.train import CodedCrops, FlowBatches, FlowRecipe, crop_mel, decoder_hidden, train

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tiny-a" / "checkpoint"
ROOT = Path(__file__).parents[2]


def tiny_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((FIXTURE / "config.json").read_text())
    config["flow_matching_config"] |= {"diffusion_steps": 2, "num_mid_blocks": 1, "channels": [16], "num_heads": 2}
    return config


def tone(seconds: float, pitch_hz: float) -> np.ndarray:
    time = np.arange(int(seconds * 24_000)) / 24_000
    return (0.3 * np.sin(2 * np.pi * pitch_hz * time) * (1 + np.sin(6 * time))).astype(np.float32) / 2


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of five tones, the codes and weights of a random tokenizer."""
    root = tmp_path_factory.mktemp("flow")
    (root / "config.json").write_text(json.dumps(tiny_config()))
    torch.manual_seed(0)
    tokenizer = AudioTokenizer.from_config(tiny_config()).eval()
    save_training_state(root / "tokenizer", 1, {"tokenizer": tokenizer}, {})
    codes = {}
    with ClipWriter(root / "corpus") as writer:
        for number, seconds in enumerate([0.9, 1.6, 2.1, 1.2, 1.1]):
            split = "train" if number < 4 else "validation"
            waveform = tone(seconds, 150 + 40 * number)
            writer.add(
                waveform, id=f"c{number}", language="en", speaker="s", transcript=None, source="synthetic",
                license="CC0", split=split, kind="answer" if number else "real",
            )  # fmt: skip
            codes[f"c{number}"] = tokenizer.encode(torch.from_numpy(waveform), 24_000)
    write_codes(codes, root / "corpus")
    return root


def recipe(root: Path, output: Path, **changes: Any) -> FlowRecipe:
    return FlowRecipe(
        **{
            "output": str(output),
            "steps": 6,
            "config": str(root / "config.json"),
            "tokenizer": str(root / "tokenizer"),
            "dataset": str(root / "corpus"),
            "optimizer": OptimizerRecipe(learning_rate=3e-3, warmup_steps=2),
            "crop_seconds": 0.8,
            "batch_seconds": 1.6,
            "log_every": 1,
            "sample_every": 1000,
            "checkpoint_every": 1000,
            "threads": 1,
            **changes,
        }
    )


def trained(output: Path) -> dict[str, Tensor]:
    flow = FlowDecoder.from_config(tiny_config())
    load_module(output, "flow", flow)
    return flow.state_dict()


def logged(output: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def test_losses_fall_and_samples_are_logged(workspace: Path, tmp_path: Path) -> None:
    fast = OptimizerRecipe(learning_rate=1e-2, warmup_steps=2)
    train(recipe(workspace, tmp_path, steps=40, sample_every=40, optimizer=fast))
    for name in ("loss", "prior"):
        values = logged(tmp_path, name)
        assert np.mean(values[-5:]) < 0.8 * np.mean(values[:5])
    assert len(logged(tmp_path, "validation/mel_mae")) == 1


def test_only_the_flow_decoder_learns(workspace: Path, tmp_path: Path) -> None:
    frozen = (workspace / "tokenizer" / "state-00000001" / "complete.json").read_bytes()
    train(recipe(workspace, tmp_path, steps=1))
    first = trained(tmp_path)
    train(recipe(workspace, tmp_path, steps=3))
    changed = {name for name, tensor in trained(tmp_path).items() if not torch.equal(tensor, first[name])}
    assert changed == set(first) - {"prenet.positional_embedding"}
    assert (workspace / "tokenizer" / "state-00000001" / "complete.json").read_bytes() == frozen


def test_the_velocity_network_may_learn_in_some_steps_only(workspace: Path, tmp_path: Path) -> None:
    train(recipe(workspace, tmp_path, steps=5, velocity_every=2))
    assert len(logged(tmp_path, "prior")) == 5 and len(logged(tmp_path, "flow")) == 3
    first = trained(tmp_path)
    train(recipe(workspace, tmp_path, steps=6, velocity_every=2, optimizer=OptimizerRecipe(weight_decay=0.0)))
    changed = {name for name, tensor in trained(tmp_path).items() if not torch.equal(tensor, first[name])}
    assert changed and all(name.startswith("prenet.") for name in changed)


def test_resumed_run_equals_the_unbroken_one(workspace: Path, tmp_path: Path) -> None:
    train(recipe(workspace, tmp_path / "whole"))
    train(recipe(workspace, tmp_path / "parts"), stop_after=3)
    torch.rand(5)  # what happens between the parts must not matter
    train(recipe(workspace, tmp_path / "parts"))
    whole, parts = trained(tmp_path / "whole"), trained(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert logged(tmp_path / "whole", "loss") == logged(tmp_path / "parts", "loss")


def test_batches_are_exact_crops(workspace: Path, tmp_path: Path) -> None:
    root = workspace
    tokenizer = AudioTokenizer.from_config(tiny_config()).eval()
    load_module(root / "tokenizer", "tokenizer", tokenizer)
    batches = FlowBatches(recipe(root, tmp_path), tokenizer, FlowDecoder.from_config(tiny_config()))
    (part,), names = batches.parts(3, World())
    hidden = decoder_hidden(tokenizer, part.codes)
    assert len(names) == len(part.codes) == part.mel.shape[0] and hidden.shape[1] >= part.mel.shape[2]
    (again,), _ = batches.parts(3, World())
    (other,), _ = batches.parts(4, World())
    assert torch.equal(part.codes, again.codes) and not torch.equal(part.codes, other.codes)
    clip, _, whole = batches.validation_clips()[0][0], *batches.validation_clips()[0][1:]
    crop = crop_mel(batches.crops.store, batches.crops.store[clip], 4, 3, batches.mel, batches.code_samples)
    torch.testing.assert_close(crop, whole[0, :, 16:28], rtol=1e-4, atol=1e-4)


def test_source_weights_set_the_share_of_each_kind(workspace: Path, tmp_path: Path) -> None:
    def crops(**source_weights: float) -> CodedCrops:
        settings = {"crop_seconds": 0.32, "batch_seconds": 3.2, "source_weights": source_weights}
        return CodedCrops(recipe(workspace, tmp_path, **settings), 12.5)

    sampler = crops(real=0.5, answer=0.5)
    rows = [clip.kind for step in range(60) for clip, _ in sampler(step)[1]]
    assert 0.4 < rows.count("real") / len(rows) < 0.6
    assert {clip.kind for clip, _ in crops(real=1.0)(0)[1]} == {"real"}
    with pytest.raises(DataError, match="no usable clip of the sources read"):
        crops(read=1.0)


def test_starts_from_a_checkpoint_directory(tmp_path: Path, workspace: Path) -> None:
    fixture = str(FIXTURE)
    start = recipe(workspace, tmp_path, config=f"{fixture}/config.json", tokenizer=fixture, init_from=fixture, steps=1)
    train(dataclasses.replace(start, optimizer=OptimizerRecipe(learning_rate=0.0)))


def test_bad_inputs_are_named(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="crop_seconds"):
        recipe(workspace, tmp_path, crop_seconds=9.0, batch_seconds=3.0)
    with pytest.raises(TrainingError, match="train that stage first"):
        train(recipe(workspace, tmp_path, tokenizer=str(tmp_path)))


def test_the_audio_decoder_may_learn_along_and_nothing_before_it(checkpoint_dir: Path) -> None:
    import baichuan_audio
    from baichuan_audio.training.flow.train import decoder_hidden, unfreeze_audio_decoder

    tokenizer = baichuan_audio.load(checkpoint_dir, dtype=torch.float32).tokenizer.requires_grad_(False)
    codes = torch.zeros(1, tokenizer.num_codebooks, 5, dtype=torch.long)
    assert not decoder_hidden(tokenizer, codes).requires_grad
    unfreeze_audio_decoder(tokenizer)
    decoder_hidden(tokenizer, codes).square().sum().backward()
    learning = {name for name, parameter in tokenizer.named_parameters() if parameter.grad is not None}
    assert learning and all(name.startswith(("decoder.", "bridge.proj_decoder.")) for name in learning)
    assert not any("dconv2" in name or "post_net" in name for name in learning)
