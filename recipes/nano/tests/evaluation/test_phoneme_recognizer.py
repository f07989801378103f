"""The recognizer of phonemes: what it chooses and counts, and what it is made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from baichuan_audio.audio_tokenizer import AudioTokenizer
from baichuan_audio.errors import TrainingError
from baichuan_audio.text.phonemes import SYMBOLS, phonetic_symbols
from baichuan_audio.training.common.checkpointing import save_training_state
from baichuan_audio.training.tokenizer.text_loss import PhoneticHead
from nano.evaluation.phoneme_recognizer import PhonemeRecognizer

CONFIG = json.loads((Path(__file__).parents[2] / "config.json").read_text())


@pytest.fixture
def perceptual_model(tmp_path: Path) -> PhonemeRecognizer:
    torch.manual_seed(0)
    tokenizer = AudioTokenizer.from_config(CONFIG)
    head = PhoneticHead(tokenizer.config.d_model * tokenizer.config.avg_pooler, 24)
    save_training_state(tmp_path / "run", 1, {"tokenizer": tokenizer, "phonetic_head": head}, {})
    return PhonemeRecognizer(tmp_path / "run", CONFIG)


def test_it_listens_at_four_places_a_code_frame(perceptual_model: PhonemeRecognizer) -> None:
    log_probabilities = perceptual_model.listen(np.zeros(16000, np.float32))
    assert log_probabilities.shape == (48, len(SYMBOLS))  # 12 whole frames of 80 ms
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(48))


def test_it_chooses_and_counts_by_sounds(perceptual_model: PhonemeRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pocketsphinx")
    pytest.importorskip("pypinyin")
    said = [each for symbol in phonetic_symbols("你好 two") for each in (symbol, 0)]
    spoken = torch.full((len(said), len(SYMBOLS)), -9.0)
    spoken[range(len(said)), said] = -0.01
    monkeypatch.setattr(perceptual_model, "listen", lambda waveform: spoken)
    nothing = np.zeros(1, np.float32)
    assert perceptual_model.choose(nothing, ["您好 ten", "你好 two", "two"]) == 1
    assert perceptual_model.errors(nothing, "你好 two") == (0, len(phonetic_symbols("你好 two")))
    assert perceptual_model.errors(nothing, "你号 two")[0] == 1  # another tone


def test_a_folder_without_a_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no training state"):
        PhonemeRecognizer(tmp_path, CONFIG)
