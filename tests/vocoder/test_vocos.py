"""Vocos: lengths, exact streaming, look-ahead, files."""

from pathlib import Path

import pytest
import torch

from baichuan_audio.audio.mel import natural_log_mel
from baichuan_audio.errors import CheckpointError, ConfigError
from baichuan_audio.training.vocoder.losses import pitch
from baichuan_audio.vocoder.excitation import synthesis_window
from baichuan_audio.vocoder.vocos import Vocos, VocosConfig, load_vocos, save_vocos

TINY = VocosConfig(dim=12, ffn_dim=20, num_layers=2)


@pytest.fixture
def vocoder() -> Vocos:
    torch.manual_seed(0)
    return Vocos(TINY).eval()


@pytest.mark.parametrize("frames", [1, 2, 3, 10])
@torch.no_grad()
def test_a_frame_gives_one_hop_of_samples(vocoder: Vocos, frames: int) -> None:
    waveform = vocoder(torch.randn(2, 80, frames))
    assert waveform.shape == (2, 480 * frames) and waveform.isfinite().all()


@pytest.mark.parametrize("sizes", [[1] * 13, [13], [2, 0, 6, 5], [12, 1], [3, 10]])
@torch.no_grad()
def test_chunks_give_what_the_whole_mel_gives(vocoder: Vocos, sizes: list[int]) -> None:
    mel = torch.randn(2, 80, 13)
    state = vocoder.init_state(2)
    parts = [vocoder.stream(chunk, state) for chunk in mel.split(sizes, dim=2)]
    parts.append(vocoder.stream(mel[:, :, :0], state, last=True))
    # F0 is summed to a phase, and with it the rounding that chunk sizes change: 1e-3 is the room for that
    whole = vocoder(mel)
    assert (torch.cat(parts, dim=1) - whole).norm() < 1e-3 * whole.norm()


@torch.no_grad()
def test_the_stream_lags_by_the_look_ahead_and_the_window_only(vocoder: Vocos) -> None:
    state = vocoder.init_state(1)
    given = sum(vocoder.stream(torch.randn(1, 80, 1), state).shape[1] for _ in range(20))
    assert given == (20 - TINY.lookahead_frames) * 480 - TINY.margin


@torch.no_grad()
def test_no_sample_depends_on_a_later_frame_than_the_look_ahead(vocoder: Vocos) -> None:
    mel = torch.randn(1, 80, 30)
    changed = mel.clone()
    changed[:, :, 20] += 1.0
    first = int((vocoder(mel) != vocoder(changed))[0].nonzero()[0])
    # frame 20 is seen by frame 18, whose window begins a margin before its hop; a Hann window starts with a 0
    assert first >= (20 - TINY.lookahead_frames) * 480 - TINY.margin
    assert first <= (20 - TINY.lookahead_frames) * 480


@torch.no_grad()
def test_f0_steers_the_pitch_of_a_steady_mel() -> None:
    """A steady mel must not sound at multiples of the frame rate, which is what Vocos without F0 gives."""
    torch.manual_seed(0)
    vocoder = Vocos(VocosConfig(dim=12, ffn_dim=20, num_layers=1)).eval()
    mel = torch.full((1, 80, 50), -1.0)
    for hz in (83.0, 120.0, 217.0):
        waveform, _ = vocoder.train_forward(mel, torch.full((1, 50), hz), noise_start=0)
        measured, voiced = pitch(waveform, 24000, 480)
        inside = slice(5, 45)
        assert voiced[0, inside].min() == 1
        assert (measured[0, inside] / hz - 1).abs().max() < 0.02


def test_same_padding_matches_that_of_the_mel() -> None:
    waveform = torch.randn(1, 480 * 7)
    assert natural_log_mel(waveform).shape[-1] == 7
    c, hop = TINY, TINY.hop_length
    padded = torch.nn.functional.pad(waveform, (c.margin, c.margin))
    outside = (c.n_fft // 2 - hop,) * 2
    frames = padded.unfold(-1, c.n_fft, hop) * torch.nn.functional.pad(synthesis_window(hop), outside)
    model = Vocos(TINY)
    rebuilt = model._overlap_add(frames, model.init_state(1), last=True)
    assert torch.allclose(rebuilt, waveform.clamp(-1, 1), atol=1e-5)


def test_files_come_back_bit_by_bit(vocoder: Vocos, tmp_path: Path) -> None:
    save_vocos(vocoder, tmp_path / "vocoder.safetensors")
    config = {"mel_vocoder_config": vocoder.config_entry()}
    assert config["mel_vocoder_config"]["type"] == "vocos"
    read = load_vocos(tmp_path / "vocoder.safetensors", config)
    mine, theirs = vocoder.state_dict(), read.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_wrong_files_and_configs_are_named(vocoder: Vocos, tmp_path: Path) -> None:
    save_vocos(vocoder, tmp_path / "v.safetensors")
    entry = vocoder.config_entry()
    with pytest.raises(CheckpointError, match=r"embed\.weight is"):
        load_vocos(tmp_path / "v.safetensors", {"mel_vocoder_config": entry | {"dim": 16}})
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_vocos(tmp_path / "none.safetensors", {"mel_vocoder_config": entry})
    with pytest.raises(ConfigError, match="mel_vocoder_config"):
        Vocos.from_config({})
    with pytest.raises(ConfigError, match="wavenet"):
        Vocos.from_config({"mel_vocoder_config": entry | {"type": "wavenet"}})


def test_it_can_be_laid_out_on_the_meta_device() -> None:
    with torch.device("meta"):
        assert Vocos(TINY).head.out.weight.is_meta
