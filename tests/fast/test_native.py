"""The compiled steps: against torch, for sizes that fill no panel, and where they cannot be compiled."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from baichuan_audio.fast import accelerate, native
from baichuan_audio.fast.native_model import FEW, NativeLanguageModel
from baichuan_audio.pipeline import BaichuanAudio


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
    packed = native.Packed(compiled, weight, bias)
    plain = native.Packed(compiled, weight)
    assert packed.structure.half == half and packed.weight.nbytes == -(-outputs // 16) * 16 * inputs * (
        2 if half else 4
    )
    for rows in range(1, 10):
        x, rest = torch.randn(rows, inputs), torch.randn(rows, outputs)
        out, onto = torch.full((rows + 1, outputs), 7.0), rest.clone()
        compiled.product(ctypes.byref(packed.structure), x.data_ptr(), rows, out.data_ptr(), 0)
        compiled.product(ctypes.byref(plain.structure), x.data_ptr(), rows, onto.data_ptr(), 1)
        torch.testing.assert_close(out[:rows], F.linear(x, weight, bias), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(onto, F.linear(x, weight) + rest, rtol=1e-4, atol=1e-5)
        assert bool((out[rows] == 7.0).all())  # nothing behind it is touched


@torch.inference_mode()
def test_weights_of_half_the_bytes_compute_the_same(compiled: ctypes.CDLL, model: BaichuanAudio) -> None:
    for parameter in model.language_model.parameters():
        parameter.copy_(parameter.bfloat16())
    twin = accelerate(model).language_model
    assert isinstance(twin, NativeLanguageModel) and twin.lm_head.packed.structure.half  # type: ignore[union-attr]
    ids = torch.randint(0, 200, (1, 9))
    mine, theirs = (part.hidden(part.embed(ids), part.init_cache()) for part in (twin, model.language_model))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_rows_and_positions_that_follow_cached_ones(compiled: ctypes.CDLL, plain: BaichuanAudio) -> None:
    twin = accelerate(plain).language_model
    batch, width = 3, plain.language_model.config.hidden_size
    mine, theirs = twin.init_cache(batch, 8), plain.language_model.init_cache(batch, 8)
    for count in (FEW, 1, 2, 1, FEW // batch, 1):  # the first and the fifth as a prompt, the others as steps
        x = torch.randn(batch, count, width)
        torch.testing.assert_close(twin.hidden(x, mine), plain.language_model.hidden(x, theirs), rtol=1e-4, atol=1e-5)
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
        twin = accelerate(plain)
    assert not isinstance(twin.language_model, NativeLanguageModel)
    assert len([line for line in caplog.messages if "native steps" in line]) == 1
    assert not list(fresh.glob("*.so"))
