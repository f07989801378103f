"""Reading, writing, resampling and joining waveforms, and what is refused."""

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from baichuan_audio.audio.waveform import crossfade, decibels, load_waveform, prepare_waveform, resample, save_waveform
from baichuan_audio.errors import AudioError


def tone(rate: int, seconds: float = 0.5, frequency: float = 440.0) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * frequency * torch.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_any_rate_and_format_comes_back_as_the_same_tone(tmp_path: Path, suffix: str, rate: int) -> None:
    path = tmp_path / f"tone.{suffix}"
    save_waveform(path, tone(rate), rate)
    waveform = load_waveform(path, 16000)
    middle = slice(2000, 6000)
    # at least the energy and the zero crossings of a 440 Hz tone, whatever delay the format adds
    assert abs(decibels(waveform[middle]) - decibels(tone(16000)[middle])) < 0.5
    crossings = int((waveform[middle].sign().diff() != 0).sum())
    assert abs(crossings - 2 * 440 * 4000 / 16000) <= 3


def test_a_file_that_was_cut_short_ends_where_its_samples_end(tmp_path: Path) -> None:
    tone = 0.3 * torch.sin(torch.arange(48_000) / 9)
    save_waveform(tmp_path / "whole.mp3", tone, 24_000)
    data = (tmp_path / "whole.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) // 2])
    load_waveform(tmp_path / "whole.mp3", 24_000)  # leaves its samples in memory that is used again
    cut = load_waveform(tmp_path / "cut.mp3", 24_000)
    assert 20_000 < len(cut) < 28_000 and cut.abs().max() < 0.5


def test_a_stream_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    sound = pytest.importorskip("baichuan_audio.server.audio.output")
    encoder = sound.AudioEncoder("flac", 24_000)
    tone = 0.3 * torch.sin(torch.arange(24_000) / 9)
    (tmp_path / "stream.flac").write_bytes(encoder.push(tone) + asyncio.run(encoder.finish()))
    read = load_waveform(tmp_path / "stream.flac", 24_000)
    assert torch.allclose(read, tone, atol=1e-3)


def test_channels_are_mixed(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left, right = tone(16000).numpy(), tone(16000, frequency=880).numpy()
    soundfile.write(path, np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(load_waveform(path, 16000).numpy(), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such audio file"), (b"", "not audio"), (b"hello, this is text" * 50, "not audio")],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "question.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AudioError, match=words) as caught:
        load_waveform(path, 16000)
    assert str(path) in str(caught.value)


def test_a_file_of_ten_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.wav"
    with path.open("wb") as file:
        file.truncate(10 * 1024**3)
    with pytest.raises(AudioError, match="larger than 2 GiB"):
        load_waveform(path, 16000)


def test_empty_and_not_finite_samples_are_refused() -> None:
    with pytest.raises(AudioError, match="no samples"):
        prepare_waveform(torch.zeros(0), 16000, 16000)
    with pytest.raises(AudioError, match="NaN"):
        prepare_waveform(torch.tensor([0.0, float("nan")]), 16000, 16000)
    with pytest.raises(AudioError, match="impossible"):
        prepare_waveform(torch.zeros(8), 0, 16000)


def test_saving_leaves_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no audio format that can be written"):
        save_waveform(tmp_path / "answer.txt", tone(16000), 16000)
    with pytest.raises(AudioError, match="does not exist"):
        save_waveform(tmp_path / "nowhere" / "answer.wav", tone(16000), 16000)
    assert list(tmp_path.iterdir()) == []


def test_crossfade_of_a_constant_is_that_constant() -> None:
    joined = crossfade(torch.ones(100), torch.ones(80), 30)
    torch.testing.assert_close(joined, torch.ones(150))


def test_crossfade_is_limited_by_the_shorter_side() -> None:
    assert crossfade(torch.ones(100), torch.ones(10), 30).shape == (100,)
    assert crossfade(torch.ones(5), torch.zeros(0), 30).shape == (5,)


def test_resampling_keeps_the_length_in_seconds() -> None:
    assert abs(len(resample(tone(24000), 24000, 16000)) - 8000) <= 1


@pytest.mark.parametrize(
    ("dtype", "full_scale"),
    [(np.int8, 2**7), (np.int16, 2**15), (np.int32, 2**31), (np.int32, 2**23), (np.int32, 2**15), (np.int64, 2**15)],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_whole_numbers_are_taken_at_their_scale(dtype: type, full_scale: int, channels: int) -> None:
    wave = tone(16_000).numpy()
    samples = np.repeat((wave * full_scale)[None], channels, axis=0).astype(dtype).squeeze()
    read = prepare_waveform(torch.as_tensor(samples), 16_000, 16_000)
    np.testing.assert_allclose(read.numpy(), wave, atol=1.5 / min(full_scale, 2**15))


def test_unsigned_bytes_floats_that_were_not_divided_and_types_that_are_none() -> None:
    wave = tone(16_000)
    unsigned = (wave * 127 + 128).round().to(torch.uint8)
    torch.testing.assert_close(prepare_waveform(unsigned, 16_000, 16_000), wave, atol=0.01, rtol=0)
    torch.testing.assert_close(prepare_waveform(wave * 32_767, 16_000, 16_000), wave, atol=1e-3, rtol=0)
    torch.testing.assert_close(prepare_waveform(wave.half(), 16_000, 16_000), wave, atol=1e-3, rtol=0)
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(AudioError, match="give floating-point"):
            prepare_waveform(torch.ones(99, dtype=dtype), 16_000, 16_000)


@pytest.mark.parametrize("time_first", [False, True])
def test_channels_of_a_waveform_that_cancel(time_first: bool) -> None:
    wave = tone(16_000)
    opposite = torch.stack([wave, -wave])
    read = prepare_waveform(opposite.T if time_first else opposite, 16_000, 16_000)
    torch.testing.assert_close(read.abs(), wave.abs())
    silent = torch.stack([torch.zeros_like(wave), wave])
    torch.testing.assert_close(prepare_waveform(silent, 16_000, 16_000), wave)
