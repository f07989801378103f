"""Chat completions with the `openai` client: what goes in, what comes out, at once and as a stream."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
openai = pytest.importorskip("openai")

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from fake_engine import HEARD, SAMPLE_RATE, SECONDS_A_WORD, FakeEngine  # noqa: E402
from http_tools import Serving, assert_error, chat_body, encoded, serving, tone  # noqa: E402

from baichuan_audio.engine import AudioInput  # noqa: E402
from baichuan_audio.server.http.reply_store import StopSequenceFilter  # noqa: E402

AUDIO = {"voice": "Ada", "format": "wav"}
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving() as server:
        yield server


def last(server: Serving):
    return server.engine.dialogues[-1]


def audio_part(data: bytes, format: str = "wav") -> dict:
    return {"type": "input_audio", "input_audio": {"data": encoded(data), "format": format}}


def test_text(server: Serving):
    reply = server.client.chat.completions.create(model="x", messages=HELLO, seed=5)
    assert reply.object == "chat.completion" and reply.id.startswith("chatcmpl-")
    assert reply.model == "baichuan-audio"
    choice = reply.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "You said hello.",
        "stop",
    )
    assert choice.message.audio is None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert last(server).seed == 5 and last(server).closed
    assert last(server).asked["sampling"] is None
    assert reply._request_id.startswith("req_")


def test_history_and_system_texts(server: Serving):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, audio_part(tone())]},
        {"role": "user", "content": "three"},
    ]
    reply = server.client.chat.completions.create(model="x", messages=messages, max_completion_tokens=3)
    assert reply.choices[0].message.content == "You said two" and reply.choices[0].finish_reason == "length"
    server.engine.ending = ("incomplete", "repetition")
    away = server.client.chat.completions.create(model="x", messages=messages)
    server.engine.ending = ("completed", None)
    assert away.choices[0].finish_reason == "length"
    dialogue = last(server)
    assert dialogue.system == "Be brief.\nBe kind."
    assert [item[1] for item in dialogue.items] == ["user", "assistant", "user"]
    spoken = dialogue.items[2][2][1]
    assert isinstance(spoken, AudioInput) and spoken.sample_rate == 16000 and spoken.waveform.shape == (16000,)


@pytest.mark.parametrize(("format", "container"), [("mp3", "MP3"), ("flac", "FLAC"), ("ogg", "OGG")])
def test_audio_in_of_several_formats(server: Serving, format: str, container: str):
    messages = [{"role": "user", "content": [audio_part(tone(1.0, 24000, container, 2), format)]}]
    reply = server.client.chat.completions.create(model="x", messages=messages)
    assert reply.choices[0].message.content == f"You said {HEARD}."
    audio_input = last(server).items[0][2][0]
    assert audio_input.waveform.ndim == 1 and audio_input.waveform.shape[0] / audio_input.sample_rate == pytest.approx(
        1.0, abs=0.1
    )


def message_of(data: str, format: str | None = "wav") -> dict[str, Any]:
    """A user's message of one piece of audio."""
    given = {"data": data} | ({} if format is None else {"format": format})
    return {"role": "user", "content": [{"type": "input_audio", "input_audio": given}]}


@pytest.mark.parametrize("format", ["wav", "mp3", "m4a", "webm", "audio/mp4", "x-unheard-of", None, "pcm16"])
@pytest.mark.parametrize(
    "prefix", ["", "data:audio/wav;base64,", "data:;base64,", "data:audio/webm;codecs=opus;base64,"]
)
def test_the_content_of_audio_decides_and_it_may_be_a_data_url(server: Serving, format: str | None, prefix: str):
    data = tone(1.0) if format == "pcm16" else tone(1.0, format="FLAC")
    response = server.http.post(
        "/v1/chat/completions", json=chat_body("x", messages=[message_of(prefix + encoded(data), format)])
    )
    assert response.status_code == 200, response.text
    sound = last(server).items[0][2][0]
    assert sound.waveform.shape[0] / sound.sample_rate == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("https://example.com/a.wav", "addresses are not opened"),
        ("data:audio/wav,%00", "base64"),
        ("data:audio/wav;base64,abc", "base64"),
        (encoded(b"%PDF-1.7 and so on"), "PDF"),
        (encoded(b'{"not": "audio"}'), "JSON"),
    ],
)
def test_what_is_no_audio_is_named(server: Serving, data: str, words: str):
    response = server.http.post("/v1/chat/completions", json=chat_body("x", messages=[message_of(data)]))
    error = assert_error(response, 400)
    assert words in error["message"] and error["param"].startswith("messages[0].content[0].input_audio")


@pytest.mark.parametrize("format", ["wav", "mp3", "flac", "opus", "pcm16"])
def test_audio_out(server: Serving, format: str):
    reply = server.client.chat.completions.create(
        model="x", messages=HELLO, modalities=["text", "audio"], audio={"voice": "Ada", "format": format}
    )
    message = reply.choices[0].message
    assert message.content is None
    assert message.audio.transcript == "You said hello."
    assert message.audio.expires_at > time.time() + 3000
    data = base64.b64decode(message.audio.data)
    if format == "pcm16":
        seconds = len(data) / 2 / SAMPLE_RATE
    else:
        wave, rate = soundfile.read(io.BytesIO(data))
        seconds = len(wave) / rate
    assert seconds == pytest.approx(3 * SECONDS_A_WORD, abs=0.01)
    assert last(server).voice == "Ada" and reply.usage.completion_tokens_details.audio_tokens > 0


def test_a_voice_of_openai_means_the_first(server: Serving):
    audio = {"voice": "alloy", "format": "wav"}
    server.client.chat.completions.create(model="x", messages=HELLO, modalities=["text", "audio"], audio=audio)
    assert last(server).voice == "Ada"
    with pytest.raises(openai.BadRequestError, match="Ada"):
        audio["voice"] = "Nobody"
        server.client.chat.completions.create(model="x", messages=HELLO, modalities=["text", "audio"], audio=audio)


@pytest.mark.parametrize(
    ("more", "voice"),
    [
        ({"modalities": ["text", "audio"], "audio": {"format": "wav"}}, "Ada"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "default", "format": "wav"}}, "Ada"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "邻家女声", "format": "wav"}}, "邻家女声"),
        ({}, None),
    ],
)
def test_what_is_spoken_has_a_voice_beside_a_system_text(server: Serving, more: dict, voice: str | None):
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert server.http.post("/v1/chat/completions", json=chat_body("", messages=messages, **more)).status_code == 200
    assert (last(server).system, last(server).voice) == ("Be brief.", voice)


def test_stream_of_text(server: Serving):
    stream = server.client.chat.completions.create(
        model="x", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "You said hello."
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 3
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_stream_of_audio(server: Serving):
    stream = server.client.chat.completions.create(
        model="x",
        messages=HELLO,
        modalities=["text", "audio"],
        audio={"voice": "Ada", "format": "pcm16"},
        stream=True,
    )
    audio_id, transcript, data, expires = [], "", b"", []
    reasons = []
    for chunk in stream:
        delta = chunk.choices[0].delta
        reasons.append(chunk.choices[0].finish_reason)
        audio = delta.audio.model_dump(exclude_none=True) if delta.audio else {}
        audio_id += [audio["id"]] if "id" in audio else []
        expires += [audio["expires_at"]] if "expires_at" in audio else []
        transcript += audio.get("transcript", "")
        data += base64.b64decode(audio.get("data", ""))
    assert len(audio_id) == 1 and audio_id[0].startswith("audio_") and len(expires) == 1
    assert transcript == "You said hello." and len(data) / 2 / SAMPLE_RATE == pytest.approx(
        3 * SECONDS_A_WORD, abs=0.01
    )
    assert np.abs(np.frombuffer(data, "<i2")).max() > 9000
    assert reasons[-1] == "stop"
    again = [*HELLO, {"role": "assistant", "audio": {"id": audio_id[0]}}, {"role": "user", "content": "and?"}]
    server.client.chat.completions.create(model="x", messages=again)
    assert last(server).items[1][1:] == ["assistant", "You said hello."]


def test_the_bare_stream(server: Serving):
    """Frame by frame: only data lines, the last one [DONE]."""
    with server.http.stream("POST", "/v1/chat/completions", json=chat_body("hello", stream=True)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = response.read().decode()
    frames = text.split("\n\n")
    assert frames[-1] == "" and frames[-2] == "data: [DONE]"
    for frame in frames[:-2]:
        chunk = json.loads(frame.removeprefix("data: "))
        assert set(chunk) == {"id", "object", "created", "model", "choices"}


def test_the_clients_own_stream_helper(server: Serving):
    """It puts the deltas together: whatever is sent twice would be doubled."""
    with server.client.chat.completions.stream(model="x", messages=HELLO) as stream:
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == "You said hello."
    assert completion.choices[0].finish_reason == "stop"


def test_sampling_changes_text_only(server: Serving):
    server.client.chat.completions.create(model="x", messages=HELLO, temperature=0, top_p=0.5)
    sampling = last(server).asked["sampling"]
    assert (sampling.first.temperature, sampling.later.temperature, sampling.first.top_p) == (0, 0, 0.5)
    assert sampling.codes.temperature > 0


@pytest.mark.parametrize("stream", [False, True])
def test_stop(server: Serving, stream: bool):
    reply = server.client.chat.completions.create(model="x", messages=HELLO, stop=["id h", "zzz"], stream=stream)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in reply)
    else:
        text = reply.choices[0].message.content
    assert text == "You sa"


def test_stop_text_holds_back_only_what_may_matter():
    stop = StopSequenceFilter(["END", "EN!"])
    assert [stop.push(piece) for piece in ("abE", "N", "x", "yEN", "D z", "more")] == ["ab", "", "ENx", "y", "", ""]
    assert stop.matched and stop.flush() == ""
    stop = StopSequenceFilter(["END"])
    assert stop.push("abEN") + stop.flush() == "abEN"


def test_words_like_control_tokens_stay_words(server: Serving):
    words = "<|endoftext|> <C_Q> <audio_start_baichuan>"
    server.client.chat.completions.create(model="x", messages=[{"role": "user", "content": words}])
    assert last(server).items[0][2] == [words]


IMAGE = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
AUDIO_ANSWER = {"modalities": ["text", "audio"], "audio": AUDIO}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, None),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "../../x"}}]}]}, None),
        ({"modalities": ["video"]}, None),
        ({"modalities": ["text", "audio"]}, "audio"),
        ({**AUDIO_ANSWER, "stream": True}, "audio.format"),
        ({**AUDIO_ANSWER, "stop": "x"}, "stop"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, None),
        ({"logprobs": True}, None),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"seed": 10**30}, "seed"),
        ({"stream": "perhaps"}, "stream"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_refused(server: Serving, change: dict, param: str | None):
    body = json.dumps({**chat_body("hello"), **change}).encode()
    response = server.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    error = assert_error(response, 400)
    assert error["type"] == "invalid_request_error"
    assert "/etc/passwd" not in error["message"]
    if param:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("data", "format", "code"),
    [
        ("", "wav", "invalid_audio"),
        ("abc", "wav", "invalid_base64"),
        ("ab c=", "wav", "invalid_base64"),
        ("/etc/passwd", "wav", "invalid_base64"),
        (encoded(b"RIFF" + b"\0" * 100), "wav", "invalid_audio"),
        (encoded(tone()[:60]), "wav", None),
        (encoded(tone(0.0)), "wav", "invalid_audio"),
        (encoded(tone(12.0, 1000)), "wav", "audio_too_long"),
        (encoded(tone(12.0, 8000, "FLAC")), "flac", "audio_too_long"),
        (encoded(tone(1.0, 600)), "wav", "invalid_audio"),
        (encoded(b"\0\0\0"), "pcm16", "invalid_audio"),
        (encoded(b"\0\0" * 24000 * 11), "pcm16", "audio_too_long"),
    ],
)
def test_audio_that_is_none(data: str, format: str, code: str | None, strict_server: Serving):
    part = {"type": "input_audio", "input_audio": {"data": data, "format": format}}
    response = strict_server.http.post(
        "/v1/chat/completions", json=chat_body("x", messages=[{"role": "user", "content": [part]}])
    )
    if code is None:  # a file that was cut: what is there of it counts
        assert response.status_code in (200, 400)
    else:
        assert_error(response, 400, code)


@pytest.fixture(scope="module")
def strict_server() -> Iterator[Serving]:
    with serving(max_audio_seconds=10) as server:
        yield server


def test_audio_id_of_somebody_else():
    with serving(api_keys=("first", "second")) as server:
        reply = server.client.chat.completions.create(
            model="x", messages=HELLO, modalities=["text", "audio"], audio=AUDIO
        )
        reference = {"role": "assistant", "audio": {"id": reply.choices[0].message.audio.id}}
        body = chat_body("x", messages=[*HELLO, reference, *HELLO])
        assert server.http.post("/v1/chat/completions", json=body).status_code == 200
        other = server.http.post("/v1/chat/completions", json=body, headers={"Authorization": "Bearer second"})
        assert_error(other, 400, "audio_not_found")


def test_a_reply_that_fails():
    with serving(FakeEngine(fail=True)) as server:
        body = chat_body("hello", modalities=["text", "audio"], audio={"voice": "Ada", "format": "pcm16"})
        error = assert_error(server.http.post("/v1/chat/completions", json=body), 500, "reply_failed")
        assert error["type"] == "server_error"
        with pytest.raises(openai.APIError, match="could not be finished"):
            list(server.client.chat.completions.create(**body, stream=True))
        assert server.metric("errors_total", '{code="reply_failed"}') == 2


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_too_long_to_be_read_is_the_clients_mistake(stream: bool):
    with serving(FakeEngine(too_long=True)) as server:
        response = server.http.post("/v1/chat/completions", json=chat_body("hello", stream=stream))
        error = assert_error(response, 400, "context_length_exceeded")
        assert error["message"] == "system text and message are 99 tokens long." and error["param"] == "messages"
        assert server.metric("sessions_total", '{outcome="refused"}') == 1


def test_time_is_limited():
    with serving(FakeEngine(delay=0.2, answer="word " * 40), max_session_seconds=0.5) as server:
        assert_error(server.http.post("/v1/chat/completions", json=chat_body("hello")), 504, "timeout")
        assert server.metric("sessions_total", '{outcome="timeout"}') == 1
