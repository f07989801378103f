"""Starting up: what a program that only loads a model and writes with it must not have to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    *("fastapi", "huggingface_hub", "matplotlib", "pydantic", "ray", "scipy", "sympy", "torchao", "torchaudio"),
    *("torch._dynamo", "torch._inductor", "transformers", "triton", "uvicorn"),
)

_READY = """
import sys, torch, baichuan_audio
from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.language_model.sampling import Sampling
model = baichuan_audio.load(sys.argv[1], dtype=torch.float32)
session = optimize_for_inference(model).start([5, 6, 7], seed=0)
session.write_text(2, Sampling())
session.write_codes(2, Sampling())
print(*[name for name in sys.argv[2].split() if name in sys.modules])
"""


@pytest.mark.parametrize("directory", ["tests/fixtures/tiny-a/checkpoint", "models/nano"])
def test_no_more_is_imported_than_loading_and_writing_need(directory: str) -> None:
    command = [sys.executable, "-c", _READY, str(ROOT / directory), " ".join(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
