"""Whisper: what it is asked, what it says when it is missing."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from baichuan_audio.errors import ConfigError, MissingDependencyError
from baichuan_audio.evaluation.whisper import SAMPLE_RATE, Whisper


class _Model:
    """In place of faster-whisper's."""

    def __init__(self, name: str, **options: Any) -> None:
        if name != "base":
            raise RuntimeError(f"no snapshot of {name}")
        self.asked: dict[str, Any] = {}

    def transcribe(self, samples: np.ndarray, **options: Any) -> tuple[list[Any], None]:
        self.asked = {"samples": samples} | options
        return [SimpleNamespace(text=" two"), SimpleNamespace(text=" words")], None


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("faster_whisper")
    library.__dict__["WhisperModel"] = _Model
    monkeypatch.setitem(sys.modules, "faster_whisper", library)


def test_it_writes_what_it_hears(libraries: None) -> None:
    whisper = Whisper("base", "en")
    assert whisper.transcribe(np.ones(SAMPLE_RATE)) == "two words"
    asked = whisper.model.asked
    assert asked["language"] == "en" and asked["temperature"] == 0.0
    assert asked["samples"].sum() == SAMPLE_RATE and len(asked["samples"]) > SAMPLE_RATE  # silence around


def test_what_is_missing_is_named(libraries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'nowhere' cannot be loaded: .* or a faster-whisper folder.*no snapshot"):
        Whisper("nowhere", "zh")
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'baichuan-audio\[whisper\]'"):
        Whisper("base", "zh")
