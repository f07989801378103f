"""Batched equals single, causality of the decoder, long audio, refusals; golden values are in test_golden.py."""

import dataclasses

import pytest
import torch

from baichuan_audio.audio_tokenizer import AudioTokenizer
from baichuan_audio.audio_tokenizer.config import AudioConfig, CoarseMelConfig
from baichuan_audio.errors import AudioError, ConfigError

CONFIG = AudioConfig(
    d_model=32,
    encoder_layers=2,
    encoder_attention_heads=2,
    encoder_ffn_dim=48,
    decoder_layers=2,
    decoder_attention_heads=4,
    decoder_ffn_dim=64,
    num_mel_bins=40,
    max_audio_seconds=2,
)


def make(**changes: object) -> AudioTokenizer:
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
    return AudioTokenizer(config, CoarseMelConfig(channels=(16, 16)), (32, 16, 8)).eval()


def test_pieces_in_one_batch_equal_pieces_alone() -> None:
    tokenizer = make()
    waveform = torch.randn(16000 * 5 + 7777) * 0.1
    pieces = [tokenizer.encode(piece, 16000) for piece in waveform.split(32000)]
    assert torch.equal(tokenizer.encode(waveform, 16000), torch.cat(pieces, dim=1))


def test_padding_never_reaches_valid_frames() -> None:
    tokenizer = make()
    mel = torch.randn(1, 40, 61)
    padded = torch.cat([mel, torch.randn(1, 40, 30)], dim=2)
    with torch.no_grad():
        alone = tokenizer.encoder(mel)
        batched = tokenizer.encoder(padded, torch.tensor([61]))
    torch.testing.assert_close(batched[:, : alone.shape[1]], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("segment_norm", [True, False])
def test_decoder_is_causal_exactly_when_frames_are_normalised_alone(segment_norm: bool) -> None:
    tokenizer = make(segment_norm=segment_norm)
    codes = torch.randint(0, 8, (3, 12))
    longer = torch.cat([codes, torch.randint(0, 8, (3, 5))], dim=1)
    first = tokenizer.decoder_hidden(tokenizer.dequantize(codes))
    second = tokenizer.decoder_hidden(tokenizer.dequantize(longer))[: len(first)]
    assert torch.allclose(first, second, atol=1e-5) != segment_norm


def test_shortest_audio() -> None:
    tokenizer = make()
    assert tokenizer.encode(torch.randn(960), 16000).shape == (3, 1)
    with pytest.raises(AudioError, match="at least 60 ms"):
        tokenizer.encode(torch.randn(959), 16000)
    with pytest.raises(AudioError, match="at most 2 s"):
        tokenizer.log_mel(torch.randn(32001), 16000)


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (torch.zeros(2, 4, dtype=torch.long), r"shape \[3, T\]"),
        (torch.zeros(3, 0, dtype=torch.long), r"shape \[3, T\]"),
        (torch.zeros(3, 4), "whole numbers"),
        (torch.full((3, 4), 8), "between 0 and"),
        (torch.full((3, 4), -1), "between 0 and"),
    ],
)
def test_codes_are_checked(codes: torch.Tensor, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        make().dequantize(codes)


def test_a_tokenizer_alone_says_what_decode_needs() -> None:
    with pytest.raises(AudioError, match="flow decoder"):
        make().decode(torch.zeros(3, 4, dtype=torch.long))


def test_long_codes_are_joined_by_cross_fades() -> None:
    tokenizer = make()
    tokenizer.attach_synthesis(lambda hidden: torch.ones(hidden.shape[0] * 480), 24000)
    codes = torch.zeros(3, 60, dtype=torch.long)  # three pieces of at most 25 codes
    waveform = tokenizer.decode(codes)
    frames = (4 * 25 - 1) * 2 + (4 * 10 - 1)
    torch.testing.assert_close(waveform, torch.ones(frames * 480 - 2 * 240))


def test_head_counts_must_divide() -> None:
    with pytest.raises(ConfigError, match="divisible"):
        dataclasses.replace(CONFIG, encoder_attention_heads=5)
