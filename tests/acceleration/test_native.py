"""The compiled steps: against torch, for sizes that fill no panel, and where they cannot be compiled."""

from __future__ import annotations

import copy
import ctypes
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.acceleration.cpu import kernels as native
from baichuan_audio.acceleration.cpu.model import MAX_STEP_POSITIONS, NativeAudioHead, NativeLanguageModel
from baichuan_audio.engine.kv_slots import SlotCache, SlotTokens
from baichuan_audio.generation.session import Session
from baichuan_audio.language_model.sampling import Sampling
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.reference import ReferenceSession


@pytest.fixture(scope="module")
def compiled() -> ctypes.CDLL:
    made = native.library()
    return made if made is not None else pytest.skip("there is no C compiler")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Nothing compiled yet, an empty cache folder, and all as before afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield tmp_path / "baichuan-audio"
    native.library.cache_clear()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (16, 8), (37, 30), (33, 131)])
def test_products_of_any_size(compiled: ctypes.CDLL, outputs: int, inputs: int, half: bool) -> None:
    weight, bias = torch.randn(outputs, 2 * inputs)[:, inputs:], torch.randn(outputs)
    weight = weight.bfloat16().float() if half else weight
    packed = native.PackedLinear(compiled, weight, bias)
    plain = native.PackedLinear(compiled, weight)
    size = compiled.panel_outputs()
    whole = -(-outputs // size) * size
    assert packed.structure.format == (native.BF16 if half else native.FP32)
    assert packed.weight.nbytes == whole * inputs * (2 if half else 4)
    for rows in range(1, 10):
        x, rest = torch.randn(rows, inputs), torch.randn(rows, outputs)
        out, onto = torch.full((rows + 1, outputs), 7.0), rest.clone()
        packed.multiply(x, out[:rows])
        plain.multiply(x, onto, add=True)
        torch.testing.assert_close(out[:rows], F.linear(x, weight, bias), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(onto, F.linear(x, weight) + rest, rtol=1e-4, atol=1e-5)
        assert bool((out[rows] == 7.0).all())  # nothing behind it is touched


@torch.inference_mode()
def test_weights_of_half_the_bytes_compute_the_same(compiled: ctypes.CDLL, model: BaichuanAudio) -> None:
    for parameter in model.language_model.parameters():
        parameter.copy_(parameter.bfloat16())
    optimized = optimize_for_inference(model).language_model
    assert isinstance(optimized, NativeLanguageModel) and optimized.lm_head.packed.structure.format == native.BF16  # type: ignore[union-attr]
    ids = torch.randint(0, 200, (1, 9))
    mine, theirs = (part.hidden(part.embed(ids), part.init_cache()) for part in (optimized, model.language_model))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_rows_and_positions_that_follow_cached_ones(compiled: ctypes.CDLL, plain: BaichuanAudio) -> None:
    optimized = optimize_for_inference(plain).language_model
    batch, width = 3, plain.language_model.config.hidden_size
    mine, theirs = optimized.init_cache(batch, 8), plain.language_model.init_cache(batch, 8)
    for count in (
        MAX_STEP_POSITIONS,
        1,
        2,
        1,
        MAX_STEP_POSITIONS // batch,
        1,
    ):  # the first and the fifth as a prompt, the others as steps
        x = torch.randn(batch, count, width)
        torch.testing.assert_close(
            optimized.hidden(x, mine), plain.language_model.hidden(x, theirs), rtol=1e-4, atol=1e-5
        )
    assert mine.length == theirs.length


def test_it_is_compiled_once_and_the_cache_is_the_users_own(compiled: ctypes.CDLL, fresh: Path) -> None:
    assert native.library() is not None
    (made,) = fresh.iterdir()
    before = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library() is not None and made.stat().st_mtime_ns == before and list(fresh.iterdir()) == [made]
    assert fresh.stat().st_mode & 0o077 == 0


def test_a_cache_that_others_may_write_to_is_not_used(compiled: ctypes.CDLL, fresh: Path) -> None:
    fresh.mkdir()
    os.chmod(fresh, 0o777)
    assert native.library() is not None
    assert not list(fresh.iterdir())


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler", "sh -c 'echo it is broken >&2; exit 3'"])
def test_without_a_compiler_it_goes_without(
    plain: BaichuanAudio, fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, compiler: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.INFO):
        optimized = optimize_for_inference(plain)
    assert not isinstance(optimized.language_model, NativeLanguageModel)
    assert len([line for line in caplog.messages if "native kernels" in line]) == 1
    assert not list(fresh.glob("*.so"))


# -------------------------------------------------------------------------------------------- bfloat16


@pytest.fixture(scope="module")
def rounded(model: BaichuanAudio) -> BaichuanAudio:
    """The golden checkpoint, which is stored in bfloat16, loaded as it is stored."""
    return copy.deepcopy(model).bfloat16()


@torch.inference_mode()
def test_steps_of_a_model_in_bfloat16_are_those_of_float32(
    compiled: ctypes.CDLL, model: BaichuanAudio, rounded: BaichuanAudio
) -> None:
    """Nothing but the weights is rounded, and those are the same: the bfloat16 model itself is not as near."""
    optimized, ids = optimize_for_inference(rounded), torch.randint(0, 200, (2, 9))
    assert isinstance(optimized.language_model, NativeLanguageModel)
    parts = [each.language_model for each in (optimized, model, rounded)]
    hidden, exact, bare = (part.hidden(part.embed(ids), part.init_cache(2)) for part in parts)
    torch.testing.assert_close(hidden, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts[0].lm_head(hidden), parts[1].lm_head(exact), rtol=1e-4, atol=1e-5)
    codes = torch.stack([torch.randint(0, size, (9,)) for size in model.audio_head.codebook_sizes], dim=1)
    heads = optimized.audio_head.logits(hidden[0], codes), model.audio_head.logits(hidden[0], codes)
    for mine, theirs in zip(*heads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert _error(bare, exact) > 1e-3


@torch.inference_mode()
def test_a_prompt_in_bfloat16_is_nearer_to_float32_than_all_in_bfloat16(
    compiled: ctypes.CDLL, model: BaichuanAudio, rounded: BaichuanAudio
) -> None:
    ids = torch.randint(0, 200, (2, 3 * MAX_STEP_POSITIONS))
    exact = model.language_model(ids)[1]
    mine, theirs = (_error(each.language_model(ids)[1], exact) for each in (optimize_for_inference(rounded), rounded))
    assert mine < 0.01 and mine < theirs


def test_a_model_in_bfloat16_writes_what_it_writes_in_float32(
    compiled: ctypes.CDLL, model: BaichuanAudio, rounded: BaichuanAudio
) -> None:
    def write(session: Session) -> tuple[list[int], list[list[int]]]:
        session.prefill([5, 6, 7, 8])
        session.write_text(4, Sampling(0.9, 20, 0.9, 1.1))
        written = [session.write_codes(count, Sampling(0.9, 5, 0.9, 1.3)).tolist() for count in (5, 3)]
        return session.ids, written

    parts = [(each.language_model, each.audio_head, each.special) for each in (optimize_for_inference(rounded), model)]
    assert write(Session(*parts[0], seed=3)) == write(ReferenceSession(*parts[1], seed=3))


@torch.inference_mode()
def test_slots_of_a_model_in_bfloat16(compiled: ctypes.CDLL, model: BaichuanAudio, rounded: BaichuanAudio) -> None:
    caches = [SlotCache(each.language_model, 2, 100) for each in (optimize_for_inference(rounded), model)]
    for pieces in ([SlotTokens(0, [5, 6, 7])], [SlotTokens(1, [8]), SlotTokens(0, [9, 10])]):
        mine, theirs = (cache.read(pieces) for cache in caches)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_structure_points_to_is_the_twins_own(
    compiled: ctypes.CDLL, model: BaichuanAudio, dtype: torch.dtype
) -> None:
    """The model that it was made from may be gone."""
    optimized = optimize_for_inference(copy.deepcopy(model).to(dtype))
    assert isinstance(optimized.language_model, NativeLanguageModel) and isinstance(
        optimized.audio_head, NativeAudioHead
    )
    own = {each.data_ptr() for each in [*optimized.parameters(), *optimized.buffers()]}
    backbone, head = optimized.language_model._backbone, optimized.audio_head._head
    for stack in (backbone, head):
        assert stack.last.gain in own
        for layer in stack.layers[: stack.count]:
            assert {layer.first.gain, layer.second.gain, layer.pack.weight, layer.pack.bias, layer.mix.weight} <= own


def _error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.float() - expected).norm() / expected.norm())
