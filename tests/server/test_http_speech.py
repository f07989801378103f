"""Texts read aloud over HTTP: every format, raw and in events, at any speed."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
openai = pytest.importorskip("openai")

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from fake_engine import SAMPLE_RATE, SECONDS_A_WORD, FakeEngine  # noqa: E402
from http_tools import Serving, assert_error, serving  # noqa: E402

from baichuan_audio.audio.reading import SequentialSoundFile  # noqa: E402
from baichuan_audio.server.audio.output import MEDIA_TYPES  # noqa: E402

TEXT = "one two three four five six seven eight"
SECONDS = 8 * SECONDS_A_WORD


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(max_input_characters=100) as server:
        yield server


def decoded(data: bytes, format: str) -> np.ndarray:
    if format == "pcm":
        return np.frombuffer(data, "<i2") / 32768
    with SequentialSoundFile(io.BytesIO(data)) as file:
        assert file.samplerate == SAMPLE_RATE
        return file.read(60 * SAMPLE_RATE)


@pytest.mark.parametrize("format", ["wav", "mp3", "flac", "opus", "pcm"])
def test_raw(server: Serving, format: str):
    """The header of a WAV or FLAC that is streamed knows no length; what follows must be the same sound."""
    with server.client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=TEXT, response_format=format
    ) as response:
        assert response.headers["content-type"] == MEDIA_TYPES[format]
        data = b"".join(response.iter_bytes())
    wave = decoded(data, format)
    assert len(wave) / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.11)
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(0.3 / np.sqrt(2), abs=0.02)
    assert server.engine.spoken[-1][:2] == (TEXT, "Ada")


def test_a_player_reads_the_streamed_wav(server: Serving):
    data = server.client.audio.speech.create(model="x", voice="Ada", input=TEXT, response_format="wav").read()
    wave, rate = soundfile.read(io.BytesIO(data))
    assert (len(wave), rate) == (SECONDS * SAMPLE_RATE, SAMPLE_RATE)
    assert server.engine.spoken[-1][1] == "Ada"


def test_events(server: Serving):
    body = {"model": "x", "voice": {"id": "Ada"}, "input": TEXT, "response_format": "pcm", "stream_format": "sse"}
    body["seed"] = 7
    text = server.http.post("/v1/audio/speech", json=body).text
    events = [json.loads(frame.removeprefix("data: ")) for frame in text.strip().split("\n\n")]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"} and len(events) > 8
    data = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert len(decoded(data, "pcm")) == SECONDS * SAMPLE_RATE
    assert server.engine.spoken[-1] == (TEXT, "Ada", 7)
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"] == {"input_tokens": 8, "output_tokens": 20, "total_tokens": 28}


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.5, 2.0, 4.0])
def test_speed_keeps_the_pitch(server: Serving, speed: float):
    data = server.client.audio.speech.create(
        model="x", voice="Ada", input=TEXT, response_format="pcm", speed=speed
    ).read()
    wave = decoded(data, "pcm")
    assert len(wave) / SAMPLE_RATE == pytest.approx(SECONDS / speed, abs=0.06)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    assert np.argmax(spectrum) * SAMPLE_RATE / len(wave) == pytest.approx(220, abs=6)


def test_the_first_sound_comes_before_the_last(server: Serving):
    with serving(FakeEngine(delay=0.05)) as slow:
        body = {"model": "x", "voice": "Ada", "input": TEXT, "response_format": "pcm"}
        with slow.http.stream("POST", "/v1/audio/speech", json=body) as response:
            pieces = response.iter_raw()
            next(pieces)
            assert slow.busy == 1
            assert sum(map(len, pieces)) > SAMPLE_RATE


def test_aac_needs_ffmpeg(server: Serving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    body = {"model": "x", "voice": "Ada", "input": TEXT, "response_format": "aac"}
    monkeypatch.setenv("PATH", str(tmp_path))
    error = assert_error(server.http.post("/v1/audio/speech", json=body), 400, "unsupported_format")
    assert "ffmpeg" in error["message"] and error["param"] == "response_format"
    program = tmp_path / "ffmpeg"
    program.write_text('#!/bin/sh\nprintf "AAC of "\nexec /bin/cat\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    response = server.http.post("/v1/audio/speech", json=body)
    assert response.headers["content-type"] == "audio/aac"
    assert response.content.startswith(b"AAC of ") and len(response.content) == 7 + 2 * SECONDS * SAMPLE_RATE
    program.write_text("#!/bin/sh\nexec /bin/false\n")
    assert_error(server.http.post("/v1/audio/speech", json=body), 500, "encoding_failed")
    assert os.environ["PATH"] == str(tmp_path)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": "  \n"}, "input"),
        ({"input": "x" * 101}, "input"),
        ({"input": None}, "input"),
        ({"voice": "Nobody"}, "voice"),
        ({"voice": "../../etc/passwd"}, "voice"),
        ({"response_format": "exe"}, "response_format"),
        ({"speed": 0.1}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"speed": 5}, "speed"),
        ({"stream_format": "x"}, "stream_format"),
    ],
)
def test_what_cannot_be_met_is_refused(server: Serving, change: dict, param: str):
    body = {"model": "x", "voice": "Ada", "input": "hello", **change}
    content = json.dumps(body).encode()
    response = server.http.post("/v1/audio/speech", content=content, headers={"content-type": "application/json"})
    assert assert_error(response, 400)["param"] == param
