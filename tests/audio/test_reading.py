"""The reader of audio files: every format by its content, headers that lie, channels, scales, limits, and refusals."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from baichuan_audio.audio import pyav
from baichuan_audio.audio.formats import detect_format, is_plain_wav, misnamed
from baichuan_audio.audio.reading import AudioLimitError, AudioLimits, convert_audio, read_audio
from baichuan_audio.errors import AudioError

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'baichuan-audio[formats]'")

import costly_audio  # noqa: E402
import made_files  # noqa: E402
from made_files import encoded, made, sine  # noqa: E402

RATE = 16_000


def file_of(samples: np.ndarray, rate: int = RATE, format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """samples [C, S] as a file that libsndfile writes."""
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate, format=format, subtype=subtype)
    return file.getvalue()


def assert_tone(waveform: np.ndarray, seconds: float = 1.0, peak: float = 0.5, within: float = 0.15) -> None:
    """The tone of 440 Hz in the middle of the waveform, and about so long."""
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) / RATE - seconds) < within
    middle = waveform[len(waveform) // 4 : 3 * len(waveform) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * RATE / len(middle) - 440) < 5
    assert np.sqrt(2) * middle.std() == pytest.approx(peak, rel=0.2)


ODD_CHANNELS = {
    "one": np.array([[1.0]]),
    "two": np.array([[1.0], [0.5]]),
    "opposite phase": np.array([[1.0], [-0.9]]),
    "one silent": np.array([[1.0], [0.0]]),
    "integers as floats": np.array([[2.0**15]]),
    "opposite phase as integers": np.array([[2.0**15], [-(2.0**15)]]),
}


@pytest.mark.parametrize("channels", ODD_CHANNELS.values(), ids=ODD_CHANNELS.keys())
def test_a_file_is_read_alike_at_once_and_in_blocks(channels: np.ndarray) -> None:
    """Five blocks, so that it is only known at the end what the channels are; the output is begun anew then."""
    data = file_of(channels * sine(15.0, 44_100), 44_100, subtype="FLOAT")
    begun: list[list[np.ndarray]] = []

    def start() -> Any:
        begun.append([])
        return begun[-1].append

    facts = convert_audio(data, RATE, start)
    np.testing.assert_allclose(np.concatenate(begun[-1]), read_audio(data, RATE)[0], atol=1e-6)
    assert_tone(np.concatenate(begun[-1]), 15.0, 0.375 if len(channels) == 2 and channels[1] == 0.5 else 0.5)
    assert (facts.sample_rate, facts.channels, facts.frames) == (44_100, len(channels), 15 * 44_100)
    assert facts.take == (0 if len(channels) == 2 and channels[1] < 0 else None)
    assert len(begun[0]) > 4 and len(begun) == 1 + (facts.take is not None) + (facts.scale != 1.0)


@pytest.mark.parametrize("name", made_files.FORMATS)
def test_formats_of_phones_browsers_and_old_programs(name: str, tmp_path: Path) -> None:
    try:
        data = made(name)
    except ValueError as reason:
        pytest.skip(str(reason))
    assert detect_format(data[:4096]).name != "a format that is not known"
    assert_tone(read_audio(data, RATE)[0])
    for lie in ("question.raw", "question.mp3", "question.wav", "question"):
        (tmp_path / lie).write_bytes(data)
        assert_tone(read_audio(tmp_path / lie, RATE)[0])


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_wav_of_any_rate_and_coding(rate: int, subtype: str) -> None:
    data = file_of(sine(1.0, rate, channels=2), rate, subtype=subtype)
    assert is_plain_wav(data[:64])
    assert_tone(read_audio(data, RATE)[0], within=0.001)
    unchanged, unchanged_rate = read_audio(data)
    assert unchanged_rate == rate and len(unchanged) == rate


def test_a_path_bytes_and_open_files_are_read_alike(tmp_path: Path) -> None:
    data = made("m4a")
    path = tmp_path / "a.m4a"
    path.write_bytes(data)

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    later = io.BytesIO(b"before" + data)
    later.seek(6)
    expected = read_audio(data)[0]
    with path.open("rb") as opened:
        for source in (path, str(path), bytearray(data), memoryview(data), opened, io.BytesIO(data), Pipe(data), later):
            np.testing.assert_array_equal(read_audio(source)[0], expected)
    with path.open("r", encoding="latin-1") as text, pytest.raises(AudioError, match="open for text"):
        read_audio(text)  # type: ignore[arg-type]


# -- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("riff", [0, 8, 36, None, 0xFFFFFFFF])
@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
@pytest.mark.parametrize("extra", [b"", b"LIST\x04\x00\x00\x00INFO"])
def test_a_wav_that_was_never_finished(riff: int | None, length: int, extra: bytes, tmp_path: Path) -> None:
    whole = file_of(sine(1.0, RATE))
    at = whole.index(b"data")
    header = bytearray(whole[:at] + extra + whole[at : at + 8])
    if riff is not None:
        header[4:8] = struct.pack("<I", riff)
    header[-4:] = struct.pack("<I", length)
    data = bytes(header) + whole[at + 8 :]
    assert_tone(read_audio(data, RATE)[0], within=0.001)
    (tmp_path / "killed.wav").write_bytes(data[:-1001])  # in the middle of a sample
    assert_tone(read_audio(tmp_path / "killed.wav", RATE)[0], within=0.05)


@pytest.mark.parametrize("after", [b"", b"LIST\x04\x00\x00\x00INFO", b"id3 \x03\x00\x00\x00abc\x00"])
def test_a_wav_that_is_really_empty(after: bytes) -> None:
    data = file_of(np.zeros((1, 0), np.float32)) + after
    with pytest.raises(AudioError, match="no samples"):
        read_audio(data)


@pytest.mark.parametrize("format", ["FLAC", "WAV", "MP3", "AIFF"])
def test_what_is_there_of_a_file_that_was_cut_counts(format: str) -> None:
    subtype = "MPEG_LAYER_III" if format == "MP3" else "PCM_16"
    data = file_of(sine(2.0, RATE), format=format, subtype=subtype)
    assert_tone(read_audio(data[: len(data) // 2], RATE)[0], within=0.3)  # FLAC ends with a whole block


def test_streams_one_after_another() -> None:
    """Ogg files joined end to end; AAC that goes on at another rate with other channels."""
    for subtype in ("VORBIS", "OPUS"):
        data = file_of(sine(1.0, 48_000), 48_000, "OGG", subtype)
        assert_tone(read_audio(data * 3, RATE)[0], 3.0)
    parts = [encoded(sine(1.0, rate, channels=c), rate, "adts", "aac") for rate, c in ((44_100, 1), (24_000, 2))]
    assert_tone(read_audio(b"".join(parts), RATE)[0], 2.0, within=0.2)
    changed = file_of(sine(1.0, 48_000), 48_000, "OGG", "VORBIS") + file_of(
        sine(1.0, 22_050, channels=2), 22_050, "OGG", "VORBIS"
    )
    assert len(read_audio(changed, RATE)[0]) >= 0.9 * RATE  # what follows another stream's header is not garbled


# -- channels and scales --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["WAV", "FLAC", "m4a"])
@pytest.mark.parametrize(
    "gains", [(1, -1), (1, -0.8), (-0.8, 1), (1, 0), (0, 1), (1, 1)], ids=lambda gains: "{} {}".format(*gains)
)
def test_channels_that_cancel_or_are_silent(container: str, gains: tuple[float, float]) -> None:
    samples = sine(1.0, 44_100, channels=2) * np.array(gains, np.float32)[:, None]
    is_m4a = container == "m4a"
    data = encoded(samples, 44_100, "ipod", "aac") if is_m4a else file_of(samples, 44_100, container)
    assert_tone(read_audio(data, RATE)[0])


def test_opposite_channels_with_a_constant_offset() -> None:
    samples = sine(1.0, RATE, channels=2) * np.array([[0.6], [-0.6]], np.float32) + np.float32(0.3)
    assert_tone(read_audio(file_of(samples), RATE)[0] - 0.3, peak=0.3)


def test_unrelated_channels_are_mixed() -> None:
    left, right = sine(1.0, RATE)[0], sine(1.0, RATE, 880)[0]
    mixed = read_audio(file_of(np.stack([left, right]), subtype="FLOAT"))[0]
    np.testing.assert_allclose(mixed, (left + right) / 2, atol=1e-6)
    one_of_six = np.zeros((6, RATE), np.float32)
    one_of_six[2] = left
    assert_tone(read_audio(file_of(one_of_six))[0])


@pytest.mark.parametrize("scale", [2**15, 2**23, 2**31, 0.6 * 2**15, 300])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floating_point_at_the_scale_of_whole_numbers(scale: float, subtype: str) -> None:
    samples = sine(1.0, RATE) * np.float32(scale)
    full = next(full for full in (2**15, 2**23, 2**31) if scale <= full)
    assert_tone(read_audio(file_of(samples, subtype=subtype), RATE)[0], peak=0.5 * scale / full)
    loud = sine(1.0, RATE) * 3  # a little above full scale is meant
    assert_tone(read_audio(file_of(loud, subtype=subtype), RATE)[0], peak=1.5)


# -- limits ---------------------------------------------------------------------------------------------------------


def test_costly_audio_is_refused_by_its_header() -> None:
    seen: list[int] = []
    limits = AudioLimits(max_seconds=600, max_samples=192_000 * 600)
    with pytest.raises(AudioLimitError, match=r"115\.2 million samples") as refusal:
        read_audio(costly_audio.flac(590, 384_000, 8), RATE, limits, watch=seen.append)
    assert refusal.value.code == "audio_too_large" and seen == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (costly_audio.flac(590, 384_000, 8, says_length=False), "audio_too_large"),
        (costly_audio.flac(3600, 48_000, 1, says_length=False), "audio_too_long"),
        (costly_audio.opus(3600), "audio_too_long"),
        (costly_audio.vorbis(3600), "audio_too_long"),
        (made("aac") * 100, "audio_too_long"),
    ],
    ids=["FLAC of hidden length", "long FLAC", "Opus", "Vorbis", "AAC"],
)
def test_a_bomb_is_decoded_up_to_the_limit_and_no_further(data: bytes, code: str) -> None:
    seen: list[int] = []
    limits = AudioLimits(max_seconds=60, max_samples=192_000 * 60)
    with pytest.raises(AudioLimitError) as refusal:
        read_audio(data, RATE, limits, watch=seen.append)
    assert refusal.value.code == code
    assert max(seen[1:]) < 1.1 * (limits.max_samples if code == "audio_too_large" else 60 * 96_000)


@pytest.mark.parametrize(
    ("rate", "channels", "words"), [(600, 1, "600 Hz"), (500_000, 1, "Hz"), (8000, 40, "channels")]
)
def test_headers_that_make_no_sense(rate: int, channels: int, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        read_audio(file_of(np.zeros((channels, rate), np.float32), rate))


def test_exactly_the_greatest_length_is_taken() -> None:
    assert len(read_audio(file_of(sine(3.3, 11_025), 11_025), limits=AudioLimits(max_seconds=3.3))[0]) == 36_382
    with pytest.raises(AudioLimitError):
        read_audio(file_of(sine(3.4, 11_025), 11_025), limits=AudioLimits(max_seconds=3.3))


# -- refusals -------------------------------------------------------------------------------------------------------

NO_AUDIO = [
    (b"", "empty"),
    (b"%PDF-1.7\n" + bytes(900), "PDF"),
    (b"PK\x03\x04" + bytes(900), "ZIP"),
    (b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk" + bytes(99), "MIDI"),
    (b"\x89PNG\r\n\x1a\n" + bytes(900), "PNG"),
    (b"\0\0\0\x18ftypheic" + bytes(900), "HEIC"),
    (b"RIFF\x20\0\0\0WEBPVP8 " + bytes(99), "WebP"),
    (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
    (b'{"error": {"message": "no such file"}}', "JSON"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    ("これは音声ではありません。".encode() * 400, "text"),
    (b"hello", "text"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "Git LFS"),
    (b"#EXTM3U\nhttp://127.0.0.1/x.mp3\n", "playlist"),
    (bytes(32_000), "not audio"),
    (b"ID3" + b"\xff" * 2000, "MP3"),
    (b"\x1aE\xdf\xa3" + bytes(500), "WebM"),
    (b"#!AMR\n", "AMR"),
    (b"DSD " + bytes(500), "DSD"),
]


@pytest.mark.parametrize(("data", "words"), NO_AUDIO, ids=[words for _, words in NO_AUDIO])
def test_a_refusal_names_what_was_found(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "question.wav").write_bytes(data)
    with pytest.raises(AudioError, match=words) as refusal:
        read_audio(tmp_path / "question.wav")
    text = str(refusal.value)
    assert text.startswith(f"{tmp_path / 'question.wav'}: ") and text.endswith(".") and "\n" not in text


@pytest.mark.parametrize("name", ["m4a", "mov", "3gp"])
def test_a_recording_without_its_index(name: str) -> None:
    data = made(name)
    with pytest.raises(AudioError, match="truncated or damaged"):
        read_audio(data[: len(data) // 2])


@pytest.mark.parametrize("muxer", ["mp4", "matroska", "avi"])
def test_video_is_never_decoded(muxer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    real_open = av.open

    def watched_open(*given: Any, **named: Any) -> Any:
        container = real_open(*given, **named)
        opened.extend(stream.codec_context.pix_fmt for stream in container.streams.video)
        return container

    monkeypatch.setattr(av, "open", watched_open)
    with_sound = encoded(sine(1.0, 48_000), 48_000, muxer, "libmp3lame", video=True)
    assert_tone(read_audio(with_sound, RATE)[0])
    with pytest.raises(AudioError, match="without an audio stream"):
        read_audio(encoded(None, 48_000, muxer, "", video=True))
    assert opened == [None, None]  # to know the format of its pixels, FFmpeg would have had to decode


def test_without_pyav_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "available", lambda: False)
    for name, words in (("m4a", "M4A"), ("webm", "WebM"), ("aac", "AAC"), ("3gp", "3GP"), ("wma", "WMA")):
        with pytest.raises(AudioError, match=rf"{words}.*baichuan-audio\[formats\].*ffmpeg"):
            read_audio(made(name))
    assert_tone(read_audio(made("mp3"), RATE)[0])


def test_damaged_files_are_refused_or_read_but_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for name in ("m4a", "webm", "aac", "caf with ALAC", "3gp", "ogg with Opus", "mp3"):
        whole = np.frombuffer(made(name, 0.3), np.uint8)
        for _ in range(30):
            data = whole[: rng.integers(1, len(whole) + 1)].copy()
            data[rng.integers(0, len(data), 5)] = rng.integers(0, 256, 5)
            try:
                waveform, _ = read_audio(data.tobytes(), RATE, AudioLimits(max_seconds=60, max_samples=1e7))
            except AudioError as refusal:
                assert str(refusal).endswith(".")
            else:
                assert np.isfinite(waveform).all() and len(waveform)


@pytest.mark.parametrize(
    ("name", "head", "actual"),
    [
        ("call.mp3", b"\x00\x00\x00\x20ftypM4A ", "M4A"),
        ("call.raw", b"RIFF\x00\x00\x00\x00WAVEfmt ", "WAV"),
        ("call.wav", b"RIFF\x00\x00\x00\x00WAVEfmt ", None),
        ("call.m4a", b"\x00\x00\x00\x20ftypM4A ", None),
        ("call", b"fLaC", None),  # promises nothing
        ("call.wav", b"nothing that is known", None),
    ],
)
def test_a_name_that_promises_another_format_is_told(
    tmp_path: Path, name: str, head: bytes, actual: str | None
) -> None:
    (tmp_path / name).write_bytes(head)
    assert misnamed(tmp_path / name) == actual
