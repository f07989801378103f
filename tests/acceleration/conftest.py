"""The golden checkpoint, as loaded and accelerated."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest

from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.acceleration.cpu.kernels import library
from baichuan_audio.acceleration.cpu.layers import Fp32Linear, transposed_linear
from baichuan_audio.acceleration.optimize import fused_copy, joined_copy, native_copy
from baichuan_audio.model import BaichuanAudio


class FakeGraphs:
    """Stands for captured steps on a CPU: like a real capture, it runs the step several times before."""

    def __init__(self) -> None:
        self.steps: dict[Hashable, Callable[[], None]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self.steps

    def capture(self, key: Hashable, step: Callable[[], None]) -> None:
        for _ in range(3):
            step()
        self.steps[key] = step

    def replay(self, key: Hashable) -> None:
        self.steps[key]()


@pytest.fixture(scope="session")
def fast(plain: BaichuanAudio) -> BaichuanAudio:
    return optimize_for_inference(plain)


@pytest.fixture(scope="session", params=["native", "quick", "laid out", "joined"])
def optimized(request: pytest.FixtureRequest, plain: BaichuanAudio) -> BaichuanAudio:
    """Each kind of inference forms; the quick ones are for CPUs."""
    if request.param == "joined":
        return joined_copy(plain)
    if plain.language_model.norm.weight.is_cuda:
        pytest.skip("for CPUs")
    if request.param == "native":
        compiled = library()
        return native_copy(plain, compiled) if compiled else pytest.skip("there is no C compiler")
    return fused_copy(plain, Fp32Linear if request.param == "quick" else transposed_linear)


@pytest.fixture(scope="session")
def steps(plain: BaichuanAudio) -> BaichuanAudio:
    """The forms that a Decoder takes, on a CPU as well."""
    return joined_copy(plain)


@pytest.fixture(scope="session")
def close() -> dict[str, Any]:
    return {"rtol": 1e-4, "atol": 1e-5}
