"""Start-up: what a program that only loads a model and generates with it does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = (
    *("fastapi", "huggingface_hub", "matplotlib", "pydantic", "ray", "scipy", "sympy", "torchao", "torchaudio"),
    *("torch._dynamo", "torch._inductor", "transformers", "triton", "uvicorn"),
)

_PROGRAM = """
import sys, torch, baichuan_audio
from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.language_model.sampling import Sampling
for directory in sys.argv[2:]:
    model = baichuan_audio.load(directory, dtype=torch.float32)
    session = optimize_for_inference(model).start([5, 6, 7], seed=0)
    session.write_text(2, Sampling())
    session.write_codes(2, Sampling())
    print(*[name for name in sys.argv[1].split() if name in sys.modules])
"""


def test_loading_and_generating_import_nothing_else() -> None:
    """With HiFT as vocoder, then with Vocos."""
    directories = [str(ROOT / name) for name in ("tests/fixtures/tiny-a/checkpoint", "models/nano")]
    command = [sys.executable, "-c", _PROGRAM, " ".join(HEAVY), *directories]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "\n\n"
