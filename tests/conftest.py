"""Fixtures that many tests share: the golden checkpoint and its cases."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

os.environ.setdefault("HF_HUB_OFFLINE", "1")

FIXTURES = Path(__file__).parent / "fixtures"
GOLDEN = FIXTURES / "tiny-a"
CHECKPOINT = GOLDEN / "checkpoint"


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Tiny tensors gain nothing from more, and threads of several processes wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint_dir() -> Path:
    """A released-layout directory with random weights (bfloat16) and a HiFT vocoder."""
    return CHECKPOINT


@pytest.fixture(scope="session")
def cases() -> dict[str, torch.Tensor]:
    """Inputs and outputs of every stage for that checkpoint, computed in float32."""
    return load_file(GOLDEN / "cases.safetensors")


@pytest.fixture(scope="session")
def case_settings() -> dict[str, object]:
    """Counts and penalties of the golden greedy run."""
    return json.loads((GOLDEN / "cases.json").read_text())


@pytest.fixture(scope="session")
def model():
    """The golden checkpoint in float32; shared, so tests must not change it."""
    import baichuan_audio

    return baichuan_audio.load(CHECKPOINT, dtype=torch.float32, device="cpu")
