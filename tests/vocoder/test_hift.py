"""HiFT against the golden case, its sizes, both key styles and bad files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from baichuan_audio.errors import CheckpointError
from baichuan_audio.vocoder.hift import Hift, HiftConfig, load_hift, save_hift

GOLDEN = Path(__file__).parent.parent / "fixtures" / "tiny-a"
FILES = {"released": GOLDEN / "checkpoint" / "hift.pt", "newer keys": GOLDEN / "hift_parametrized.pt"}


@pytest.fixture(scope="module")
def cases() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "cases.safetensors")


def relative_error(given: torch.Tensor, wanted: torch.Tensor) -> float:
    assert given.shape == wanted.shape
    return float((given - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("style", FILES)
@torch.no_grad()
def test_every_stage_matches_the_golden_case(style: str, cases: dict[str, torch.Tensor]) -> None:
    vocoder = load_hift(FILES[style])
    mel = cases["vocoder_mel"]
    assert relative_error(vocoder.f0(mel), cases["vocoder_f0"]) < 1e-5
    source = vocoder.source(cases["vocoder_f0"], quiet=True)
    assert relative_error(source, cases["vocoder_source"]) < 1e-5
    assert relative_error(vocoder.decode(mel, cases["vocoder_source"]), cases["vocoder_wave"]) < 1e-5
    waveform = vocoder(mel)
    assert waveform.shape == (2, 23 * 480) and waveform.isfinite().all()


def test_sizes_are_read_off_the_tensors() -> None:
    assert load_hift(FILES["released"]).config == HiftConfig(base_channels=32, f0_channels=32)


@torch.no_grad()
def test_other_sizes_come_back_from_their_tensors() -> None:
    config = HiftConfig(
        num_mel_bins=20,
        base_channels=16,
        upsample_rates=(5, 4),
        upsample_kernels=(9, 8),
        residual_kernels=(3, 5),
        source_kernels=(5, 7),
        num_dilations=2,
        num_harmonics=5,
        f0_channels=12,
        n_fft=8,
    )
    made = Hift(config).eval()
    read = Hift.from_state_dict(made.released_state_dict(), hop_length=config.hop_length)
    assert read.config == config
    mel = torch.randn(1, 20, 9)
    source = read.source(read.f0(mel), quiet=True)
    assert torch.equal(made.decode(mel, source), read.decode(mel, source))
    assert source.shape == (1, 1, 9 * config.hop_length)


def test_saving_keeps_every_bit_and_the_released_names(tmp_path: Path) -> None:
    original = torch.load(FILES["released"], weights_only=True)
    save_hift(load_hift(FILES["newer keys"]), tmp_path / "hift.pt")
    written = torch.load(tmp_path / "hift.pt", weights_only=True)
    assert written.keys() == original.keys()
    assert all(torch.equal(written[key], original[key]) for key in original)


def test_quiet_source_is_repeatable_and_a_usual_one_is_not() -> None:
    vocoder = load_hift(FILES["released"])
    f0 = torch.full((1, 4), 120.0)
    assert torch.equal(vocoder.source(f0, quiet=True), vocoder.source(f0, quiet=True))
    assert not torch.equal(vocoder.source(f0), vocoder.source(f0))
    seeded = [vocoder.source(f0, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*seeded)


def test_files_that_are_no_vocoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no vocoder file"):
        load_hift(tmp_path / "none.pt")
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"not a file of tensors")
    with pytest.raises(CheckpointError, match="not a PyTorch file"):
        load_hift(bad)
    tensors = torch.load(FILES["released"], weights_only=True)
    tensors["conv_pre.bias"] = torch.zeros(3)
    del tensors["ups.1.bias"]
    tensors["extra"] = torch.zeros(1)
    torch.save(tensors, bad)
    with pytest.raises(CheckpointError, match=r"missing ups\.1\.bias.*unexpected extra.*conv_pre\.bias is \(3,\)"):
        load_hift(bad)
    torch.save({"a": torch.zeros(1)}, bad)
    with pytest.raises(CheckpointError, match="not a HiFT"):
        load_hift(bad)
