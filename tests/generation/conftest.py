"""The text tokenizer and control tokens of the golden checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baichuan_audio.language_model.prompt import SpecialTokens
from baichuan_audio.language_model.text_tokenizer import TextTokenizer


@pytest.fixture(scope="session")
def tokenizer(checkpoint_dir: Path) -> TextTokenizer:
    return TextTokenizer.from_file(checkpoint_dir / "tokenizer.json")


@pytest.fixture(scope="session")
def special(checkpoint_dir: Path, tokenizer: TextTokenizer) -> SpecialTokens:
    return SpecialTokens.from_config(json.loads((checkpoint_dir / "config.json").read_text()), tokenizer)
