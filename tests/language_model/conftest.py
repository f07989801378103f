"""The golden checkpoint's language parts, loaded straight from its tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from baichuan_audio.language_model.audio_head import AudioHead
from baichuan_audio.language_model.model import LanguageModel
from baichuan_audio.language_model.prompt import SpecialTokens
from baichuan_audio.language_model.text_tokenizer import TextTokenizer

GOLDEN = Path(__file__).parent.parent / "fixtures" / "tiny-a"


@pytest.fixture(scope="session")
def config() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((GOLDEN / "checkpoint/config.json").read_text())
    return result


@pytest.fixture(scope="session")
def run() -> dict[str, Any]:
    """Counts and penalties of the golden run."""
    result: dict[str, Any] = json.loads((GOLDEN / "cases.json").read_text())
    return result


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "cases.safetensors")


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.from_file(GOLDEN / "checkpoint/tokenizer.json")


@pytest.fixture(scope="session")
def special(config: dict[str, Any], tokenizer: TextTokenizer) -> SpecialTokens:
    return SpecialTokens.from_config(config, tokenizer)


def _load(module: nn.Module, prefixes: dict[str, str]) -> None:
    stored = load_file(GOLDEN / "checkpoint/model.safetensors")
    state = {}
    for name, tensor in stored.items():
        for prefix, own in prefixes.items():
            if name.startswith(prefix):
                state[own + name.removeprefix(prefix)] = tensor.float()
    module.load_state_dict(state)
    module.eval()


@pytest.fixture(scope="session")
def language_model(config: dict[str, Any]) -> LanguageModel:
    model = LanguageModel.from_config(config)
    _load(model, {"model.": "", "lm_head.": "lm_head."})
    return model


@pytest.fixture(scope="session")
def audio_head(config: dict[str, Any], language_model: LanguageModel) -> AudioHead:
    head = AudioHead.from_config(config)
    _load(head, {"audio_head.": ""})
    head.attach_embeddings(language_model.audio_embed_layers)
    return head


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference over that of what was expected."""
    return float((actual - expected).norm() / expected.norm())


@pytest.fixture(scope="session")
def error() -> Any:
    torch.set_num_threads(1)
    return relative_error
