"""A grown model computes the same, and what is new in it can learn."""

from pathlib import Path

import pytest
import torch

import baichuan_audio
from baichuan_audio.errors import TrainingError
from baichuan_audio.training.common.assemble import assemble
from baichuan_audio.training.common.expand import Sizes, expand


def test_a_grown_language_model_computes_the_same_and_learns(base: Path, tmp_path: Path) -> None:
    large = expand(base, tmp_path / "large", Sizes(layers=3, intermediate_size=96))
    small, loaded = baichuan_audio.load(base), baichuan_audio.load(tmp_path / "large")
    assert loaded.config == small.config | {"num_hidden_layers": 3, "intermediate_size": 96}
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(loaded.language_model(ids)[1], small.language_model(ids)[1])
    for name in ("tokenizer.", "flow.", "vocoder.", "audio_head."):
        kept = {key: value for key, value in small.state_dict().items() if key.startswith(name)}
        assert kept and all(torch.equal(loaded.state_dict()[key], value) for key, value in kept.items())

    large.requires_grad_(True).language_model(ids)[1].logsumexp(-1).sum().backward()
    for layer in large.language_model.layers:
        assert layer.self_attn.o_proj.weight.grad.abs().sum() > 0
        assert layer.mlp.down_proj.weight.grad[:, 64:].abs().sum() > 0


def test_a_grown_tokenizer_hears_the_same(base: Path, tmp_path: Path) -> None:
    expand(base, tmp_path / "large", Sizes(encoder_layers=3, decoder_layers=2))
    small, loaded = (baichuan_audio.load(path).tokenizer for path in (base, tmp_path / "large"))
    assert len(loaded.encoder.layers) == 3 and len(loaded.decoder.layers) == 2
    waveform = torch.randn(16000, generator=torch.Generator().manual_seed(0)) * 0.1
    features = small.features(small.log_mel(waveform, 16000))
    torch.testing.assert_close(loaded.features(loaded.log_mel(waveform, 16000)), features)
    embedded = small.dequantize(small.quantize(features))
    torch.testing.assert_close(loaded.decoder_hidden(embedded), small.decoder_hidden(embedded))


def test_types_stay_and_less_is_refused(base: Path, tmp_path: Path) -> None:
    assemble(base, tmp_path / "half", dtype=torch.bfloat16)
    halves = expand(tmp_path / "half", tmp_path / "large", Sizes(layers=2, intermediate_size=96)).language_model
    assert halves.lm_head.weight.dtype == halves.layers[1].mlp.up_proj.weight.dtype == torch.bfloat16
    with pytest.raises(TrainingError, match="num_hidden_layers is 1 already"):
        expand(base, tmp_path / "nothing", Sizes(layers=1))
    assert not (tmp_path / "nothing").exists()
