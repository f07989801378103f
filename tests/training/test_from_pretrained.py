"""A first checkpoint from a published language model and Whisper; the tokenizer stage that starts with Whisper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lm_workspace import make_workspace
from published_models import SPARE, make_published
from safetensors.torch import load_file
from tokenizers import Tokenizer

import baichuan_audio
from baichuan_audio.cli.app import main
from baichuan_audio.errors import CheckpointError, ConfigError
from baichuan_audio.language_model.build_tokenizer import CONTROL_TOKENS
from baichuan_audio.training.common.checkpointing import load_part
from baichuan_audio.training.from_pretrained import from_pretrained, load_encoder
from baichuan_audio.training.tokenizer import train as tokenizer_stage
from baichuan_audio.training.tokenizer.recipe import TokenizerRecipe


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def published(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_published(workspace, tmp_path_factory.mktemp("published"))


def test_a_published_model_and_whisper_make_a_checkpoint(
    workspace: Path, published: tuple[Path, Path], tmp_path: Path
) -> None:
    llm, whisper = published
    template, output = str(workspace / "template.json"), str(tmp_path / "made")
    arguments = ["checkpoint", "init", template, output, "--llm", str(llm), "--encoder", str(whisper)]
    assert main(arguments) == 0
    model = baichuan_audio.load(output)
    source = Tokenizer.from_file(str(llm / "tokenizer.json"))
    first = source.token_to_id(CONTROL_TOKENS[0])
    assert model.special.end_of_text == first  # the model's own
    ids = [model.text_tokenizer.token_id(token) for token in CONTROL_TOKENS[1:]]
    assert ids == list(range(first + 1, first + len(CONTROL_TOKENS)))
    assert model.config["vocab_size"] == ids[-1] + 1 == first + len(CONTROL_TOKENS)
    tensors = load_file(llm / "model.safetensors")
    table = model.language_model.embed_tokens.weight
    assert table.dtype == torch.bfloat16 and torch.equal(
        table[: first + 1 + SPARE], tensors["model.embed_tokens.weight"]
    )
    assert bool(table[first + 1 + SPARE :].any(1).all()) and bool(table.isfinite().all())
    packed = torch.cat([tensors[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qkv"])
    assert torch.equal(model.language_model.layers[0].self_attn.W_pack.weight, packed)
    encoder = load_file(whisper / "model.safetensors")
    assert torch.equal(model.tokenizer.encoder.conv1.weight, encoder["model.encoder.conv1.weight"])
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values() if tensor.is_floating_point())
    assert model.text_tokenizer.encode("What is hot?") == source.encode("What is hot?").ids
    ends = baichuan_audio.load(output, dtype=torch.float32).conversation(speak=False, seed=0)
    assert list(ends.ask("What is hot?")) is not None


def test_a_phrase_becomes_one_token_with_the_mean_embedding_of_its_meaning(
    workspace: Path, published: tuple[Path, Path], tmp_path: Path
) -> None:
    template = json.loads((workspace / "template.json").read_text(encoding="utf-8"))
    file, output = tmp_path / "template.json", str(tmp_path / "made")
    arguments = ["checkpoint", "init", str(file), output, "--llm", str(published[0])]
    file.write_text(json.dumps(template | {"phrase_tokens": {"请用【": "What is hot?"}}), encoding="utf-8")
    assert main(arguments) == 0
    model = baichuan_audio.load(output)
    tokenizer, table = model.text_tokenizer, model.language_model.embed_tokens.weight
    (row,) = tokenizer.encode("请用【")
    meaning = tokenizer.encode("What is hot?")
    assert row not in model.special.control_ids and tokenizer.encode("请用【What is hot?") == [row, *meaning]
    assert "phrase_tokens" not in model.config
    assert torch.equal(table[row], table[meaning].float().mean(0).to(table.dtype))
    file.write_text(json.dumps(template | {"phrase_tokens": {"请用【": ""}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="give each phrase a text that means the same"):
        from_pretrained(file, published[0], tmp_path / "refused")


def test_an_encoder_of_other_sizes_is_refused(workspace: Path, published: tuple[Path, Path]) -> None:
    model = baichuan_audio.load(workspace / "model")
    model.tokenizer.config.__dict__["encoder_layers"] = 7
    with pytest.raises(CheckpointError, match=r"its encoder_layers is 1, but 7 in the config\.json"):
        load_encoder(model.tokenizer, published[1])


def test_the_tokenizer_starts_with_whisper_and_k_means_on_its_features(
    workspace: Path, published: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = {"config": str(workspace / "model/config.json"), "dataset": str(workspace / "corpus"),
                "output": str(tmp_path), "threads": 1, "batch_seconds": 2.0, "min_seconds": 0.3}  # fmt: skip
    recipe = TokenizerRecipe(**settings, steps=2, encoder=str(published[1]), quantize_start_step=0,
                             text_model=str(workspace / "model"), text_width=8)  # fmt: skip
    built, _ = tokenizer_stage.build(recipe)
    weight = load_file(published[1] / "model.safetensors")["model.encoder.conv1.weight"]
    assert torch.equal(built.encoder.conv1.weight, weight.float())
    before = [level.codebook.embed.clone() for level in built.bridge.vq_list]
    tokenizer_stage.train(recipe)
    load_part(built, "tokenizer", tmp_path)
    for old, level in zip(before, built.bridge.vq_list, strict=True):
        assert not torch.equal(old, level.codebook.embed) and bool(level.codebook.cluster_size.any())
    with pytest.raises(ConfigError, match="name one of them"):
        TokenizerRecipe(**settings, steps=2, encoder="a", init_from="b")
