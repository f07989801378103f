"""How Whisper chooses one of several texts."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from baichuan_audio.evaluation.whisper import SAMPLE_RATE
from nano.evaluation.whisper import Whisper

_FRAMES = 30


class _Model:
    """In place of faster-whisper's: each token is as likely as `chances` says, all others certain."""

    def __init__(self, name: str, **options: Any) -> None:
        self.chances: dict[int, float] = {}
        self.hf_tokenizer = None
        self.feature_extractor = _Features()
        self.model = SimpleNamespace(align=self.align)

    def encode(self, features: np.ndarray) -> np.ndarray:
        assert features.shape == (80, _FRAMES)
        return features[None]

    def align(self, encoded: np.ndarray, start: list[int], texts: list[list[int]], num_frames: int) -> list[Any]:
        assert len(encoded) == len(texts) and start == [1, 2] and num_frames == _FRAMES
        return [SimpleNamespace(text_token_probs=[self.chances.get(id, 1.0) for id in ids]) for ids in texts]


class _Features:
    nb_max_frames = _FRAMES

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        return np.zeros((80, len(samples) // 800))


class _Tokenizer:
    sot_sequence, no_timestamps, eot = [1], 2, 3

    def __init__(self, *_: Any, task: str, language: str) -> None:
        assert task == "transcribe" and language in ("en", "zh")

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    library, tokenizer, runtime = (ModuleType(n) for n in ("faster_whisper", "faster_whisper.tokenizer", "ctranslate2"))
    library.__dict__["WhisperModel"] = _Model
    tokenizer.__dict__["Tokenizer"] = _Tokenizer
    runtime.__dict__["StorageView"] = SimpleNamespace(from_array=lambda array: array)
    for module in (library, tokenizer, runtime):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_it_chooses_the_text_that_is_likeliest_to_its_end(libraries: None) -> None:
    whisper = Whisper("base", "zh")
    whisper.model.chances = {ord("二"): 0.5, ord("三"): 0.9, ord("四"): 0.0, 3: 0.25}
    for seconds in (0.0, 1.0, 40.0):  # shorter and longer than it listens
        sound = np.zeros(int(seconds * SAMPLE_RATE))
        assert whisper.choose(sound, ["二", "三", "三二"]) == 1
        two, four = whisper.scores(sound, ["二", "四"])
        assert two == pytest.approx(math.log(0.125)) and -math.inf < four < two


def test_nobody_hears_a_comma(libraries: None) -> None:
    whisper = Whisper("base", "zh")
    whisper.model.chances = {ord("，"): 1e-4, ord("。"): 1e-3, ord("三"): 0.5}
    marked, bare, other = whisper.scores(np.zeros(SAMPLE_RATE), ["一，二。", "一二", "一三"])
    assert marked == bare == 0.0 and other == pytest.approx(math.log(0.5))
