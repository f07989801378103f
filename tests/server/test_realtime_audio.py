"""Formats of the wire, resampling and stretching of streams, played time, and the finding of turns."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from baichuan_audio.errors import AudioError
from baichuan_audio.server.audio.time_stretch import TimeStretch
from baichuan_audio.server.realtime.conversation.playback import Playback
from baichuan_audio.server.realtime.input.codec import InputDecoder, OutputEncoder, Resampler, decode, encode, seconds
from baichuan_audio.server.realtime.input.turn_detection import (
    SAMPLE_RATE,
    SpeechStarted,
    SpeechStopped,
    TurnDetector,
)
from baichuan_audio.server.realtime.protocol.session_config import SemanticVad, ServerVad

EXAMPLES = Path(__file__).parents[2] / "examples"
LAWS = {"audio/pcmu": "ULAW", "audio/pcma": "ALAW"}


def in_pieces(samples: np.ndarray, seed: int, most: int = 700) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    positions = np.cumsum(random.integers(0, most, len(samples)))
    return np.split(samples, positions[positions < len(samples)])


def tone(frequency: float, rate: int, length_s: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(length_s * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("format", LAWS)
def test_g711_is_what_libsndfile_writes_and_reads(format):
    codes = bytes(range(256))
    levels, _ = soundfile.read(
        io.BytesIO(codes), format="RAW", subtype=LAWS[format], channels=1, samplerate=8000, dtype="float32"
    )
    assert np.array_equal(decode(codes, format), levels)
    samples = np.random.default_rng(0).uniform(-1, 1, 20000).astype(np.float32)
    ours = decode(encode(samples, format), format)
    best = np.abs(samples[:, None] - np.unique(levels)).min(axis=1)
    assert np.abs(ours - samples) == pytest.approx(best, abs=2 / 32768)
    assert np.array_equal(decode(encode(levels, format), format), levels)
    assert encode(np.zeros(2, np.float32), "audio/pcmu") in (b"\xff\xff", b"\x7f\x7f")


def test_pcm_there_and_back():
    samples = np.array([0, 0.5, -0.5, 32767 / 32768, -1], np.float32)
    assert np.array_equal(decode(encode(samples, "audio/pcm"), "audio/pcm"), samples)
    assert encode(np.array([2.0, -2.0], np.float32), "audio/pcm") == b"\xff\x7f\x00\x80"
    assert seconds(4800, "audio/pcm") == 0.1 and seconds(800, "audio/pcmu") == 0.1
    with pytest.raises(AudioError, match="whole samples"):
        decode(b"\0\0\0", "audio/pcm")


@pytest.mark.parametrize(("original", "new"), [(24000, 16000), (8000, 16000), (24000, 8000), (16000, 24000)])
def test_resampling_in_pieces(original, new):
    samples = np.random.default_rng(1).standard_normal(original // 2).astype(np.float32) * 0.2
    whole = Resampler(original, new)
    expected = np.concatenate([whole.push(samples), whole.flush()])
    stream = Resampler(original, new)
    pieces = [stream.push(piece) for piece in in_pieces(samples, 2)] + [stream.flush()]
    assert np.array_equal(np.concatenate(pieces), expected)
    assert abs(len(expected) - new // 2) <= 40
    low = tone(700.0, original)
    resampler = Resampler(original, new)
    ours, reference = resampler.push(low), soxr.resample(low, original, new)
    middle = slice(new // 10, len(ours) - new // 10)
    assert np.abs(ours[middle] - reference[: len(ours)][middle]).max() < 1e-3


def test_resampling_lets_no_alias_through():
    for original, new in ((24000, 16000), (24000, 8000)):
        assert np.abs(Resampler(original, new).push(tone(0.6 * new, original))[200:]).max() < 1e-3
    assert Resampler(24000, 8000).push(np.zeros(240, np.float32)).size >= 80 - 32  # not far behind


def lag_ms(push: Callable[[np.ndarray], np.ndarray], original: int, new: int) -> float:
    """How far the output is behind the input at worst, in chunks of 20 ms."""
    samples, chunk = tone(700.0, original, 2.0), original // 50
    sizes = np.cumsum([len(push(piece)) for piece in np.split(samples, len(samples) // chunk)])
    return float(max(20 * (number + 1) - size / new * 1000 for number, size in enumerate(sizes)))


@pytest.mark.parametrize(("original", "new"), [(24000, 16000), (8000, 16000), (24000, 8000)])
def test_why_the_resampler_is_ours(original, new):
    """soxr costs less, but its output comes in blocks, behind by more than a chunk even at low quality."""
    assert lag_ms(Resampler(original, new).push, original, new) <= 2.1
    assert lag_ms(soxr.ResampleStream(original, new, 1, quality="LQ").resample_chunk, original, new) > 15


def test_input_and_output_formats_meet():
    speech = tone(440.0, 24000)
    for format in ("audio/pcm", "audio/pcmu", "audio/pcma"):
        encoder = OutputEncoder(format, 24000)
        data = b"".join([encoder.push(piece) for piece in in_pieces(speech, 3)] + [encoder.flush()])
        assert seconds(len(data), format) == pytest.approx(0.5, abs=0.01)
        decoded = InputDecoder(format).push(data)  # a second at most
        reference = tone(440.0, 16000)
        middle = slice(800, 7000)
        assert np.abs(decoded[middle] - reference[middle]).max() < 0.02


@pytest.mark.parametrize("speed", [0.25, 0.8, 1.5])
def test_speed_keeps_the_pitch_and_changes_the_length(speed):
    speech = tone(220.0, 24000, 1.0)
    stretch, whole = TimeStretch(24000, speed), TimeStretch(24000, speed)
    output = np.concatenate([*(stretch.push(piece) for piece in in_pieces(speech, 4)), stretch.flush()])
    assert np.array_equal(output, np.concatenate([whole.push(speech), whole.flush()]))
    assert len(output) / 24000 == pytest.approx(1 / speed, abs=0.05)
    spectrum = np.abs(np.fft.rfft(output * np.hanning(len(output))))
    assert np.argmax(spectrum) * 24000 / len(output) == pytest.approx(220, abs=3)
    assert np.abs(np.diff(output[:-4800], 2)).max() < 0.01  # no click where frames meet
    assert TimeStretch(24000, speed).flush().size == 0


def test_playback_follows_what_is_sent():
    playback = Playback(24000)
    playback.add(24000, now=10.0)
    playback.add(24000, now=10.1)
    assert playback.played(10.0) == 0 and playback.played(10.5) == 12000
    assert playback.remaining(11.0) == pytest.approx(1.0) and playback.underrun == 0
    playback.add(24000, now=12.5)
    assert playback.underrun == pytest.approx(0.5) and playback.played(13.0) == 60000
    assert playback.stop(13.0) == 60000
    assert playback.remaining(13.0) == 0 and playback.played(20.0) == 60000
    assert Playback(8000).stop(5.0) == 0


def test_sound_that_has_been_played_is_all_that_was_sent():
    """Sums of tenths of seconds are not whole; sums of samples are."""
    playback = Playback(24000)
    for index in range(1000):
        playback.add(2401, now=index * 0.1)
    assert playback.played(1e6) == playback.sent == 2_401_000


def speech_in_silence(name: str, before_s: float = 1.0, after_s: float = 1.5) -> np.ndarray:
    samples, rate = soundfile.read(EXAMPLES / name, dtype="float32")
    samples = soxr.resample(samples, rate, SAMPLE_RATE)
    noise = np.random.default_rng(0).standard_normal(int((before_s + after_s) * SAMPLE_RATE) + len(samples)) * 1e-4
    noise[int(before_s * SAMPLE_RATE) :][: len(samples)] += samples
    return noise.astype(np.float32)


def turns(samples: np.ndarray, settings: ServerVad | SemanticVad, seed: int = 0) -> list[SpeechStarted | SpeechStopped]:
    detector = TurnDetector(settings)
    return [event for piece in in_pieces(samples, seed) for event in detector.push(piece)]


@pytest.mark.parametrize("name", ["real-sentence-zh.wav", "en-capital.wav"])
def test_one_turn_is_found(name):
    samples = speech_in_silence(name)
    started, stopped = turns(samples, ServerVad(silence_duration_ms=600))
    assert isinstance(started, SpeechStarted) and isinstance(stopped, SpeechStopped)
    onset = started.start / SAMPLE_RATE + 0.3  # without the padding
    end = len(samples) / SAMPLE_RATE - 1.5
    assert 0.8 < onset < 1.6
    assert end - 0.6 < stopped.speech_end / SAMPLE_RATE < end + 0.3
    assert stopped.decided - stopped.speech_end == pytest.approx(0.6 * SAMPLE_RATE, abs=512)
    assert turns(samples, ServerVad(silence_duration_ms=600), seed=9) == [started, stopped]  # however it is cut


def test_turn_settings():
    samples = speech_in_silence("en-capital.wav")
    assert turns(np.zeros(SAMPLE_RATE, np.float32), ServerVad()) == []
    assert turns(samples, ServerVad(threshold=1.0)) == []
    close = turns(samples, ServerVad(prefix_padding_ms=0, silence_duration_ms=300))
    assert close[0].start - turns(samples, ServerVad())[0].start == pytest.approx(0.3 * SAMPLE_RATE, abs=1)
    waits = [turns(samples, SemanticVad(eagerness=word))[-1] for word in ("high", "medium", "auto")]
    delays = [stop.decided - stop.speech_end for stop in waits]
    assert delays[0] < delays[1] == delays[2]


def test_torch_keeps_its_threads():
    before = torch.get_num_threads()
    TurnDetector(ServerVad())
    assert "silero_vad" not in sys.modules and torch.get_num_threads() == before
