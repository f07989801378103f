"""Transcriptions over HTTP: every form, subtitles with times from the voice, streams, and files that are none."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
openai = pytest.importorskip("openai")

import httpx  # noqa: E402
import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from fake_engine import HEARD, FakeEngine  # noqa: E402
from http_tools import Serving, assert_error, serving, tone  # noqa: E402

from baichuan_audio import model as pipeline  # noqa: E402
from baichuan_audio.audio.voice_activity import Speech  # noqa: E402
from baichuan_audio.engine import Engine, EngineConfig, EngineFull  # noqa: E402
from baichuan_audio.server import create_app  # noqa: E402
from baichuan_audio.server.audio import input as audio_input  # noqa: E402
from baichuan_audio.server.audio.input import read_file  # noqa: E402
from baichuan_audio.server.http.subtitles import Segment, srt, vtt  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
FILE = ("any/../name.wav", tone(1.0))


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(max_audio_seconds=30) as server:
        yield server


@pytest.fixture(scope="module")
def listening() -> Iterator[Serving]:
    """A server that looks for speech."""
    with serving(FakeEngine(vad=True), max_audio_seconds=30) as server:
        yield server


@pytest.fixture(scope="module")
def two_sentences() -> bytes:
    """A recorded sentence, a second of silence, and the sentence again."""
    speech, rate = soundfile.read(EXAMPLES / "real-sentence-en.wav")
    silence = np.zeros(rate)
    file = io.BytesIO()
    soundfile.write(
        file, np.concatenate([silence, speech[: 4 * rate], silence, speech[: 4 * rate]]), rate, format="FLAC"
    )
    return file.getvalue()


def test_json(server: Serving):
    transcript = server.client.audio.transcriptions.create(model="whisper-1", file=FILE)
    assert transcript.text == HEARD
    assert (transcript.usage.type, transcript.usage.seconds) == ("duration", 1.0)
    assert server.metric("audio_seconds_total", '{direction="in"}') >= 1


def test_text(server: Serving):
    assert server.client.audio.transcriptions.create(model="x", file=FILE, response_format="text") == HEARD + "\n"


@pytest.mark.parametrize("format", ["MP3", "FLAC", "OGG", "AIFF"])
def test_files_of_many_formats(server: Serving, format: str):
    file = ("x", tone(1.0, 44100, format, 2))
    assert server.client.audio.transcriptions.create(model="x", file=file).text == HEARD


def test_stream(server: Serving):
    events = list(server.client.audio.transcriptions.create(model="x", file=FILE, stream=True))
    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == HEARD


def test_verbose(listening: Serving, server: Serving, two_sentences: bytes):
    transcript = listening.client.audio.transcriptions.create(
        model="x", file=("two.flac", two_sentences), response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert transcript.language == "english" and transcript.duration == pytest.approx(10, abs=0.1)
    assert transcript.text == " ".join([HEARD] * len(transcript.segments))
    ends = [0.0]
    for segment in transcript.segments:
        assert ends[-1] <= segment.start < segment.end <= transcript.duration
        ends.append(segment.end)
    assert transcript.segments[0].start == pytest.approx(0.8, abs=0.4)
    assert any(segment.start == pytest.approx(5.8, abs=0.6) for segment in transcript.segments)
    transcription = server.client.audio.transcriptions.create(
        model="x", file=FILE, response_format="verbose_json", language="zh"
    )
    assert transcription.language == "zh"


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_subtitles(listening: Serving, two_sentences: bytes, format: str):
    text = listening.client.audio.transcriptions.create(
        model="x", file=("two.flac", two_sentences), response_format=format
    )
    mark = "," if format == "srt" else r"\."
    times = re.findall(rf"^(\d\d:\d\d:\d\d{mark}\d\d\d) --> (\d\d:\d\d:\d\d{mark}\d\d\d)$", text, re.MULTILINE)
    assert len(times) >= 2 and text.count(HEARD) == len(times)
    assert text.startswith("1\n" if format == "srt" else "WEBVTT\n\n")


@pytest.mark.parametrize("data", [tone(3.0), tone(0.7)])
def test_where_nobody_speaks_the_text_is_empty(listening: Serving, data: bytes):
    create, file = listening.client.audio.transcriptions.create, ("x", data)
    assert create(model="x", file=file).text == ""
    assert create(model="x", file=file, response_format="text") == "\n"
    assert create(model="x", file=file, response_format="srt") == ""
    verbose = create(model="x", file=file, response_format="verbose_json")
    assert verbose.text == "" and verbose.segments == [] and verbose.duration > 0
    events = list(create(model="x", file=file, stream=True))
    assert [(event.type, event.text) for event in events] == [("transcript.text.done", "")]


def test_every_format_has_the_same_text(listening: Serving, two_sentences: bytes):
    create, file = listening.client.audio.transcriptions.create, ("x", two_sentences)
    text = create(model="x", file=file).text
    assert text.count(HEARD) >= 2
    assert create(model="x", file=file, response_format="verbose_json").text == text
    assert create(model="x", file=file, response_format="text") == text + "\n"
    assert list(create(model="x", file=file, stream=True))[-1].text == text
    for format in ("srt", "vtt"):
        assert create(model="x", file=file, response_format=format).count(HEARD) == text.count(HEARD)


def test_how_subtitles_are_written():
    segments = [Segment(0.0, 1.5, "one"), Segment(3723.0426, 3724, "a --> b")]
    assert srt(segments) == "1\n00:00:00,000 --> 00:00:01,500\none\n\n2\n01:02:03,043 --> 01:02:04,000\na --> b\n"
    assert vtt(segments).endswith("01:02:03.043 --> 01:02:04.000\na -> b\n")
    assert srt([]) == "" and vtt([]).startswith("WEBVTT")


def test_high_rates_are_slowed_down_while_read():
    waveform = read_file(tone(2.0, 192_000, "FLAC", 2), 3, "file")
    assert len(waveform) == 32_000
    assert waveform[8_000:24_000].abs().max() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    ("fields", "data", "code"),
    [
        ({"model": "x"}, b"", "invalid_audio"),
        ({"model": "x"}, b"no audio at all", "invalid_audio"),
        ({"model": "x"}, b"ID3" + b"\xff" * 2000, "invalid_audio"),
        ({"model": "x"}, tone(31.0, 1000), "audio_too_long"),
        ({}, tone(), None),
        ({"model": "x", "response_format": "diarized_json"}, tone(), None),
        ({"model": "x", "stream": "true", "response_format": "srt"}, tone(), None),
        ({"model": "x", "timestamp_granularities[]": "word"}, tone(), None),
        ({"model": "x", "temperature": "nan"}, tone(), None),
    ],
)
def test_what_cannot_be_met_is_refused(server: Serving, fields: dict, data: bytes, code: str | None):
    response = server.http.post("/v1/audio/transcriptions", data=fields, files={"file": ("/etc/passwd", data)})
    assert_error(response, 400, code)


@pytest.mark.parametrize(
    ("type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\nabc"),
        ("multipart/form-data; boundary=x", b"\0\r\n" * 1000),
        ("multipart/form-data; boundary=" + "y" * 300, b"--y--"),
        ("application/json", json.dumps({"file": "/etc/passwd", "model": "x"}).encode()),
        ("application/x-www-form-urlencoded", b"file=/etc/passwd&model=x"),
        ("text/plain", b"hello"),
    ],
)
def test_forms_that_are_none(server: Serving, type: str, body: bytes):
    response = server.http.post("/v1/audio/transcriptions", content=body, headers={"content-type": type})
    assert_error(response, 400)


def test_too_many_parts(server: Serving):
    response = server.http.post(
        "/v1/audio/transcriptions", data={f"f{i}": "x" for i in range(2000)}, files={"file": FILE}
    )
    assert_error(response, 400)


def test_a_slot_is_needed():
    with serving(FakeEngine(max_sessions=1, delay=0.3)) as server:
        body = {"model": "x", "input": "one two three", "response_format": "pcm"}
        with server.http.stream("POST", "/v1/audio/speech", json=body) as response:
            assert response.status_code == 200
            with pytest.raises(openai.RateLimitError) as refusal:
                server.client.audio.transcriptions.create(model="x", file=b"not even looked at")
        assert refusal.value.code == "server_full" and int(refusal.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("form", [{"response_format": "srt"}, {"stream": "true"}])
async def test_its_slot_is_its_own_until_its_end(form: dict, model, monkeypatch: pytest.MonkeyPatch):
    """From before the file is read; between two stretches of speech, too. With the engine itself."""

    looks: list[bool] = []  # whether a slot was free
    looks_at_work: list[bool] = []

    def slowly(function: Callable) -> Callable:
        def work(*given: Any) -> Any:
            begun = len(looks)
            time.sleep(0.1)
            looks_at_work.extend(looks[begun:])
            return function(*given)

        return work

    monkeypatch.setattr(audio_input, "read_file", slowly(read_file))
    spans = [(0, 6400), (8000, 14400), (14400, 16000)]
    segmented = slowly(lambda waveform, rate, longest: iter([Speech(waveform, rate, spans)]))
    monkeypatch.setattr(pipeline, "find_speech_in_steps", segmented)
    engine = Engine(model, EngineConfig(max_sessions=1, threads=1))
    engine.start()

    async def somebody_else() -> None:
        while True:
            try:
                await engine.open().close()
                looks.append(True)
            except EngineFull:
                looks.append(False)
            await asyncio.sleep(0)

    other = asyncio.create_task(somebody_else())
    transport = httpx.ASGITransport(create_app(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        data = {"model": "x", **form}
        response = await client.post("/v1/audio/transcriptions", data=data, files={"file": FILE}, timeout=60)
    assert response.status_code == 200, response.text
    await asyncio.sleep(0.1)
    other.cancel()
    await engine.stop()
    assert [free for free, _ in itertools.groupby(looks)] == [True, False, True]
    assert looks_at_work and not any(looks_at_work)
