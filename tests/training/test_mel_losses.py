"""What the tokenizer's mels are judged by: the recording's own mel is best, and padding makes no difference."""

import numpy as np
import pytest
import torch

from baichuan_audio.audio.mel import MelConfig, natural_log_mel
from baichuan_audio.audio_tokenizer import AudioTokenizer
from baichuan_audio.training.tokenizer.mel_losses import decode_rows, level_with, mel_losses

MEL = MelConfig(16000, 1024, 256, 80)


def sounds() -> tuple[torch.Tensor, torch.Tensor]:
    """Two sounds, harmonics and noise, the second with silence behind it: waveforms [2, S], samples [2]."""
    time = np.arange(16000) / 16000
    random = np.random.default_rng(0)
    harmonic = sum(np.sin(2 * np.pi * 130 * h * time) / h for h in range(1, 20)) * 0.2 * (1 + np.sin(9 * time))
    noise = 0.1 * random.standard_normal(16000)
    noise[12000:] = 0
    return torch.from_numpy(np.stack([harmonic, noise])).float(), torch.tensor([16000, 12000])


def test_no_scale_asks_for_a_clearly_louder_or_softer_mel() -> None:
    waveforms, samples = sounds()
    truth = natural_log_mel(waveforms, MEL).transpose(1, 2)
    lengths = torch.tensor([truth.shape[1], 12000 // 256])

    def second_scale(shift: float) -> float:
        made = truth + shift
        found = mel_losses((made, made, lengths), waveforms, samples, MEL, 1e-5, 0.5)
        assert found["coarse_mel"] == found["refined_mel"] == pytest.approx(abs(shift) + 0.5 * shift**2, abs=1e-4)
        return float(found["second_scale"])

    right = second_scale(0.0)  # what remains is the finer detail of the longer window
    for shift in (0.3, 1.0):
        assert min(second_scale(shift), second_scale(-shift)) > right + 0.01


def test_the_wide_mel_has_the_narrow_ones_level_in_every_band() -> None:
    torch.manual_seed(0)
    wide, narrow, lengths = torch.randn(2, 9, 4) + 3, torch.randn(2, 9, 4), torch.tensor([9, 5])
    moved = level_with(wide, narrow, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert torch.allclose(moved[row, :length].mean(0), narrow[row, :length].mean(0), atol=1e-6)
        assert torch.allclose(moved[row, :length].std(0), wide[row, :length].std(0), atol=1e-6)


@pytest.mark.parametrize("segment_norm", [False, True])
def test_a_row_is_decoded_as_if_it_were_alone(segment_norm: bool) -> None:
    config = {
        "audio_config": {
            "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
            "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "num_mel_bins": 40,
            "max_audio_seconds": 4, "segment_norm": segment_norm, "vq_config": {"codebook_sizes": [16, 8]},
        },
        "vocoder_config": {"channels": [16, 16]},
    }  # fmt: skip
    torch.manual_seed(0)
    tokenizer = AudioTokenizer.from_config(config)
    vectors = torch.randn(2, 11, tokenizer.config.d_model * tokenizer.config.avg_pooler)
    with torch.no_grad():
        coarse, refined, frames = decode_rows(tokenizer, vectors, torch.tensor([7, 11]))
        alone = decode_rows(tokenizer, vectors[:1, :7], torch.tensor([7]))
    assert frames[0] == alone[2][0] < frames[1] == coarse.shape[1]
    for together, single in ((coarse, alone[0]), (refined, alone[1])):
        assert torch.allclose(together[0, : frames[0]], single[0], atol=1e-5)
