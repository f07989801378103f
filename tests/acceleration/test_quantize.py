"""Quantised weights: how far the logits move, how much memory they take, and what cannot be had where."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from baichuan_audio.acceleration import optimize, optimize_for_inference, weight_bytes
from baichuan_audio.acceleration.cpu.kernels import library
from baichuan_audio.acceleration.optimize import joined_copy
from baichuan_audio.acceleration.quantization import Int8Linear, with_torchao
from baichuan_audio.errors import ConfigError
from baichuan_audio.model import BaichuanAudio


def _error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


@torch.inference_mode()
def test_an_int8_layer_is_near_its_source() -> None:
    torch.manual_seed(0)
    source = nn.Linear(300, 200)
    x = torch.randn(7, 300)
    assert _error(Int8Linear(source)(x), source(x)) < 0.03
    source.bias = None
    assert _error(Int8Linear(source)(x), source(x)) < 0.03


@torch.inference_mode()
def test_sums_of_int8_do_not_overflow() -> None:
    source = nn.Linear(300, 200, bias=False)
    source.weight.fill_(1.0)
    torch.testing.assert_close(Int8Linear(source)(torch.ones(3, 300)), torch.full((3, 200), 300.0), rtol=0.02, atol=0)


def _check(model: BaichuanAudio, fast: BaichuanAudio, worst: float) -> None:
    """Near in every logit, smaller, and the model it was made from as it was."""
    before = model.language_model.lm_head.weight.clone()
    device = before.device
    ids = torch.randint(0, 200, (1, 24), device=device)
    with torch.inference_mode():
        hidden, logits = model.language_model(ids)
        assert _error(fast.language_model(ids)[1], logits) < worst
        codes = torch.zeros(24, model.audio_head.num_codebooks, dtype=torch.long, device=device)
        pairs = zip(fast.audio_head.logits(hidden[0], codes), model.audio_head.logits(hidden[0], codes), strict=True)
        assert max(_error(mine, theirs) for mine, theirs in pairs) < worst
    full = model.language_model.layers
    assert weight_bytes(fast.language_model.layers) < 0.6 * sum(p.nbytes for p in full.parameters())
    assert torch.equal(model.language_model.lm_head.weight, before) and type(full[0].self_attn.W_pack) is nn.Linear


@pytest.mark.parametrize("kind, worst", [("int8", 0.05), ("int4", 0.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_cpu(model: BaichuanAudio, kind: str, worst: float, dtype: torch.dtype) -> None:
    if library() is None:
        pytest.skip("there is no C compiler")
    source = model if dtype == torch.float32 else copy.deepcopy(model).bfloat16()
    _check(model, optimize_for_inference(source, kind), worst)


def test_int8_without_a_compiler(model: BaichuanAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "library", lambda: None)
    _check(model, optimize_for_inference(model, "int8"), 0.12)
    with pytest.raises(ConfigError, match="compiler"):
        optimize_for_inference(model, "int4")


def test_int8_by_torchao(model: BaichuanAudio) -> None:
    pytest.importorskip("torchao")
    fast = joined_copy(model)
    with_torchao(fast, "int8")
    _check(model, fast, 0.12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind, worst", [("int8", 0.12), ("int4", 0.6), ("fp8", 0.3)])
def test_on_cuda(model: BaichuanAudio, kind: str, worst: float) -> None:
    pytest.importorskip("torchao")
    there = copy.deepcopy(model).to("cuda", torch.bfloat16)
    _check(there, optimize_for_inference(there, kind), worst)


def test_kinds_that_cannot_be_had(model: BaichuanAudio) -> None:
    with pytest.raises(ConfigError, match="int8, int4, fp8"):
        optimize_for_inference(model, "int3")
    with pytest.raises(ConfigError, match="CUDA"):
        optimize_for_inference(model, "fp8")
