"""What the tests of nano share."""

import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Tiny tensors gain nothing from more, and threads of several processes wait for each other."""
    torch.set_num_threads(1)
