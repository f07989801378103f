"""What is wrong with a request is said in the client's terms: the field as it was sent, and what is taken there."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai")

from fake_engine import FakeEngine
from http_tools import Serving, assert_error, chat_body, encoded, serving, tone
from pydantic import BaseModel, ValidationError
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from baichuan_audio.server.http.chat_types import ChatRequest
from baichuan_audio.server.http.speech import SpeechRequest
from baichuan_audio.server.validation import explain

CHAT, SPEECH, TRANSCRIPTIONS = "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
PYDANTIC = re.compile(
    r"Value error|Input should|function-|tagged-union|\blist\[|\bstr\b|\bint\b|<class|discriminator|\.user"
)
"""What a client should never read."""


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(FakeEngine()) as server:
        yield server


def content(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def sound(**input_audio: Any) -> dict[str, Any]:
    return content({"type": "input_audio", "input_audio": input_audio})


FIRST = "messages[0].content[0]"
OF_CHAT: list[tuple[dict[str, Any], str, str]] = [  # what is changed, the field at fault, words of the message
    ({"model": None}, "model", "string"),
    ({"messages": None}, "messages", "list"),
    ({"messages": []}, "messages", "empty"),
    ({"messages": {}}, "messages", "list"),
    ({"messages": [3]}, "messages[0]", "object"),
    ({"messages": [{}]}, "messages[0].role", "missing"),
    ({"messages": [{"role": "robot"}]}, "messages[0].role", "'user' or 'assistant'; this model cannot take 'robot'"),
    ({"messages": [{"role": "<script>"}]}, "messages[0].role", "'user' or 'assistant'."),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "a string or a list"),
    ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content", "a string or a list"),
    ({"messages": [{"role": "user", "content": "a\ud800"}]}, "messages[0].content", "surrogate"),
    ({"messages": [{"role": "assistant", "audio": "x"}]}, "messages[0].audio", "object"),
    ({"messages": [{"role": "assistant", "audio": {}}]}, "messages[0].audio.id", "missing"),
    ({"messages": [{"role": "system", "content": [{"type": "image_url"}]}]}, f"{FIRST}.type", "'text'"),
    (content(), "messages[0].content", "empty"),
    (content("x"), FIRST, "object"),
    (content({"text": "x"}), f"{FIRST}.type", "missing"),
    (content({"type": 3}), f"{FIRST}.type", "'text' or 'input_audio'"),
    (content({"type": "text"}), f"{FIRST}.text", "missing"),
    (content({"type": "text", "text": 3}), f"{FIRST}.text", "string"),
    (content({"type": "text", "text": "x"}, {"type": "text", "text": []}), "messages[0].content[1].text", "string"),
    *(
        (content({"type": kind, kind: {"url": "x"}}), f"{FIRST}.type", f"'text' or 'input_audio'.*'{kind}'")
        for kind in ("image_url", "audio_url", "video_url", "file", "input_image", "input_text")
    ),
    (content({"type": "input_audio"}), f"{FIRST}.input_audio", "missing"),
    (content({"type": "input_audio", "input_audio": "x"}), f"{FIRST}.input_audio", "object"),
    (sound(format="wav"), f"{FIRST}.input_audio.data", "missing"),
    (sound(data=3, format="wav"), f"{FIRST}.input_audio.data", "string"),
    (sound(data="AAAA", format="x" * 65), f"{FIRST}.input_audio.format", "at most 64"),
    (sound(data="AAAA", format=3), f"{FIRST}.input_audio.format", "string"),
    ({"modalities": "text"}, "modalities", "list"),
    ({"modalities": ["video"]}, "modalities[0]", "'text' or 'audio'"),
    ({"modalities": ["text", "audio", "text"]}, "modalities", "at most 2"),
    ({"audio": "wav"}, "audio", "object"),
    ({"audio": {"voice": "Ada"}}, "audio.format", "missing"),
    ({"audio": {"voice": 3, "format": "wav"}}, "audio.voice", "a string or an object"),
    ({"audio": {"voice": "Ada", "format": "ogg"}}, "audio.format", "'wav', 'mp3'"),
    ({"stream": "perhaps"}, "stream", "true or false"),
    ({"stream_options": []}, "stream_options", "object"),
    ({"stream_options": {"include_usage": "perhaps"}}, "stream_options.include_usage", "true or false"),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"max_tokens": 1.5}, "max_tokens", "whole number"),
    ({"max_tokens": 10**300}, "max_tokens", "at most 1000000"),
    ({"max_completion_tokens": "many"}, "max_completion_tokens", "whole number"),
    ({"temperature": "hot"}, "temperature", "a number"),
    ({"temperature": -0.1}, "temperature", "at least 0"),
    ({"temperature": 2.5}, "temperature", "at most 2"),
    ({"temperature": float("nan")}, "temperature", "finite|number"),
    ({"temperature": float("inf")}, "temperature", "finite|number"),
    ({"top_p": 0}, "top_p", "above 0"),
    ({"seed": 2**63}, "seed", "below"),
    ({"seed": float("nan")}, "seed", "whole number|finite"),
    ({"stop": 3}, "stop", "a string or a list"),
    ({"stop": ["a"] * 5}, "stop", "at most 4"),
    ({"stop": ["a", 3]}, "stop[1]", "string"),
    ({"response_format": "json"}, "response_format", "object"),
    ({"messages": [{"role": "user", "content": "x" * 65_537}]}, "messages[0].content", "at most 65536 characters"),
    ({"messages": [{"role": "assistant", "audio": {"id": "x" * 513}}]}, "messages[0].audio.id", "at most 512"),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata", "at most 16 entries"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a", "at most 512 characters"),
    ({"metadata": {"a": 3}}, "metadata.a", "string"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", "'text'"),
    *(
        ({name: value}, name, "cannot be met")
        for name, value in {
            "n": 2,
            "tools": [TOOL],
            "functions": [{"name": "f"}],
            "tool_choice": "required",
            "logprobs": True,
            "top_logprobs": 3,
            "logit_bias": {"1": 5},
            "frequency_penalty": 0.1,
            "presence_penalty": -1,
            "web_search_options": {},
        }.items()
    ),
]


def refused(server: Serving, path: str, body: Any) -> dict[str, Any]:
    data = json.dumps(body).encode()
    error = assert_error(server.http.post(path, content=data, headers={"content-type": "application/json"}), 400)
    assert not PYDANTIC.search(error["message"]), error
    assert not PYDANTIC.search(str(error["param"])), error
    return error


@pytest.mark.parametrize(("change", "param", "words"), OF_CHAT)
def test_of_chat(server: Serving, change: dict, param: str, words: str):
    error = refused(server, CHAT, {**chat_body("hello"), **change})
    assert error["param"] == param and param in error["message"]
    assert re.search(words, error["message"]), error


@pytest.mark.parametrize(
    "change",
    [
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": [TOOL], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"n": 1, "logprobs": False, "top_logprobs": 0, "frequency_penalty": 0, "presence_penalty": 0.0},
        {"response_format": {"type": "text"}, "stream_options": None, "max_tokens": 64, "stop": None},
        {"user": "me", "store": False, "metadata": {}, "reasoning_effort": "low", "service_tier": "auto"},
        {"model": "gpt-4o-audio-preview", "unheard_of": [float("nan")]},
        {"stop": ["", "never"]},
    ],
)
def test_what_asks_for_nothing_is_taken(server: Serving, change: dict):
    data = json.dumps({**chat_body("hello"), **change}).encode()
    response = server.http.post(CHAT, content=data, headers={"content-type": "application/json"})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("format", ["wav", "WAV", ".wav", "audio/wav", "mp3", "m4a", "webm", "ogg", "flac", None])
def test_the_content_of_a_file_decides(server: Serving, format: str | None):
    """A WAV under the name of another container, as recorders of browsers and phones call theirs."""
    named = {} if format is None else {"format": format}
    part = sound(data=encoded(tone()), **named)
    response = server.http.post(CHAT, json={"model": "any", **part})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"model": None}, "model", "string"),
        ({"input": None}, "input", "string"),
        ({"input": ""}, "input", "empty"),
        ({"input": ["x"]}, "input", "string"),
        ({"input": "\udc00"}, "input", "surrogate"),
        ({"voice": 3}, "voice", "a string or an object"),
        ({"voice": {"name": "x"}}, "voice.id", "missing"),
        ({"response_format": "exe"}, "response_format", "'wav', 'mp3'"),
        ({"speed": 5}, "speed", "at most 4"),
        ({"speed": float("nan")}, "speed", "number"),
        ({"speed": "fast"}, "speed", "number"),
        ({"stream_format": "x"}, "stream_format", "'audio' or 'sse'"),
    ],
)
def test_of_speech(server: Serving, change: dict, param: str, words: str):
    error = refused(server, SPEECH, {"model": "x", "input": "hello", **change})
    assert error["param"] == param and param in error["message"]
    assert re.search(words, error["message"]), error


@pytest.mark.parametrize(
    ("form", "param", "words"),
    [
        ({"model": None}, "model", "missing"),
        ({"model": ""}, "model", "missing"),
        ({"response_format": "xml"}, "response_format", "'json', 'text'"),
        ({"stream": "perhaps"}, "stream", "true or false"),
        ({"temperature": "nan"}, "temperature", "finite"),
        ({"temperature": "hot"}, "temperature", "a number"),
        ({"temperature": "2"}, "temperature", "at most 1"),
        ({"language": "x" * 33}, "language", "at most 32"),
        ({"timestamp_granularities[]": ["word"]}, "timestamp_granularities[]", "'segment'"),
        ({"timestamp_granularities[]": ["segment", "word"]}, "timestamp_granularities[]", "'segment'"),
    ],
)
def test_of_transcriptions(server: Serving, form: dict, param: str, words: str):
    data = {name: value for name, value in {"model": "x", **form}.items() if value is not None}
    error = assert_error(server.http.post(TRANSCRIPTIONS, data=data, files={"file": tone(0.1)}), 400)
    assert error["param"] == param and param in error["message"] and not PYDANTIC.search(error["message"])
    assert re.search(words, error["message"]), error


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"data": {"model": "x"}},
        {"data": {"model": "x", "file": "a text"}},
        {"json": {"model": "x", "file": "x"}},
        {"content": b"--x--\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"model=x&file=y", "headers": {"content-type": "application/x-www-form-urlencoded"}},
    ],
)
def test_without_a_file(server: Serving, request_: dict):
    error = assert_error(server.http.post(TRANSCRIPTIONS, **request_), 400)
    assert error["param"] == "file" and "multipart/form-data" in error["message"]
    assert not PYDANTIC.search(error["message"])


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"3", b'"x"', b"{", b"{} {}", b"\xff", b"9" * 9000])
@pytest.mark.parametrize("path", [CHAT, SPEECH])
def test_bodies_that_are_no_object(server: Serving, path: str, body: bytes):
    response = server.http.post(path, content=body, headers={"content-type": "application/json"})
    error = assert_error(response, 400)
    assert re.search("JSON|body", error["message"]) and not PYDANTIC.search(error["message"])


def test_a_body_in_another_coding(server: Serving):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = server.http.post(CHAT, content=gzip.compress(json.dumps(chat_body("x")).encode()), headers=headers)
    assert "the body cannot be read" in assert_error(response, 400)["message"]


def test_json_under_another_name(server: Serving):
    response = server.http.post(CHAT, content=json.dumps(chat_body("x")), headers={"content-type": "text/plain"})
    assert "Content-Type: application/json" in assert_error(response, 400)["message"]


@pytest.mark.parametrize("kind", [ChatRequest, SpeechRequest])
def test_no_fault_of_pydantic_shows_through(kind: type[BaseModel]):
    """Every value of a wrong kind in every place of a request, however deep: the field is named, and nothing else."""
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "x"}]},
        {"role": "user", "content": [part]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "x"}], "audio": {"id": "x"}},
    ]
    whole = {
        **chat_body("x", messages=messages, modalities=["text"], stop=["x"], stream_options={"include_usage": True}),
        "audio": {"voice": {"id": "x"}, "format": "wav"},
        **{"temperature": 1.0, "seed": 1, "max_tokens": 3, "stream": True, "input": "x", "voice": {"id": "x"}},
        **({"response_format": {"type": "text"}} if kind is ChatRequest else {"response_format": "wav", "speed": 1}),
    }
    kind.model_validate(whole)
    tried = 0
    for steps in _steps_of(whole):
        for wrong in (None, 3, -1e400, True, "\ud800", "wrong", [], {}, [[]], [{}], {"id": []}):
            body = json.loads(json.dumps(whole))
            _put(body, steps, wrong)
            try:
                kind.model_validate(body)
            except ValidationError as error:
                faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
                message, param = explain(faults, body)
                assert param and not PYDANTIC.search(message), (steps, wrong, message)
                assert not message.endswith("is not valid."), (steps, wrong, message)
                name = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).removeprefix(".")
                assert param.startswith(name) or name.startswith(param), (steps, wrong, param)
                tried += 1
    assert tried > 50


def _steps_of(value: Any, steps: tuple = ()) -> Iterator[tuple]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in inside:
        yield (*steps, step)
        yield from _steps_of(inner, (*steps, step))


def _put(body: Any, steps: tuple, value: Any) -> None:
    for step in steps[:-1]:
        body = body[step]
    body[steps[-1]] = value


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("HEAD", "/health", 200, None),
        ("HEAD", "/metrics", 200, None),
        ("HEAD", "/v1/models", 200, None),
        ("HEAD", "/openapi.json", 200, None),
        ("HEAD", "/", 200, None),
        ("HEAD", "/nothing", 404, None),
        ("HEAD", CHAT, 405, "OPTIONS, POST"),
        ("OPTIONS", "/health", 204, "GET, HEAD, OPTIONS"),
        ("OPTIONS", CHAT, 204, "OPTIONS, POST"),
        ("OPTIONS", "/nothing", 404, None),
        ("PUT", "/health", 405, "GET, HEAD, OPTIONS"),
        ("PATCH", SPEECH, 405, "OPTIONS, POST"),
        ("GET", "/health/", 200, None),
        ("GET", "/v1/models/", 200, None),
        ("POST", CHAT + "/", 400, None),
        ("GET", "/v1", 404, None),
        ("POST", "/v1/embeddings", 404, None),
        ("GET", "/v1/realtime", 426, None),
        ("POST", "/v1/realtime", 405, "GET, HEAD, OPTIONS"),
    ],
)
def test_methods_and_addresses(server: Serving, method: str, path: str, status: int, allow: str | None):
    response = server.http.request(method, path)
    assert (response.status_code, response.headers.get("allow")) == (status, allow)
    if method in ("HEAD", "OPTIONS") and status != 404:
        assert not response.content
    elif status >= 400 and method != "HEAD":
        assert_error(response, status)


def test_a_head_says_what_a_get_would(server: Serving):
    get, head = (server.http.request(method, "/v1/models") for method in ("GET", "HEAD"))
    assert not head.content and head.headers["content-length"] == str(len(get.content))
    assert server.http.get("/health").status_code == 200, "the connection still holds"


def test_voices_and_models_for_pages_that_ask(server: Serving):
    """As Open WebUI reads them."""
    voices = server.http.get("/v1/audio/voices").json()["voices"]
    assert {voice["id"]: voice["name"] for voice in voices} == {name: name for name in FakeEngine.voices}
    assert [model["id"] for model in server.http.get("/v1/audio/models").json()["models"]] == ["baichuan-audio"]


def test_a_websocket_elsewhere(server: Serving):
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}/v1/live")
    response = refused.value.response
    assert response.status_code == 404 and "/v1/realtime" in json.loads(response.body)["error"]["message"]
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime/?model=any") as websocket:
        assert json.loads(websocket.recv(timeout=60))["type"] == "session.created"
