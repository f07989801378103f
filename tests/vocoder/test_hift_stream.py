"""HiFT in pieces: exact with enough look-ahead, near it with the usual one, the pitch never off."""

from __future__ import annotations

import pytest
import torch

from baichuan_audio.vocoder import hift_stream
from baichuan_audio.vocoder.hift import Hift, HiftConfig

SMALL = HiftConfig(base_channels=8, num_dilations=2, num_harmonics=3, f0_channels=8)
OTHER = HiftConfig(
    num_mel_bins=20, base_channels=8, upsample_rates=(5, 4), upsample_kernels=(9, 8), residual_kernels=(3, 5),
    source_kernels=(5, 7), num_dilations=2, num_harmonics=4, f0_channels=8, n_fft=8,
)  # fmt: skip


def streamed(vocoder: Hift, mel: torch.Tensor, sizes: list[int], lookahead: int | None = None) -> torch.Tensor:
    state = hift_stream.init_state(vocoder, lookahead=lookahead)
    parts = [vocoder.stream(part, state) for part in mel.split(sizes, dim=2)]
    assert state.mel.shape[2] <= state.context + state.lookahead + max(sizes) + hift_stream.F0_FRAMES
    return torch.cat([*parts, vocoder.stream(mel[..., :0], state, last=True)], dim=1)


@pytest.mark.parametrize("config", [SMALL, OTHER], ids=["released rates", "other rates"])
@torch.no_grad()
def test_stream_equals_the_whole(config: HiftConfig) -> None:
    torch.manual_seed(0)
    vocoder = Hift(config).eval()
    mel = torch.randn(1, config.num_mel_bins, 50)
    whole = vocoder(mel)
    assert torch.equal(vocoder(mel), whole)  # the noise is always the same
    reach = hift_stream.reach(config) + hift_stream.F0_FRAMES
    for sizes in ([50], [5] * 10, [1, 0, 30, 2, 17]):
        torch.testing.assert_close(streamed(vocoder, mel, sizes, reach), whole, rtol=0, atol=1e-4)
        near = streamed(vocoder, mel, sizes)
        assert near.shape == whole.shape
        assert (near - whole).norm() < 0.01 * whole.norm()


@torch.no_grad()
def test_reach_is_what_a_frame_can_change() -> None:
    torch.manual_seed(0)
    vocoder = Hift(SMALL).eval()
    mel = torch.randn(1, 80, 50)
    source = vocoder.source(vocoder.f0(mel), quiet=True)
    mel_changed, source_changed = mel.clone(), source.clone()
    mel_changed[:, :, 25] += 1.0
    source_changed[:, :, 25 * 480 : 26 * 480] += 0.1
    original = vocoder.decode(mel, source)
    for changed in (vocoder.decode(mel_changed, source), vocoder.decode(mel, source_changed)):
        touched = ((changed - original).abs().reshape(-1, 480).amax(dim=1) > 0).nonzero().flatten()
        assert 25 - hift_stream.reach(SMALL) <= touched.min() and touched.max() <= 25 + hift_stream.reach(SMALL)


def test_one_row_only_and_short_streams() -> None:
    vocoder = Hift(OTHER).eval()
    with pytest.raises(ValueError, match="one row"):
        vocoder.init_state(2)
    mel = torch.randn(1, 20, 3)
    with torch.no_grad():
        assert vocoder.stream(mel[..., :0], vocoder.init_state(), last=True).shape == (1, 0)
        assert streamed(vocoder, mel, [1, 1, 1]).shape == (1, 3 * OTHER.hop_length)
