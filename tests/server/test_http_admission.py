"""Who is let in, how much is taken from one client, and what hostile ones leave behind: nothing."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
openai = pytest.importorskip("openai")

from fake_engine import FakeEngine  # noqa: E402
from http_tools import KEY, Serving, assert_error, chat_body, encoded, serving, tone  # noqa: E402
from page_tools import PATIENCE_S, wait_until  # noqa: E402
from starlette.datastructures import URL  # noqa: E402
from starlette.requests import HTTPConnection  # noqa: E402

from baichuan_audio.engine import EngineStopped  # noqa: E402
from baichuan_audio.errors import ConfigError  # noqa: E402
from baichuan_audio.server.access import admission as limits  # noqa: E402
from baichuan_audio.server.errors import as_api_error  # noqa: E402
from baichuan_audio.server.monitoring.logging import EventLog, collect_logs  # noqa: E402
from baichuan_audio.server.settings import ServerSettings, is_loopback  # noqa: E402

CHAT, SPEECH, TRANSCRIPTIONS = "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
LONG = "word " * 200


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(max_message_bytes=100_000, idle_seconds=1.0) as server:
        yield server


@pytest.fixture(scope="module")
def locked() -> Iterator[Serving]:
    with serving(api_keys=(KEY, "another"), allowed_origins=("https://voice.example",)) as server:
        yield server


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer ключ".encode()]
)
def test_without_a_key(locked: Serving, header: str | bytes | None):
    headers = {"Authorization": header or ""}
    for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/metrics"), ("GET", "/v1/nothing")):
        response = locked.http.request(method, path, headers=headers)
        assert_error(response, 401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
    assert locked.http.get("/health", headers=headers).status_code == 200
    assert locked.http.get("/", headers=headers).status_code == 200


def test_a_host_name_with_a_path_is_no_way_round(locked: Serving, monkeypatch: pytest.MonkeyPatch):
    """Some versions of starlette make `request.url` of the host name as it came."""
    monkeypatch.setattr(
        HTTPConnection, "url", property(lambda connection: URL("http://127.0.0.1/elsewhere?/v1/models"))
    )
    assert_error(locked.http.get("/v1/models", headers={"authorization": ""}), 401, "invalid_api_key")


def test_with_a_key(locked: Serving):
    assert locked.client.models.list().data[0].id == "baichuan-audio"
    assert locked.client.with_options(api_key="another").models.retrieve("baichuan-audio").object == "model"
    with pytest.raises(openai.AuthenticationError):
        locked.client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        locked.client.models.retrieve("gpt-4")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "rebound.example"}, "host_not_allowed"),
        ({"host": "rebound.example:8000"}, "host_not_allowed"),
        ({"host": "127.0.0.1.rebound.example"}, "host_not_allowed"),
        ({"host": "[::1"}, "host_not_allowed"),
        ({"host": ""}, "host_not_allowed"),
        ({"origin": "https://elsewhere.example"}, "origin_not_allowed"),
        ({"origin": "null"}, "origin_not_allowed"),
        ({"origin": "https://[x"}, "origin_not_allowed"),
        ({"origin": "https://voice.example.elsewhere.example"}, "origin_not_allowed"),
        ({"host": "localhost:1"}, None),
        ({"host": "[::1]:8000"}, None),
        ({"host": "voice.example"}, None),
        ({"origin": "https://voice.example"}, None),
        ({"origin": "http://localhost:9", "host": "localhost:9"}, None),
    ],
)
def test_sites(locked: Serving, headers: dict, code: str | None):
    response = locked.http.get("/v1/models", headers=headers)
    if code:
        assert_error(response, 403, code)
        assert "access-control-allow-origin" not in response.headers
    else:
        assert response.status_code == 200
        assert response.headers.get("access-control-allow-origin") == headers.get("origin")
        exposed = response.headers.get("access-control-expose-headers")
        assert exposed == ("retry-after, x-request-id" if "origin" in headers else None)


def test_a_browser_asks_beforehand(locked: Serving):
    headers = {"origin": "https://voice.example", "access-control-request-method": "POST"}
    response = locked.http.options(CHAT, headers={**headers, "authorization": ""})
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "https://voice.example"
    assert "authorization" in response.headers["access-control-allow-headers"]
    assert_error(locked.http.options(CHAT, headers={**headers, "origin": "https://x.example"}), 403)


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("authorization,content-type,x-stainless-os", "authorization, content-type, x-stainless-os"),
        ("authorization, x stainless, x/y, , x:y, ü", "authorization"),
        (",".join(["x"] * 60 + ["y"]), ", ".join(["x"] * 50)),
        (f"{'x' * 100},{'y' * 101}", "x" * 100),
        ("", ""),
    ],
)
def test_names_of_headers_that_a_browser_asks_for(locked: Serving, asked: str, allowed: str):
    headers = {"origin": "https://voice.example", "access-control-request-method": "POST"}
    headers["access-control-request-headers"] = asked
    encoded_headers = {name: value.encode("latin-1") for name, value in headers.items()}
    response = locked.http.options(CHAT, headers=encoded_headers)
    assert (response.status_code, response.headers["access-control-allow-headers"]) == (204, allowed)


def test_settings_that_make_no_sense():
    for bad in (
        {"port": -1},
        {"max_message_bytes": 0},
        *({"api_keys": ("good", key)} for key in ("a b", "a/b", "a=", "a,b", "a\n", "ключ", "")),
        {"allowed_origins": ("voice",)},
        {"model_name": " "},
    ):
        with pytest.raises(ConfigError):
            ServerSettings(**bad)
    assert ServerSettings(api_keys=("sk-1.A_b~!#$%&'*+^`|",)).api_keys
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "localhost", "0.0.0.0", "x.example")] == [True] * 3 + [
        False
    ] * 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/..%2f..%2fsettings.py", 404),
        ("GET", "/app.py", 404),
        ("GET", "/v1/models/%00", 404),
        ("GET", "/v1/models/%ff%fe", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("PUT", "/health", 405),
        ("POST", "/", 405),
    ],
)
def test_errors_of_the_framework_have_the_same_shape(server: Serving, method: str, path: str, status: int):
    response = server.http.request(method, path)
    assert_error(response, status)
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"\xff\xfe",
        b"{" * 50_000,
        b'{"model": NaN}',
        b"[" * 90_000,
        b'{"model":"x","input":"' + b"y" * 9000,
    ],
)
@pytest.mark.parametrize("path", [CHAT, SPEECH])
def test_garbage_instead_of_json(server: Serving, path: str, body: bytes):
    assert_error(server.http.post(path, content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize("type", ["", "text/plain", "application/xml", "application/json; charset=\xff"])
def test_other_content_types(server: Serving, type: str):
    body = json.dumps(chat_body("x")).encode()
    assert server.http.post(CHAT, content=body, headers={"content-type": type.encode("latin-1")}).status_code in (
        200,
        400,
    )


def test_a_body_above_the_limit_is_not_read(server: Serving):
    """Neither when its length is told, nor when it comes in chunks without end."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n".encode()
    with server.raw(head + b"Content-Length: 10000000000\r\n\r\n{") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
    with server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
        answer, chunk = b"", b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
        connection.settimeout(5)
        for _ in range(200):
            try:
                connection.sendall(chunk)
            except OSError:
                break
        try:
            answer = connection.recv(4096)
        except OSError:
            answer = b"HTTP/1.1 413"  # reset before it could be read
        assert answer.startswith(b"HTTP/1.1 413")
    assert server.metric("errors_total", '{code="request_too_large"}') >= 1


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "9" * 40])
def test_lengths_that_are_none(server: Serving, length: str):
    with server.raw(
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode()
    ) as connection:
        assert connection.recv(100).split()[1] in (b"400", b"413")


def test_a_body_that_does_not_come(server: Serving):
    with server.raw(f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{{".encode()) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_body_is_waited_for_less_long_than_a_word(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "_BODY_S", 0.3)
    with (
        serving(idle_seconds=600) as server,
        server.raw(f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{{".encode()) as connection,
    ):
        connection.settimeout(PATIENCE_S)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_body_that_comes_too_slowly(server: Serving):
    """Byte by byte it is never idle, and yet not waited for; at a fair pace it may take longer."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    with server.raw(f"{head}90000\r\n\r\n".encode()) as connection:
        answer, ended = b"", time.monotonic() + PATIENCE_S
        connection.settimeout(0.1)
        while not answer and time.monotonic() < ended:
            connection.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
    body = json.dumps(chat_body("x" * 60_000)).encode()
    with server.raw(f"{head}{len(body)}\r\n\r\n".encode()) as connection:
        for start in range(0, len(body), 10_000):
            time.sleep(0.3)
            connection.sendall(body[start : start + 10_000])
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_vanishes(stream: bool, reset: bool):
    """Its reply stops and its slot is free, and others can go on."""
    with serving(FakeEngine(max_sessions=2, delay=0.02, answer=LONG)) as server:
        connection = server.post_raw(CHAT, chat_body("hello", stream=stream))
        wait_until(lambda: server.busy == 1)
        if stream:
            assert connection.recv(100)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        assert server.idle()
        assert server.metric("sessions_total", '{outcome="cancelled"}') == 1


@pytest.mark.parametrize("path", [SPEECH, TRANSCRIPTIONS])
def test_a_listener_that_vanishes(path: str):
    with serving(FakeEngine(delay=0.05, transcript=LONG)) as server:
        if path == SPEECH:
            connection = server.post_raw(path, {"model": "x", "input": LONG, "response_format": "wav"})
        else:
            request = server.http.build_request("POST", path, data={"model": "x"}, files={"file": tone()})
            body = request.read()
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {request.headers['content-type']}\r\n"
            connection = server.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: server.busy == 1)
        connection.close()
        assert server.idle()
        assert server.metric("sessions_total", '{outcome="cancelled"}') == 1


def test_a_listener_that_never_reads():
    """What it does not take fills the buffers; then it is given up, and its slot with it."""
    with serving(FakeEngine(answer="word " * 20_000), idle_seconds=0.5) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        body = json.dumps(chat_body("x", modalities=["audio"], audio={"format": "pcm16"}, stream=True)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: server.busy == 1)
        assert server.client.chat.completions.create(**chat_body("others go on"), max_tokens=2)
        assert server.idle()
        assert server.metric("errors_total", '{code="stalled"}') == 1
        connection.close()


def test_ten_times_too_many():
    """A full house says so at once; those inside are served to the end."""
    with serving(FakeEngine(max_sessions=3, delay=0.05)) as server:
        statuses: list[int] = []

        def ask() -> None:
            response = server.http.post(CHAT, json=chat_body("a b c d e f"))
            statuses.append(response.status_code)
            if response.status_code == 429:
                assert_error(response, 429)
                assert int(response.headers["retry-after"]) > 0
            else:
                assert response.json()["choices"][0]["message"]["content"] == "You said a b c d e f."

        threads = [threading.Thread(target=ask) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses.count(200) >= 3 and statuses.count(200) + statuses.count(429) == 30


def test_random_bytes_on_the_wire(server: Serving):
    dice = random.Random(0)
    for _ in range(50):
        junk = dice.randbytes(dice.randrange(1, 400))
        if dice.random() < 0.5:
            junk = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode() + junk + b"\r\n\r\n"
        with server.raw(junk) as connection:
            connection.settimeout(0.05)
            with contextlib.suppress(OSError):
                connection.recv(1000)
    assert server.http.get("/health").json()["status"] == "ok"


def test_mutated_requests(server: Serving):
    """Bytes of a good request changed at random: an answer in our shapes, never a 500."""
    dice = random.Random(1)
    part = {"type": "input_audio", "input_audio": {"data": encoded(tone(0.1)), "format": "wav"}}
    good = json.dumps(chat_body("x", messages=[{"role": "user", "content": ["x", part]}], max_tokens=3)).encode()
    for _ in range(100):
        body = bytearray(good)
        for _ in range(dice.randrange(1, 5)):
            body[dice.randrange(len(body) if dice.random() < 0.5 else 120)] = dice.randrange(256)
        response = server.http.post(CHAT, content=bytes(body), headers={"content-type": "application/json"})
        assert response.status_code in (200, 400), response.text
        if response.status_code == 400:
            assert_error(response, 400)


def test_models_health_and_metrics(server: Serving):
    health = server.http.get("/health")
    assert health.json() == {"status": "ok", "slots_free": 8}
    server.client.chat.completions.create(**chat_body("hello"))
    text = server.http.get("/metrics").text
    names = "active_sessions sessions_total ttfa_seconds endpoint_delay_seconds rtf underrun_seconds barge_in_total "
    names += (
        "barge_in_stop_seconds queue_depth batch_size slots_free audio_seconds_total errors_total runaway_replies_total"
    )
    for name in [*names.split(), "http_requests_total"]:
        assert f"# TYPE baichuan_audio_{name} " in text, name
    assert server.metric("http_requests_total", '{endpoint="/v1/chat/completions",status="200"}') >= 1
    assert "/nothing" not in text, "what clients type must not become a label"


def test_the_log_holds_no_words_unless_asked():
    for asked in (False, True):
        lines = io.StringIO()
        log = EventLog(asked, lines)
        log.write("chat", session_id="s", response_id="r", content={"reply": "secret"}, seconds=1.5)
        try:
            raise ValueError("secret")
        except ValueError as error:
            log.exception(error, session_id="s")
        first, second = map(json.loads, lines.getvalue().splitlines())
        assert (first["event"], first["session_id"], first["response_id"], first["seconds"]) == ("chat", "s", "r", 1.5)
        assert second["kind"] == "ValueError" and "test_http_admission.py" in second["where"][0]
        assert ("secret" in lines.getvalue()) == asked


@pytest.mark.parametrize("asked", [False, True])
def test_logs_of_libraries_and_of_the_engine_are_in_the_same_log(asked: bool, monkeypatch: pytest.MonkeyPatch):
    for name in ("baichuan_audio", "uvicorn.error", "asyncio"):
        for attribute in ("handlers", "propagate", "level"):  # to be as they were afterwards
            monkeypatch.setattr(logging.getLogger(name), attribute, getattr(logging.getLogger(name), attribute))
    lines = io.StringIO()
    collect_logs(EventLog(asked, lines))
    logging.getLogger("baichuan_audio.engine.worker").error("a reply failed", exc_info=ValueError("secret"))
    logging.getLogger("uvicorn.error").warning("no request")
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert (first["event"], first["kind"], second["message"]) == ("error", "ValueError", "no request")
    assert ("secret" in lines.getvalue()) == asked


def test_an_engine_that_has_stopped(server: Serving):
    error = as_api_error(EngineStopped("x"))
    assert error.status == 503 and error.headers["Retry-After"]
    assert as_api_error(ZeroDivisionError("secret")).body()["error"]["message"] == "something went wrong in the server."
