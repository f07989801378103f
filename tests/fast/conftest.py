"""The golden checkpoint, as loaded and accelerated."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from baichuan_audio.fast import accelerate
from baichuan_audio.fast.accelerate import twin_of
from baichuan_audio.pipeline import BaichuanAudio

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


@pytest.fixture(scope="session", params=DEVICES)
def plain(request: pytest.FixtureRequest, model: BaichuanAudio) -> BaichuanAudio:
    """The checkpoint in float32, on every device there is."""
    return copy.deepcopy(model).to(request.param)


@pytest.fixture(scope="session")
def fast(plain: BaichuanAudio) -> BaichuanAudio:
    return accelerate(plain)


@pytest.fixture(scope="session", params=["quick", "joined"])
def twin(request: pytest.FixtureRequest, plain: BaichuanAudio) -> BaichuanAudio:
    """Either kind of inference forms."""
    return twin_of(plain, quick=request.param == "quick")


@pytest.fixture(scope="session")
def steps(plain: BaichuanAudio) -> BaichuanAudio:
    """The forms that a Decoder takes, on a CPU as well."""
    return twin_of(plain, quick=False)


@pytest.fixture(scope="session")
def close() -> dict[str, Any]:
    return {"rtol": 1e-4, "atol": 1e-5}
