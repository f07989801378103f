"""Small random models, exactly causal or not, with either vocoder: only what makes sound of codes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from baichuan_audio.audio_tokenizer.model import AudioTokenizer
from baichuan_audio.flow_decoder import FlowDecoder
from baichuan_audio.synthesis import synthesize
from baichuan_audio.vocoder.hift import Hift, HiftConfig
from baichuan_audio.vocoder.vocos import Vocos, VocosConfig

SIZES = [16, 8, 8]


def small_model(vocoder: str, segment_norm: bool = False, seconds: float = 2.0) -> SimpleNamespace:
    """tokenizer (attention in chunks of 24 frames, pieces of `seconds`), flow decoder and vocoder, random weights."""
    audio = {
        "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_layers": 2,
        "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "segment_norm": segment_norm,
        "max_audio_seconds": seconds, "vq_config": {"codebook_sizes": SIZES},
    }  # fmt: skip
    flow = {
        "prenet_in_dim": 32, "prenet_d_model": 32, "prenet_attention_heads": 2, "prenet_ffn_dim": 48,
        "prenet_nlayers": 2, "prenet_out_dim": 80, "in_channels": 80, "channels": [24], "n_blocks": 1,
        "num_mid_blocks": 1, "num_heads": 2, "attention_head_dim": 8, "diffusion_steps": 3,
        "prenet_max_source_positions": 8, "attention_chunk_frames": 24,
    }  # fmt: skip
    torch.manual_seed(0)
    config = {"audio_config": audio, "vocoder_config": {"channels": [4] * 5}, "flow_matching_config": flow}
    model = SimpleNamespace(
        tokenizer=AudioTokenizer.from_config(config).eval(), flow=FlowDecoder.from_config(config).eval()
    )
    for book in model.tokenizer.bridge.vq_list:
        book.codebook.embed.normal_()  # loud enough that codes matter
    if vocoder == "vocos":
        model.vocoder = Vocos(VocosConfig(dim=12, ffn_dim=20, num_layers=2)).eval()
    else:
        sizes = HiftConfig(
            base_channels=8, residual_kernels=(3, 5), source_kernels=(3, 3, 3), num_dilations=2, num_harmonics=3,
            f0_channels=8,
        )  # fmt: skip
        model.vocoder = Hift(sizes).eval()
    model.tokenizer.attach_synthesis(lambda hidden: synthesize(model, hidden), 24000)
    return model


@pytest.fixture(scope="session", params=["vocos", "hift"])
def small(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Exactly causal, with each of the vocoders; tests must not change it."""
    return small_model(request.param)


@pytest.fixture(scope="session")
def clauses() -> list[Tensor]:
    """Codes [K, T] of three clauses; the second is longer than a piece of two seconds."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.stack([torch.randint(size, (length,), generator=generator) for size in SIZES]) for length in (17, 31, 3)
    ]
