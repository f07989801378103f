"""LoRA and DoRA: equal to the base at first, to the merged weights at last, and refused where they do nothing."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import baichuan_audio
from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.adapters import (
    AdapterConfig,
    adaptable_layers,
    adapter_parameters,
    add_adapters,
    base_fingerprint,
    has_adapters,
    load_adapters,
    merge_adapters,
    read_adapters,
    remove_adapters,
    save_adapters,
    train_only_adapters,
)
from baichuan_audio.errors import CheckpointError, ConfigError
from baichuan_audio.generation.session import Session
from baichuan_audio.language_model.sampling import Sampling
from baichuan_audio.model import BaichuanAudio

EVERYTHING = ("language_model.*", "audio_head.*")
METHODS = ("lora", "dora")


def config(method: str = "lora", targets: tuple[str, ...] = EVERYTHING, rank: int = 4) -> AdapterConfig:
    return AdapterConfig(rank=rank, alpha=6.0, method=method, targets=targets)


@torch.no_grad()
def trained(model: BaichuanAudio, method: str = "lora", targets: tuple[str, ...] = EVERYTHING) -> BaichuanAudio:
    """Adapters that change something everywhere."""
    adapted = add_adapters(model, config(method, targets))
    draw = torch.Generator().manual_seed(1)
    for name, parameter in adapter_parameters(adapted).items():
        if not name.endswith("lora_A"):
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.02)
    return adapted


@torch.no_grad()
def outputs(model: BaichuanAudio) -> dict[str, Tensor]:
    """What backbone and audio head compute, in the forms of training and of a step."""
    draw = torch.Generator().manual_seed(0)
    hidden, logits = model.language_model(torch.randint(0, 200, (2, 9), generator=draw))
    head, states = model.audio_head, hidden[:, -1]
    codes = torch.stack([torch.randint(0, size, (2,), generator=draw) for size in head.codebook_sizes], dim=1)
    cache, x, steps = head.init_cache(2), states, []
    for level in range(head.num_codebooks):
        steps.append(head.step(x, level, cache).clone())
        embedded = head.embedding(level)(codes[:, level])
        x = x + embedded if level else embedded
    return {
        "hidden": hidden,
        "logits": logits,
        "head": torch.cat(head.logits(states, codes), dim=1),
        "steps": torch.cat(steps, dim=1),
    }


def assert_close(first: BaichuanAudio, second: BaichuanAudio) -> None:
    for (name, mine), theirs in zip(outputs(first).items(), outputs(second).values(), strict=True):
        error = float((mine - theirs).norm() / theirs.norm())
        assert error <= 1e-5, (name, error)


def assert_different(first: BaichuanAudio, second: BaichuanAudio) -> None:
    for (name, mine), theirs in zip(outputs(first).items(), outputs(second).values(), strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) > 1e-2, name


# ---------------------------------------------------------------------------------------- computing


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_adapters_change_no_bit(model: BaichuanAudio, method: str, dtype: torch.dtype) -> None:
    base = copy.deepcopy(model).to(dtype)
    adapted = add_adapters(base, config(method))
    assert len(adapter_parameters(adapted)) == len(adaptable_layers(base)) * (3 if method == "dora" else 2)
    for (name, mine), theirs in zip(outputs(adapted).items(), outputs(base).values(), strict=True):
        assert torch.equal(mine, theirs), name


def test_all_products_can_be_adapted(model: BaichuanAudio) -> None:
    layers = adaptable_layers(model)
    count, depth = len(model.language_model.layers), len(model.audio_head.transformer_layers)
    assert len(layers) == 5 * count + 1 + 4 * depth + model.audio_head.num_codebooks
    assert "audio_head.transformer_layers.0.self_attention.in_proj" in layers
    default = adapter_parameters(add_adapters(model, AdapterConfig()))
    assert len(default) == 2 * (5 * count + 4 * depth)


@pytest.mark.parametrize("method", METHODS)
def test_merged_and_unmerged_agree(model: BaichuanAudio, method: str) -> None:
    adapted = trained(model, method)
    merged = merge_adapters(adapted)
    assert not has_adapters(merged) and merged.state_dict().keys() == model.state_dict().keys()
    assert_close(adapted, merged)
    assert_different(merged, model)


@pytest.mark.parametrize("layer", ["self_attention.in_proj", "self_attention.out_proj", "linear1", "linear2"])
def test_each_layer_of_the_audio_head_is_adapted(model: BaichuanAudio, layer: str) -> None:
    adapted = trained(model, targets=(f"audio_head.transformer_layers.*.{layer}",))
    mine, theirs = outputs(adapted), outputs(model)
    assert torch.equal(mine["logits"], theirs["logits"])
    for name in ("head", "steps"):
        assert float((mine[name] - theirs[name]).abs().max()) > 1e-4
    torch.testing.assert_close(mine["head"], mine["steps"], rtol=1e-4, atol=1e-5)
    assert_close(adapted, merge_adapters(adapted))


def test_the_formulas_of_both_papers(model: BaichuanAudio) -> None:
    name = "language_model.layers.0.mlp.up_proj"
    weight = model.get_submodule(name).weight.double()
    for method in METHODS:
        adapted = trained(model, method, (name,))
        parts = {key.rpartition(".")[2]: tensor.double() for key, tensor in adapter_parameters(adapted).items()}
        due = weight + 6.0 / 4 * parts["lora_B"] @ parts["lora_A"]
        if method == "dora":
            due = due / due.norm(dim=1, keepdim=True) * (weight.norm(dim=1) + parts["magnitude"])[:, None]
        merged = merge_adapters(adapted).get_submodule(name).weight
        torch.testing.assert_close(merged.double(), due, rtol=1e-5, atol=1e-6)


def test_nothing_happens_to_the_base(model: BaichuanAudio) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = trained(model)
    merged, removed = merge_adapters(adapted), remove_adapters(adapted).state_dict()
    assert not has_adapters(model) and has_adapters(adapted)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) and removed[name].data_ptr() == tensor.data_ptr(), name
    assert merged.language_model.embed_tokens.weight is model.language_model.embed_tokens.weight
    assert adapted.audio_head.embedding(0) is adapted.language_model.audio_embed_layers[0]


@pytest.mark.parametrize("method", METHODS)
def test_training_moves_the_adapters_alone(model: BaichuanAudio, method: str) -> None:
    adapted = add_adapters(model, config(method))
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    learning = train_only_adapters(adapted)
    assert {name for name, parameter in adapted.named_parameters() if parameter.requires_grad} == set(learning)
    optimizer = torch.optim.Adam(learning.values(), lr=1e-2)
    ids, codes = torch.arange(20, 36).view(2, 8), torch.ones(16, adapted.audio_head.num_codebooks, dtype=torch.long)
    losses = []
    for _ in range(4):
        hidden, logits = adapted.language_model(ids)
        head = adapted.audio_head.logits(hidden.flatten(0, 1), codes)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss = loss + sum(F.cross_entropy(level, codes[:, i]) for i, level in enumerate(head))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    for name, tensor in adapted.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in learning), name
    assert_close(adapted, merge_adapters(adapted))


def test_replies_differ_and_every_path_writes_the_same(model: BaichuanAudio) -> None:
    def write(written_by: BaichuanAudio) -> list[object]:
        session = Session(written_by.language_model, written_by.audio_head, written_by.special, seed=1)
        session.extend([5, 6, 7, 8])
        session.write_text(5, Sampling())
        return [session.ids, session.write_codes(5, Sampling()).tolist()]

    adapted = trained(model)
    expected = write(merge_adapters(adapted))
    assert write(adapted) == expected != write(model)
    assert write(optimize_for_inference(merge_adapters(adapted))) == expected
    assert write(optimize_for_inference(adapted)) == expected


# ---------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def saved(model: BaichuanAudio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "adapters.safetensors"
    save_adapters(trained(model), path)
    return path


@pytest.fixture
def file(saved: Path, tmp_path: Path) -> Path:
    """A file of adapters, to be damaged."""
    return Path(shutil.copy(saved, tmp_path))


def edit(path: Path, change) -> Path:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        header = json.loads(opened.metadata()["baichuan_audio_adapters"])
    tensors = load_file(path)
    change(tensors, header)
    save_file(tensors, path, metadata={"baichuan_audio_adapters": json.dumps(header)})
    return path


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_adapters_are_the_same(model: BaichuanAudio, tmp_path: Path, method: str) -> None:
    adapted = trained(model, method)
    save_adapters(adapted, tmp_path / "new" / "a.safetensors")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.safetensors"]
    loaded = load_adapters(model, tmp_path / "new" / "a.safetensors")
    assert read_adapters(tmp_path / "new" / "a.safetensors").config == config(method)
    mine, theirs = loaded.state_dict(), adapted.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("dtype", [torch.float32, None])
def test_load_merges_them(checkpoint_dir: Path, model: BaichuanAudio, file: Path, dtype: torch.dtype | None) -> None:
    """The stored type is bfloat16."""
    loaded = baichuan_audio.load(checkpoint_dir, dtype=dtype, adapters=file).state_dict()
    merged = merge_adapters(load_adapters(model, file))
    for name, tensor in merged.state_dict().items():
        if not name.startswith("vocoder."):
            assert torch.equal(loaded[name], tensor.to(dtype or torch.bfloat16)), name


def test_merged_weights_are_a_released_checkpoint(model: BaichuanAudio, tmp_path: Path) -> None:
    adapted = trained(model)
    with pytest.raises(CheckpointError, match="this model has adapters"):
        baichuan_audio.save(adapted, tmp_path / "unmerged")
    baichuan_audio.save(merge_adapters(adapted), tmp_path / "merged")
    assert_close(baichuan_audio.load(tmp_path / "merged"), adapted)


def test_one_base_in_two_precisions_has_one_fingerprint(model: BaichuanAudio, file: Path) -> None:
    half = copy.deepcopy(model).bfloat16()
    assert has_adapters(load_adapters(half, file))
    layers = adaptable_layers(model)
    assert base_fingerprint(half, layers) == base_fingerprint(model, layers)
    assert base_fingerprint(trained(model)) == base_fingerprint(model, layers)


@pytest.mark.parametrize("part", ["norm", "audio_head", "order"])
def test_a_foreign_base_is_refused(
    checkpoint_dir: Path, model: BaichuanAudio, file: Path, tmp_path: Path, part: str
) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        if part == "norm":
            other.language_model.norm.weight.mul_(1.01)
        elif part == "audio_head":
            other.audio_head.transformer_layers[0].self_attention.in_proj_weight.mul_(0.99)
        else:
            first, second = (layer.mlp.up_proj.weight for layer in list(other.language_model.layers)[:2])
            first.data, second.data = second.data, first.data
    with pytest.raises(CheckpointError, match=r"adapters\.safetensors: these adapters belong to another base"):
        load_adapters(other, file)
    baichuan_audio.save(other, tmp_path / "other")
    with pytest.raises(CheckpointError, match="these adapters belong to another base"):
        baichuan_audio.load(tmp_path / "other", adapters=file)


def test_what_lies_outside_the_adapted_stack_may_differ(model: BaichuanAudio, tmp_path: Path) -> None:
    """Audio parts are often trained along with adapters of the backbone, and stored beside them."""
    save_adapters(trained(model, targets=("language_model.layers.*",)), tmp_path / "a.safetensors")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.language_model.audio_embed_layers[0].weight.mul_(2)
        other.audio_head.headnorm.weight.mul_(2)
    assert has_adapters(load_adapters(other, tmp_path / "a.safetensors"))


def test_adapters_that_do_nothing_are_refused(checkpoint_dir: Path, model: BaichuanAudio, tmp_path: Path) -> None:
    fresh = add_adapters(model, config())
    with pytest.raises(CheckpointError, match=r"\d+ of \d+ adapted layers change nothing \(B is zero\)"):
        merge_adapters(fresh)
    save_adapters(fresh, tmp_path / "fresh.safetensors")
    for load in (lambda path: load_adapters(model, path),
                 lambda path: baichuan_audio.load(checkpoint_dir, adapters=path)):  # fmt: skip
        with pytest.raises(CheckpointError, match=r"fresh\.safetensors: .* change nothing"):
            load(tmp_path / "fresh.safetensors")
    partly = trained(model)
    with torch.no_grad():
        partly.get_submodule("language_model.layers.1.self_attn.o_proj").lora_B.zero_()
    with pytest.raises(
        CheckpointError, match=r"1 of \d+ adapted layers .* language_model\.layers\.1\.self_attn\.o_proj"
    ):
        merge_adapters(partly)


def test_a_change_that_bfloat16_swallows_is_refused(model: BaichuanAudio) -> None:
    adapted = trained(copy.deepcopy(model).bfloat16(), targets=("language_model.layers.0.mlp.up_proj",))
    with torch.no_grad():
        adapted.get_submodule("language_model.layers.0.mlp.up_proj").lora_B.mul_(1e-2)
    with pytest.raises(CheckpointError, match="is lost in the rounding of bfloat16 weights"):
        merge_adapters(adapted)
    assert merge_adapters(adapted.float())


LAYER = "language_model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(("change", "message"), [
    (lambda tensors, header: header.update(rank=3), "is not of rank 3"),
    (lambda tensors, header: header.update(version=9), "another version of the format"),
    (lambda tensors, header: header.update(colour="red"), "unknown entry 'colour'"),
    (lambda tensors, header: header.update(method="dora"), "should have lora_A, lora_B, magnitude"),
    (lambda tensors, header: tensors.pop(f"{LAYER}.lora_A"), rf"{LAYER} should have lora_A, lora_B, not lora_B"),
    (lambda tensors, header: tensors[f"{LAYER}.lora_B"].fill_(float("nan")), "not finite"),
    (lambda tensors, header: tensors.update({f"x.{part}": torch.ones(4, 4) for part in ("lora_A", "lora_B")}),
     "the model has no layer x"),
    (lambda tensors, header: tensors.update({f"{LAYER}.lora_A": torch.ones(4, 5)}), r"is for \[384, 5\]"),
    (lambda tensors, header: tensors.clear(), "no adapters in this file"),
])  # fmt: skip
def test_a_damaged_file_is_one_sentence(
    checkpoint_dir: Path, model: BaichuanAudio, file: Path, change, message: str
) -> None:
    edit(file, change)
    with pytest.raises(CheckpointError, match=message):
        load_adapters(model, file)
    with pytest.raises(CheckpointError, match=message):
        baichuan_audio.load(checkpoint_dir, adapters=file)


def test_what_is_no_adapter_file(checkpoint_dir: Path, model: BaichuanAudio, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors: this is no file of adapters"):
        load_adapters(model, checkpoint_dir / "model.safetensors")
    with pytest.raises(CheckpointError, match="missing"):
        load_adapters(model, tmp_path / "none.safetensors")


def test_what_cannot_be_adapted(model: BaichuanAudio, tmp_path: Path) -> None:
    for entries in ({"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}, {"method": "ia3"}, {"targets": ()}):
        with pytest.raises(ConfigError, match="adapters:"):
            AdapterConfig(**entries)
    with pytest.raises(ConfigError, match=r"no layer matches 'language_model\.layer\.\*'"):
        add_adapters(model, config(targets=("language_model.layer.*",)))
    with pytest.raises(ConfigError, match="has adapters already"):
        add_adapters(trained(model), config())
    with pytest.raises(ConfigError, match="rearranged for inference"):
        add_adapters(optimize_for_inference(model), config())
    for nothing in (train_only_adapters, merge_adapters, lambda plain: save_adapters(plain, tmp_path / "a")):
        with pytest.raises(ConfigError, match="the model has no adapters"):
            nothing(model)
