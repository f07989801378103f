"""Loading and saving released directories: exact, streamed, and precise about what is wrong."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import baichuan_audio
from baichuan_audio.checkpoint import TensorMismatchError, module_name, released_name, released_tensors
from baichuan_audio.errors import BaichuanAudioError, CheckpointError, ConfigError
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.safetensors_io import find_tensors, read_header

FIXTURES = Path(__file__).parent / "fixtures"
RECIPE_7B = Path(__file__).parent.parent / "recipes" / "base-7b" / "config.json"


@pytest.fixture
def copy(checkpoint_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint of its own, to be damaged."""
    return Path(shutil.copytree(checkpoint_dir, tmp_path / "copy"))


def edit_tensors(directory: Path, change) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def edit_config(directory: Path, change) -> None:
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


# -- the 7B model ------------------------------------------------------------------------------------------


def test_every_7b_tensor_has_its_place_and_none_is_left_over(model):
    """The published list against the 7B model, built without memory; its tokenizer is not needed for shapes."""
    listed = json.loads(gzip.decompress((FIXTURES / "tensors-7b.json.gz").read_bytes()))
    config = json.loads(RECIPE_7B.read_text())
    with torch.device("meta"):
        big = BaichuanAudio(config, model.text_tokenizer, model.vocoder)
    ours = {name: list(tensor.shape) for name, tensor in released_tensors(big).items()}
    assert ours == listed
    learnt = {released_name(name) for name, _ in big.named_parameters() if not name.startswith("vocoder.")}
    stored_buffers = set(ours) - learnt
    assert all("codebook" in name or "positional_embedding" in name for name in stored_buffers)


def test_names_map_both_ways():
    for name in json.loads(gzip.decompress((FIXTURES / "tensors-7b.json.gz").read_bytes())):
        assert released_name(str(module_name(name))) == name
    assert module_name("something.else") is None


# -- load and save -----------------------------------------------------------------------------------------


def stored_bytes(directory: Path) -> dict[str, tuple[torch.dtype, bytes]]:
    return {
        name: (entry.dtype, entry.read().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, entry in find_tensors(directory).items()
    }


@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 1_000_000])
def test_load_save_load_is_bit_exact(checkpoint_dir: Path, tmp_path: Path, max_shard_bytes: int):
    loaded = baichuan_audio.load(checkpoint_dir)
    baichuan_audio.save(loaded, tmp_path / "again", max_shard_bytes=max_shard_bytes)
    assert (tmp_path / "again" / "model.safetensors.index.json").exists() == (max_shard_bytes < 5_000_000)
    assert stored_bytes(tmp_path / "again") == stored_bytes(checkpoint_dir)
    before, after = (json.loads((d / "config.json").read_text()) for d in (checkpoint_dir, tmp_path / "again"))
    assert list(before.items()) == list(after.items())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (checkpoint_dir / name).read_bytes()
    again = baichuan_audio.load(tmp_path / "again")
    ours, theirs = loaded.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    weights = [torch.load(d / "hift.pt", weights_only=True) for d in (checkpoint_dir, tmp_path / "again")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_shards_hold_what_the_index_says(checkpoint_dir: Path, tmp_path: Path):
    baichuan_audio.save(baichuan_audio.load(checkpoint_dir), tmp_path / "sharded", max_shard_bytes=2_000_000)
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    for shard in sorted(set(index["weight_map"].values())):
        header = read_header(tmp_path / "sharded" / shard)
        assert set(header) == {name for name, file in index["weight_map"].items() if file == shard}
        assert len(header) == 1 or sum(entry.num_bytes for entry in header.values()) <= 2_000_000


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_its_files_may_be_read_by_whom_others_may_be_read_by(checkpoint_dir: Path, tmp_path: Path, mask: int):
    before = os.umask(mask)
    try:
        baichuan_audio.save(baichuan_audio.load(checkpoint_dir), tmp_path / "saved")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "saved").iterdir()}
    assert len(modes) >= 3 and set(modes.values()) == {0o666 & ~mask}, modes


def test_types_are_kept_or_converted(checkpoint_dir: Path):
    kept = baichuan_audio.load(checkpoint_dir)
    assert kept.language_model.lm_head.weight.dtype is torch.bfloat16
    wide = baichuan_audio.load(checkpoint_dir, dtype=torch.float32)
    assert {tensor.dtype for tensor in wide.state_dict().values()} == {torch.float32}
    assert torch.equal(kept.language_model.lm_head.weight.float(), wide.language_model.lm_head.weight)
    assert not wide.training


def test_saving_over_a_checkpoint_keeps_other_files(copy: Path, model):
    (copy / "README.md").write_text("the model card")
    (copy / "model-00009-of-00009.safetensors").write_bytes(b"stale")
    baichuan_audio.save(model, copy)
    assert (copy / "README.md").read_text() == "the model card"
    assert not (copy / "model-00009-of-00009.safetensors").exists()
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy"]
    assert baichuan_audio.load(copy).language_model.lm_head.weight.dtype is torch.float32


def test_saving_into_a_foreign_directory_is_refused(tmp_path: Path, model):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        baichuan_audio.save(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_save_leaves_the_old_checkpoint(copy: Path, model, monkeypatch):
    before = stored_bytes(copy)

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("baichuan_audio.checkpoint.write_tensors", full_disk)
    with pytest.raises(CheckpointError, match="no space left"):
        baichuan_audio.save(model, copy)
    assert stored_bytes(copy) == before
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy"]


def test_visual_tensors_are_ignored_with_one_line(copy: Path, caplog):
    def add(tensors):
        tensors["model.visual_model.blocks.0.weight"] = torch.ones(3)
        tensors["model.visual_bridge_model.bias"] = torch.ones(2).to(torch.float8_e4m3fn)

    edit_tensors(copy, add)
    with caplog.at_level(logging.INFO, logger="baichuan_audio"):
        baichuan_audio.load(copy)
    assert [record.getMessage() for record in caplog.records if "visual" in record.getMessage()] == [
        f"{copy}: ignored 2 vision tensors; this implementation has speech and text only."
    ]


def test_weights_of_eight_bits_are_refused_by_name(copy: Path):
    def round_off(tensors):
        tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float8_e4m3fn)

    edit_tensors(copy, round_off)
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' is of type float8_e4m3fn; weights must be floats"):
        baichuan_audio.load(copy, dtype=torch.float32)


def test_hub_id_is_downloaded(checkpoint_dir: Path, monkeypatch):
    asked = []

    def snapshot_download(name, **_):
        asked.append(name)
        return str(checkpoint_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    baichuan_audio.load("someone/some-model")
    assert asked == ["someone/some-model"]


def test_unreachable_hub_is_one_sentence(monkeypatch):
    def snapshot_download(name, **_):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match="someone/some-model: no such directory here"):
        baichuan_audio.load("someone/some-model")


_PEAK = """
import gc, sys, torch, baichuan_audio
from pathlib import Path
from baichuan_audio import checkpoint
def resident(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
baichuan_audio.load(sys.argv[2], dtype=torch.float32)  # warm: libraries, allocator, code pages
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
start = resident("VmRSS")
model = baichuan_audio.load(sys.argv[1], dtype=torch.float32)
weights = sum(tensor.nbytes for tensor in checkpoint.released_tensors(model).values())
print(resident("VmHWM") - start, weights)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures through Linux's /proc")
def test_peak_memory_is_the_weights_and_one_tensor(checkpoint_dir: Path, tmp_path: Path):
    """A checkpoint of 40 MB (80 MB in float32), a tenth of it one tensor, loaded in a process of its own."""
    big = Path(shutil.copytree(checkpoint_dir, tmp_path / "big"))
    edit_config(big, lambda config: config.update(vocab_size=32768))
    generator = torch.Generator().manual_seed(0)

    def widen(tensors):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = torch.randn(32768, 256, generator=generator).bfloat16()

    edit_tensors(big, widen)
    largest = max(entry.num_bytes for entry in find_tensors(big).values())
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, big, checkpoint_dir], capture_output=True, text=True, check=True, timeout=120
    )
    peak, weights = map(int, run.stdout.split())
    assert weights > 70_000_000
    assert peak <= weights + largest + 8_000_000, f"peak {peak / 1e6:.1f} MB for {weights / 1e6:.1f} MB of weights"


# -- what is wrong, and where ------------------------------------------------------------------------------


def assert_one_sentence(error: BaichuanAudioError) -> None:
    text = str(error)
    assert "\n" not in text and len(text) < 1200 and text.endswith(".")


def test_names_of_missing_unexpected_and_misshapen_tensors(copy: Path):
    def damage(tensors):
        del tensors["lm_head.weight"]
        tensors["model.layers.9.mlp.up_proj.weight"] = torch.ones(2)
        tensors["model.norm.weight"] = torch.ones(7)

    edit_tensors(copy, damage)
    with pytest.raises(TensorMismatchError) as caught:
        baichuan_audio.load(copy)
    assert caught.value.missing == ["lm_head.weight"]
    assert caught.value.unexpected == ["model.layers.9.mlp.up_proj.weight"]
    assert caught.value.misshapen == {"model.norm.weight": ((7,), (256,))}
    for part in ("lm_head.weight", "layers.9.mlp", "model.norm.weight ([7] instead of [256])"):
        assert part in str(caught.value)
    assert_one_sentence(caught.value)


def truncate(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def other_tokenizer(directory: Path) -> None:
    path = directory / "tokenizer.json"
    definition = json.loads(path.read_text())
    for token in definition["added_tokens"]:
        if token["content"] == "<audio_pad_baichuan>":
            token["content"] = "<audio_start_baichuan>"
        elif token["content"] == "<audio_start_baichuan>":
            token["content"] = "<audio_pad_baichuan>"
    path.write_text(json.dumps(definition))


DAMAGES = {
    "empty directory": (lambda d: [path.unlink() for path in d.iterdir()], "no config.json"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "weights cut short": (lambda d: truncate(d / "model.safetensors", 0.5), "cut short"),
    "weights cut in the header": (lambda d: truncate(d / "model.safetensors", 0.001), "safetensors"),
    "weights empty": (lambda d: truncate(d / "model.safetensors", 0), "not a safetensors file"),
    "weights of another format": (lambda d: (d / "model.safetensors").write_bytes(b"PK\3\4" * 99), "safetensors"),
    "config cut short": (lambda d: truncate(d / "config.json", 0.5), "not valid JSON"),
    "config is a list": (lambda d: (d / "config.json").write_text("[1]"), "one JSON object"),
    "config is binary": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json"),
    "config lacks a part": (lambda d: edit_config(d, lambda c: c.pop("audio_config")), "audio_config"),
    "config lacks a size": (lambda d: edit_config(d, lambda c: c.pop("hidden_size")), "hidden_size"),
    "config has a wrong type": (lambda d: edit_config(d, lambda c: c.update(hidden_size="wide")), "hidden_size"),
    "part of a wrong type": (lambda d: edit_config(d, lambda c: c.update(audio_config=[1])), "audio_config"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json"),
    "tokenizer cut short": (lambda d: truncate(d / "tokenizer.json", 0.5), "tokenizer"),
    "tokenizer of another model": (other_tokenizer, "belongs to another model"),
    "vocabulary too small": (lambda d: edit_config(d, lambda c: c.update(vocab_size=100)), "another model"),
    "no vocoder": (lambda d: (d / "hift.pt").unlink(), "no vocoder"),
    "vocoder cut short": (lambda d: truncate(d / "hift.pt", 0.5), "hift.pt"),
    "vocoder is text": (lambda d: (d / "hift.pt").write_text("hello"), "hift.pt"),
}


IMPOSSIBLE = {
    "audio_config.avg_pooler": 0,
    "audio_config.encoder_attention_heads": 0,
    "audio_config.encoder_layers": 10_000_000,
    "audio_config.audio_head_transformer_layers": 10_000_000,
    "audio_config.d_model": -512,
    "audio_config.max_audio_seconds": float("nan"),
    "audio_config.vq_config.codebook_sizes": [1 << 40],
    "flow_matching_config.hop_length": None,
    "rms_norm_eps": [],
    "flow_matching_config.cfm_params": 3,
    "flow_matching_config.num_heads": 10_000_000_000,
    "rope_theta": float("inf"),
}


@pytest.mark.parametrize("entry", IMPOSSIBLE)
def test_impossible_sizes_are_named_and_never_built(copy: Path, entry: str):
    *sections, name = entry.split(".")

    def change(config: dict) -> None:
        for section in sections:
            config = config[section]
        config[name] = IMPOSSIBLE[entry]

    edit_config(copy, change)
    with pytest.raises(ConfigError, match=name) as caught:
        baichuan_audio.load(copy)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_directories_get_one_clear_sentence(copy: Path, damage: str):
    change, told = DAMAGES[damage]
    change(copy)
    with pytest.raises((CheckpointError, ConfigError), match=told) as caught:
        baichuan_audio.load(copy)
    assert_one_sentence(caught.value)


def test_index_problems(checkpoint_dir: Path, tmp_path: Path):
    directory = tmp_path / "sharded"
    baichuan_audio.save(baichuan_audio.load(checkpoint_dir), directory, max_shard_bytes=2_000_000)
    index = directory / "model.safetensors.index.json"
    whole = index.read_text()
    for text, told in (
        ("{}", "weight_map"),
        (whole[:200], "not valid JSON"),
        (whole.replace("model-00001-of", "../model-00001-of"), "outside the checkpoint"),
        (whole.replace("model-00001-of", "model-99999-of"), "missing"),
    ):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=told) as caught:
            baichuan_audio.load(directory)
        assert_one_sentence(caught.value)


@pytest.mark.parametrize("name", ["/no/such/place", "no such place", "nowhere"])
def test_no_such_directory(name: str):
    with pytest.raises(CheckpointError, match="no such checkpoint directory"):
        baichuan_audio.load(name)


def test_a_file_is_no_directory(checkpoint_dir: Path):
    with pytest.raises(CheckpointError, match="give the checkpoint's directory"):
        baichuan_audio.load(checkpoint_dir / "model.safetensors")


def test_impossible_devices(checkpoint_dir: Path):
    for device in ("cuda:99", "abacus"):
        with pytest.raises(ConfigError, match="cannot be used here"):
            baichuan_audio.load(checkpoint_dir, device=device)


@pytest.mark.parametrize("dtype", ["float32", torch.int64])
def test_impossible_types(checkpoint_dir: Path, dtype):
    with pytest.raises(ConfigError, match="floating-point type"):
        baichuan_audio.load(checkpoint_dir, dtype=dtype)


def test_malicious_vocoder_runs_nothing(copy: Path, tmp_path: Path):
    """A pickle that would write a file when read in full: it must be refused, not run."""
    import os
    import pickle

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (copy / "hift.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        baichuan_audio.load(copy)
    assert not (tmp_path / "ran").exists()
