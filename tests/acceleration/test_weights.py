"""How much memory an inference copy takes: each weight once, in the fewest bits that hold it."""

from __future__ import annotations

import ctypes
import gc
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from baichuan_audio.acceleration import load_for_inference, optimize_for_inference, weight_bytes
from baichuan_audio.acceleration.cpu import kernels
from baichuan_audio.acceleration.cpu.model import CompiledPatchConv, is_packed, is_patch_conv, with_compiled_linears
from baichuan_audio.acceleration.cuda.static_cache import zeros
from baichuan_audio.acceleration.weights import CompactEmbedding, FileEmbedding
from baichuan_audio.checkpoint import load
from baichuan_audio.compressed import compress
from baichuan_audio.errors import CheckpointError
from baichuan_audio.language_model.sampling import Sampling
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.safetensors_io import StoredTensor, find_tensors

ROOT = Path(__file__).parents[2]
NANO, TINY = ROOT / "models" / "nano", ROOT / "tests" / "fixtures" / "tiny-a" / "checkpoint"
UNUSED = ("embed_tokens", "embed_avg", "cluster_size")
"""Stays in the file, or is for training alone."""


@pytest.fixture(scope="module")
def compiled() -> ctypes.CDLL:
    made = kernels.library()
    return made if made is not None else pytest.skip("there is no C compiler")


def live_bytes() -> int:
    """Bytes of all tensors that Python can reach, memory that several share counted once; other kinds of tensors, which
    earlier tests may have left, have no memory of their own."""
    gc.collect()
    storages = dict[int, int]()
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and not thing.is_meta:
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


def least_bytes(model: BaichuanAudio) -> int:
    """What the weights of a loaded model take where each is in memory once, packed ones in 16 bits."""
    packed = tuple(f"{name}." for name, module in model.named_modules() if name and is_packed(module))
    tables = "language_model.audio_embed_layers"
    total = 0
    for name, tensor in model.state_dict().items():
        if not any(unused in name for unused in UNUSED):
            half = name.startswith(packed) and not name.startswith(tables) and tensor.ndim > 1
            total += tensor.numel() * (2 if half else 4)
    return total


def test_every_weight_is_in_memory_once(compiled: ctypes.CDLL) -> None:
    """nano is stored in 16 bits. Its smallest matrix of note, lm_head, is 2 % of all: held twice, this fails."""
    least = least_bytes(load(NANO, dtype=torch.float32))
    before = live_bytes()
    model = load_for_inference(NANO, dtype=torch.float32)
    assert live_bytes() - before == pytest.approx(least, rel=0.015)
    assert weight_bytes(model) == pytest.approx(least, rel=0.015)


def test_a_model_that_was_in_memory_can_be_freed(compiled: ctypes.CDLL) -> None:
    """But for the text embeddings, which are not read from the file then."""
    before = live_bytes()
    source = load(NANO, dtype=torch.float32)
    least, table = least_bytes(source), source.language_model.embed_tokens.weight.numel() * 2
    optimized = optimize_for_inference(source)
    del source
    assert live_bytes() - before == pytest.approx(least + table, rel=0.015)
    assert optimized.inference_only


@pytest.mark.parametrize("kind", [None, "int8", "int4"])
@pytest.mark.parametrize("stored", ["16 bits", "8 bits"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_it_is_the_model_that_load_and_optimize_make(
    compiled: ctypes.CDLL, tmp_path: Path, kind: str | None, stored: str, dtype: torch.dtype
) -> None:
    path = TINY
    if stored == "8 bits":
        path = tmp_path / "compressed"
        compress(TINY, path)
    mine, theirs = load_for_inference(path, kind, dtype), optimize_for_inference(load(path, dtype=dtype), kind)
    ids = torch.randint(3, 200, (1, 40))
    for tokens in (ids, ids[:, :3]):
        both = mine.language_model(tokens), theirs.language_model(tokens)
        torch.testing.assert_close(*both, rtol=0, atol=0)
    prompt = [*range(3, 40), tuple(0 for _ in mine.tokenizer.codebook_sizes), 5]
    embedded = (each.language_model.embed_sequence(prompt) for each in (mine, theirs))
    torch.testing.assert_close(*embedded, rtol=0, atol=0)
    waveform = torch.randn(16000) * 0.1
    codes = mine.tokenizer.encode(waveform, 16000)
    assert torch.equal(codes, theirs.tokenizer.encode(waveform, 16000))
    torch.testing.assert_close(mine.tokenizer.decode(codes), theirs.tokenizer.decode(codes), rtol=0, atol=0)
    replies = []
    for model in (mine, theirs):
        session = model.start([5, 6, 7], seed=0)
        replies.append((session.write_text(4, Sampling()).tolist(), session.write_codes(3, Sampling()).tolist()))
    assert replies[0] == replies[1]


def test_rows_of_a_file(tmp_path: Path) -> None:
    path = shutil.copy(NANO / "model.safetensors", tmp_path)
    stored = find_tensors(tmp_path)["model.embed_tokens.weight"]
    assert isinstance(stored, StoredTensor)
    table, rows = stored.read().float(), FileEmbedding(stored)
    ids = torch.tensor([[0, 5, 5], [1, len(table) - 1, 0]])
    assert torch.equal(rows(ids), table[ids]) and np.array_equal(rows.row(5), table[5].numpy())
    for id in (-1, len(table)):
        with pytest.raises(IndexError, match=f"of {len(table)} rows"):
            rows.row(id)
    Path(path).write_bytes(b"")
    with pytest.raises(CheckpointError, match="has become shorter"):
        rows.row(5)


def test_a_table_has_16_bits_where_that_is_exact() -> None:
    exact, ids = torch.randn(7, 6).bfloat16().float(), torch.tensor([3, 0, 3])
    for table, size in ((exact, 2), (torch.randn(7, 6), 4), (exact.bfloat16(), 2)):
        compacted = CompactEmbedding(table)
        assert weight_bytes(compacted) == size * table.numel()
        assert torch.equal(compacted(ids), table[ids].float())
        assert compacted.row(3).dtype == np.float32 and np.array_equal(compacted.row(3), table[3].float().numpy())


@torch.inference_mode()
def test_a_compiled_layer_counts_its_packed_weights_alone(compiled: ctypes.CDLL) -> None:
    layer = nn.Sequential(nn.Linear(64, 96), nn.Linear(64, 96, bias=False))
    layer.requires_grad_(False)
    layer[0].weight.copy_(layer[0].weight.bfloat16())
    made = with_compiled_linears(layer, compiled)
    shape_only = 4  # the one number of a weight that has only a shape
    assert weight_bytes(made[0]) == 2 * 64 * 96 + 4 * 96 + shape_only
    assert weight_bytes(made[1]) == 4 * 64 * 96 + shape_only


@torch.inference_mode()
def test_patches_that_do_not_overlap_are_products(compiled: ctypes.CDLL) -> None:
    source = nn.Conv1d(6, 40, 4, stride=4)
    made, x = CompiledPatchConv(source, compiled), torch.randn(2, 6, 23)
    torch.testing.assert_close(made(x), source(x), rtol=1e-4, atol=1e-5)
    assert is_patch_conv(source)
    others = nn.Conv1d(6, 40, 4, stride=2), nn.Conv1d(6, 40, 4, 4, padding=1), nn.Conv1d(6, 40, 1)
    assert not any(map(is_patch_conv, others))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_cache_takes_memory_where_it_is_written_to() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()

    before = resident()
    store = zeros((256, 1 << 18), torch.float32, torch.device("cpu"))
    store[5, 7:9] = 3.0
    assert store[5, 5:11].tolist() == [0.0, 0.0, 3.0, 3.0, 0.0, 0.0]
    assert resident() - before < store.nbytes / 16
