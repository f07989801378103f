"""Checkpoints with large matrices in 8 bits: what is rounded, what is exact, and what is wrong with a damaged one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import baichuan_audio
from baichuan_audio.checkpoint import TensorMismatchError
from baichuan_audio.cli import main
from baichuan_audio.compressed import MIN_NUMBERS, compress, in_8_bits
from baichuan_audio.errors import CheckpointError
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.safetensors_io import find_tensors, quantize_rows
from baichuan_audio.training.common.checkpointing import load_part
from baichuan_audio.vocoder.vocos import Vocos, VocosConfig, save_vocos

FC1 = "audio_tokenizer.audio_model.layers.0.fc1.weight"


@pytest.fixture(scope="module")
def small_dir(checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint, compressed; not to be changed."""
    directory = tmp_path_factory.mktemp("compressed") / "small"
    compress(checkpoint_dir, directory)
    return directory


@pytest.fixture(scope="module")
def small(small_dir: Path) -> BaichuanAudio:
    return baichuan_audio.load(small_dir, dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_number_errs_by_more_than_half_a_step(dtype: torch.dtype) -> None:
    weight = torch.randn(7, 40, 3, generator=torch.Generator().manual_seed(1))
    weight *= torch.tensor([1.0, 1e-6, 1e-3, 30.0, 0.2, 0.0, 5.0])[:, None, None]  # the second is subnormal in float16
    weight = weight.to(dtype)
    values, scale = quantize_rows(weight)
    assert values.dtype == torch.int8 and values.shape == weight.shape
    assert scale.dtype == dtype and scale.shape == (7,) and bool((scale > 0).all())
    error = (values.double() * scale.double()[:, None, None] - weight.double()).abs().amax(dim=(1, 2))
    assert bool((error <= 0.5001 * scale.double()).all())
    assert not values[5].any() and values.abs().amax() > 120


def test_large_matrices_alone_are_rounded(checkpoint_dir: Path, small_dir: Path) -> None:
    stored = load_file(small_dir / "model.safetensors")
    before, after = find_tensors(checkpoint_dir), find_tensors(small_dir)
    rounded = [name for name, tensor in stored.items() if tensor.dtype == torch.int8]
    assert len(rounded) > 20 and {FC1, "lm_head.weight", "audio_head.heads.0.weight"} < set(rounded)
    assert {name for name in before if name.endswith("embed_avg")} == before.keys() - after.keys()
    for name, tensor in after.items():
        weight, read = before[name].read(), tensor.read()
        assert read.dtype == tensor.dtype == weight.dtype
        if name not in rounded:
            assert torch.equal(read, weight), name
            assert weight.ndim < 2 or weight.numel() < MIN_NUMBERS or "codebook" in name or "positional" in name
            continue
        step = stored[f"{name}.scale"].float().reshape(-1, *[1] * (weight.ndim - 1))
        error = (read.float() - weight.float()).abs()
        assert bool((error <= step / 2 + weight.float().abs() * 2**-8).all()), name  # and bfloat16's own rounding
        assert bool(error.any()), name
    sizes = [(directory / "model.safetensors").stat().st_size for directory in (checkpoint_dir, small_dir)]
    assert sizes[1] < 0.6 * sizes[0]
    for name in ("config.json", "tokenizer.json", "hift.pt"):
        assert (small_dir / name).read_bytes() == (checkpoint_dir / name).read_bytes()


def test_a_loaded_model_is_an_ordinary_one(small_dir: Path, small: BaichuanAudio, tmp_path: Path) -> None:
    kept = baichuan_audio.load(small_dir)
    assert kept.language_model.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(kept.language_model.lm_head.weight.float(), small.language_model.lm_head.weight)
    book = small.tokenizer.bridge.vq_list[0].codebook
    assert torch.equal(book.embed_avg, (book.embed * book.cluster_size[:, None]).bfloat16().float())
    baichuan_audio.save(kept, tmp_path / "whole")
    assert {tensor.dtype for tensor in load_file(tmp_path / "whole/model.safetensors").values()} == {torch.bfloat16}
    again, state = baichuan_audio.load(tmp_path / "whole").state_dict(), kept.state_dict()
    assert again.keys() == state.keys() and all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_codes_by_a_compressed_encoder(
    model: BaichuanAudio, small: BaichuanAudio, cases: dict[str, torch.Tensor]
) -> None:
    """Codebooks are exact, so the same vectors get the same codes; the encoder's are near those of before."""
    for mine, theirs in zip(small.tokenizer.bridge.vq_list, model.tokenizer.bridge.vq_list, strict=True):
        assert torch.equal(mine.codebook.embed, theirs.codebook.embed)
    codes, due = (loaded.tokenizer.encode(cases["long_wave"], 16000) for loaded in (small, model))
    equal = (codes == due).float().mean(dim=1)
    assert equal[0] > 0.9, equal
    assert not torch.equal(small.tokenizer.encoder.layers[0].fc1.weight, model.tokenizer.encoder.layers[0].fc1.weight)


def test_compressing_again_changes_nothing(small_dir: Path, tmp_path: Path) -> None:
    compress(small_dir, tmp_path / "again")
    first, second = (load_file(directory / "model.safetensors") for directory in (small_dir, tmp_path / "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_scale_may_be_in_another_shard(small_dir: Path, small: BaichuanAudio, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(small_dir, tmp_path / "sharded"))
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    shards = {"a.safetensors": {name: t for name, t in tensors.items() if t.dtype == torch.int8}}
    shards["b.safetensors"] = {name: t for name, t in tensors.items() if t.dtype != torch.int8}
    for file, shard in shards.items():
        save_file(shard, directory / file)
    index = {"weight_map": {name: file for file, shard in shards.items() for name in shard}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = baichuan_audio.load(directory, dtype=torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in small.state_dict().items())


def test_a_stage_takes_its_part_from_one(small_dir: Path, small: BaichuanAudio, model: BaichuanAudio) -> None:
    import copy

    part = copy.deepcopy(model.tokenizer)
    load_part(part, "tokenizer", small_dir)
    assert all(torch.equal(part.state_dict()[name], tensor) for name, tensor in small.tokenizer.state_dict().items())


def test_small_and_impossible_matrices_stay() -> None:
    tensors = {
        "small": torch.randn(8, 8),
        "bias": torch.randn(MIN_NUMBERS),
        "integers": torch.ones(128, 128, dtype=torch.int64),
        "infinite": torch.full((128, 128), torch.inf),
        "highest": torch.full((128, 128), 65504.0, dtype=torch.float16),  # its scale, rounded up, would overflow
    }
    assert in_8_bits(tensors) == tensors
    assert in_8_bits({"weight": torch.randn(128, 128)}).keys() == {"weight", "weight.scale"}


def test_nothing_to_compress(checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baichuan_audio.compressed.MIN_NUMBERS", 1 << 30)
    with pytest.raises(CheckpointError, match=r"there is nothing to compress, no matrix has 1073741824 numbers\.$"):
        compress(checkpoint_dir, tmp_path / "small")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(("scale", "message"), [
    (None, rf"tensor '{FC1}' is of type int8 and has no '{FC1}\.scale'\.$"),
    (torch.ones(7), r"for each row, \[256\], not float32 \[7\]\.$"),
    (torch.ones(256, 1), r"for each row, \[256\], not float32 \[256, 1\]\.$"),
    (torch.ones(256, dtype=torch.int32), r"a float of 16 or 32 bits for each row, \[256\], not int32 \[256\]\.$"),
    (torch.ones(256).to(torch.float8_e4m3fn), r"not float8_e4m3fn \[256\]\.$"),
])  # fmt: skip
def test_scales_that_do_not_fit(small_dir: Path, tmp_path: Path, scale: torch.Tensor | None, message: str) -> None:
    directory = Path(shutil.copytree(small_dir, tmp_path / "damaged"))
    tensors = load_file(directory / "model.safetensors")
    del tensors[f"{FC1}.scale"]
    if scale is not None:
        tensors[f"{FC1}.scale"] = scale
    save_file(tensors, directory / "model.safetensors")
    for read in (lambda: baichuan_audio.load(directory), lambda: compress(directory, tmp_path / "out")):
        with pytest.raises(CheckpointError, match=message):
            read()


def test_a_scale_without_its_tensor_is_unexpected(small_dir: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(small_dir, tmp_path / "damaged"))
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight.scale"] = torch.ones(256)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(TensorMismatchError) as caught:
        baichuan_audio.load(directory)
    assert (caught.value.unexpected, caught.value.missing) == (["model.norm.weight.scale"], [])


def test_ordinary_checkpoints_must_have_all_tensors(checkpoint_dir: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint_dir, tmp_path / "damaged"))
    tensors = load_file(directory / "model.safetensors")
    name = "audio_tokenizer.audio_bridge_model.vq_list.3.codebook.embed_avg"
    del tensors[name]
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(TensorMismatchError) as caught:
        baichuan_audio.load(directory)
    assert caught.value.missing == [name]


def test_command(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "small"
    assert main(["checkpoint", "compress", str(tiny), str(output)]) == 0
    assert capsys.readouterr().out.startswith(f"{output}: written, ")
    facts = []
    for directory in (tiny, output):
        assert main(["info", "--model", str(directory), "--json"]) == 0
        facts.append(json.loads(capsys.readouterr().out))
    assert facts[0]["types"] == ["bfloat16"] and facts[1]["types"] == ["bfloat16", "int8"]
    assert facts[0]["parts"] == facts[1]["parts"] and facts[0]["bytes"] > facts[1]["bytes"]


def test_a_vocos_is_stored_in_16_bits(checkpoint_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint_dir, tmp_path / "whole")
    (tmp_path / "whole" / "hift.pt").unlink()
    vocos = Vocos(VocosConfig(dim=24, ffn_dim=32, num_layers=1))
    save_vocos(vocos, tmp_path / "whole" / "vocoder.safetensors")
    compress(tmp_path / "whole", tmp_path / "small")
    stored, whole = load_file(tmp_path / "small" / "vocoder.safetensors"), vocos.state_dict()
    assert stored.keys() == whole.keys() and {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert all(torch.allclose(stored[name].float(), tensor, rtol=1e-3, atol=1e-6) for name, tensor in whole.items())
