"""Adapters by recipe: the base stays, a small file comes out, and merging it gives the model that was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lm_workspace import log_of, make_workspace, recipe

import baichuan_audio
from baichuan_audio.adapters import AdapterConfig, load_adapters, merge_adapters, read_adapters
from baichuan_audio.cli.app import main
from baichuan_audio.data.mixture.config import MixtureConfig
from baichuan_audio.errors import CheckpointError, ConfigError
from baichuan_audio.generation.events import TextDelta
from baichuan_audio.training.common.recipe import OptimizerRecipe
from baichuan_audio.training.language_model.train import train

QUICK = OptimizerRecipe(learning_rate=2e-2, warmup_steps=2, schedule="constant")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def trained(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("adapters")
    train(recipe(workspace, output, adapter=AdapterConfig(rank=4), optimizer=QUICK))
    return output


def test_a_run_writes_adapters_alone(workspace: Path, trained: Path) -> None:
    losses = [row["loss"] for row in log_of(trained) if "loss" in row]
    assert losses[-1] < losses[0] and not (trained / "model").exists()
    stored = read_adapters(trained / "adapters.safetensors")  # refuses what changes nothing
    assert stored.config == AdapterConfig(rank=4) and len(stored.changes) == 5 + 4
    state = max((trained / "state").iterdir())
    assert state.stat().st_size < 6 * (trained / "adapters.safetensors").stat().st_size


def test_merged_by_the_command_equals_unmerged(workspace: Path, trained: Path, tmp_path: Path) -> None:
    base = baichuan_audio.load(workspace / "model", dtype=torch.float32)
    adapted = load_adapters(base, trained / "adapters.safetensors")
    arguments = [str(workspace / "model"), str(tmp_path / "merged"), str(trained / "adapters.safetensors")]
    assert main(["checkpoint", "merge", *arguments]) == 0
    merged = baichuan_audio.load(tmp_path / "merged")
    with torch.no_grad():
        out, due, plain = (model.language_model(torch.arange(20, 40)[None])[0] for model in (merged, adapted, base))
    assert float((out - due).norm() / due.norm()) <= 1e-5 < 1e-2 < float((plain - due).norm() / due.norm())

    def reply(model: baichuan_audio.BaichuanAudio) -> str:
        conversation = model.conversation(speak=False, seed=1)
        return "".join(piece.text for piece in conversation.ask("What is hot?") if isinstance(piece, TextDelta))

    assert reply(merged) == reply(merge_adapters(adapted)) != reply(base)
    assert main(["checkpoint", "merge", str(tmp_path / "merged"), str(tmp_path / "twice"), arguments[2]]) == 2


def test_several_files_are_merged_in_order(workspace: Path, trained: Path, tmp_path: Path) -> None:
    only = AdapterConfig(rank=2, targets=("audio_head.*",))
    train(recipe(workspace, tmp_path, adapter=only, optimizer=QUICK, steps=4))
    files = [trained / "adapters.safetensors", tmp_path / "adapters.safetensors"]
    both, first, second = (
        baichuan_audio.load(workspace / "model", adapters=adapters).state_dict() for adapters in (files, *files)
    )
    base = baichuan_audio.load(workspace / "model").state_dict()
    for name, tensor in base.items():
        torch.testing.assert_close(both[name] - first[name], second[name] - tensor, rtol=1e-4, atol=1e-6)
    assert not torch.equal(both["audio_head.heads.0.weight"], first["audio_head.heads.0.weight"])


def test_a_resumed_run_equals_the_unbroken_one(workspace: Path, trained: Path, tmp_path: Path) -> None:
    for steps in (4, 8):
        train(recipe(workspace, tmp_path, adapter=AdapterConfig(rank=4), optimizer=QUICK, steps=steps))
    one, two = (read_adapters(folder / "adapters.safetensors").changes for folder in (trained, tmp_path))
    for name, change in one.items():
        assert torch.equal(change.lora_A, two[name].lora_A) and torch.equal(change.lora_B, two[name].lora_B), name


def test_what_is_forgotten_shows_in_the_text_guard(workspace: Path, tmp_path: Path) -> None:
    """A text model learns to speak: with adapters and some text it keeps its text within a point; with all weights and
    speech alone it does not."""
    guard = {"text_guard": str(workspace / "corpus" / "dialogues.jsonl"), "sample_every": 30, "checkpoint_every": 30}
    text, kept, alone = (
        MixtureConfig(tasks=tasks, default_voice_is="Ada")
        for tasks in ({"text_dialogue": 1.0}, {"tts": 0.5, "text_dialogue": 0.5}, {"tts": 1.0})
    )
    train(recipe(workspace, tmp_path / "text", stage="text", mixture=text, steps=30, **guard))
    start = {"init_from": str(tmp_path / "text" / "model"), "steps": 30, **guard}
    train(recipe(workspace, tmp_path / "adapters", adapter=AdapterConfig(rank=4), mixture=kept, **start))
    train(recipe(workspace, tmp_path / "all", mixture=alone, optimizer=QUICK, **start))
    before, with_adapters, all_weights = (
        [row["guard/text_accuracy"] for row in log_of(tmp_path / name) if "guard/text_accuracy" in row]
        for name in ("text", "adapters", "all")
    )
    assert len(with_adapters) == 2 and with_adapters[0] == all_weights[0] == before[-1] > 0.9  # before the first step
    assert with_adapters[-1] >= with_adapters[0] - 0.01 and all_weights[-1] < all_weights[0] - 0.01
    spoken = [row["loss"] for row in log_of(tmp_path / "adapters") if "loss" in row]
    assert sum(spoken[-5:]) < sum(spoken[:5])


def test_adapters_that_learn_nothing_end_the_run(workspace: Path, tmp_path: Path) -> None:
    still = OptimizerRecipe(learning_rate=0.0, warmup_steps=0)
    with pytest.raises(CheckpointError, match=r"layers change nothing \(B is zero\)"):
        train(recipe(workspace, tmp_path, adapter=AdapterConfig(rank=4), optimizer=still, steps=1))
    with pytest.raises(ConfigError, match="exclude each other"):
        recipe(workspace, tmp_path, adapter=AdapterConfig(), reset_audio_embeddings=True)


def test_audio_parts_learn_beside_adapters_and_a_later_run_goes_on_with_both(workspace: Path, tmp_path: Path) -> None:
    adapter = AdapterConfig(rank=4, targets=("language_model.layers.*",))
    parts = ("language_model.audio_embed_layers.*", "audio_head.*")
    both = {"adapter": adapter, "also_learn": parts, "steps": 3}
    train(recipe(workspace, tmp_path / "first", optimizer=QUICK, **both))
    base = baichuan_audio.load(workspace / "model", dtype=torch.float32).state_dict()
    first = baichuan_audio.load(tmp_path / "first" / "model", dtype=torch.float32)
    changed = {name for name, tensor in first.state_dict().items() if not torch.equal(tensor, base[name])}
    assert changed and all(name.startswith(("language_model.audio_embed_layers.", "audio_head.")) for name in changed)

    file = tmp_path / "first" / "adapters.safetensors"
    load_adapters(first, file)  # their base is in the new model as it was
    still = OptimizerRecipe(learning_rate=0.0, warmup_steps=0)
    from_first = {"init_from": str(tmp_path / "first" / "model"), "adapter_from": str(file)}
    train(recipe(workspace, tmp_path / "second", optimizer=still, **{**both, **from_first}))
    one, two = (read_adapters(tmp_path / name / "adapters.safetensors").changes for name in ("first", "second"))
    assert all(torch.equal(change.lora_B, two[name].lora_B) for name, change in one.items())
    with pytest.raises(ConfigError, match="no parameter matches 'audio_tail"):
        train(recipe(workspace, tmp_path / "third", adapter=adapter, also_learn=("audio_tail.*",), steps=1))
    with pytest.raises(ConfigError, match="go with an `adapter`"):
        recipe(workspace, tmp_path, also_learn=parts)


def test_what_learns_beside_adapters_keeps_updates_too_small_for_bfloat16(workspace: Path, tmp_path: Path) -> None:
    tiny_steps = OptimizerRecipe(learning_rate=1e-6, warmup_steps=0)
    parts = ("language_model.audio_embed_layers.*", "audio_head.*")
    options = {"base_dtype": "bfloat16", "adapter": AdapterConfig(rank=4), "also_learn": parts}
    train(recipe(workspace, tmp_path / "run", optimizer=tiny_steps, steps=2, sample_every=2, **options))
    base = baichuan_audio.load(workspace / "model", dtype=torch.bfloat16).language_model.audio_embed_layers[0].weight
    learnt = baichuan_audio.load(tmp_path / "run" / "model").language_model.audio_embed_layers[0].weight
    change = (learnt.float() - base.float()).abs()
    assert 0 < float(change.max()) < 1e-4 and bool((learnt.float() != learnt.bfloat16().float()).any())
