"""Connections that bring nothing, or take nothing, come to an end; so do those above the greatest number."""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
import struct
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai")

from fake_engine import FakeEngine
from http_tools import Serving, assert_error, chat_body
from page_tools import PATIENCE_S, wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from baichuan_audio.server import ServerSettings
from baichuan_audio.server.access import connections

CHAT, SPEECH = "/v1/chat/completions", "/v1/audio/speech"
ITEM = {
    "type": "conversation.item.create",
    "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
}
HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
IDLE_S = 0.4
SLOW_READER_IDLE_S = 1.0  # more than a busy machine keeps a thread waiting

IMPLEMENTATIONS = ["h11_impl.H11Protocol", "httptools_impl.HttpToolsProtocol"]


@pytest.fixture(params=IMPLEMENTATIONS)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """A server whose connections, four and two spare ones at most, have little patience; what goes on in them has
    more."""
    yield from _serve(request.param, monkeypatch, IDLE_S, application_idle_s=30.0)


@pytest.fixture(params=IMPLEMENTATIONS)
def hasty_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """The same where what goes on in a connection is given up as soon; it makes more than any buffer holds."""
    idle_s = SLOW_READER_IDLE_S if "slow_reader" in request.node.name else IDLE_S
    for hasty in _serve(request.param, monkeypatch, idle_s, application_idle_s=idle_s):
        hasty.engine.delay, hasty.engine.answer = 0.0, "word " * 20_000
        hasty.http.headers["connection"] = "close"  # one that waits for the next request is soon ended
        yield hasty


def _serve(
    implementation: str, monkeypatch: pytest.MonkeyPatch, idle_s: float, application_idle_s: float
) -> Iterator[Serving]:
    limits = {"_FEWEST_CONNECTIONS": 4, "_CONNECTIONS_PER_SESSION": 0, "_SPARE_CONNECTIONS": 2}
    for name, value in {**limits, "_LOOK_S": 0.05, "_MARGIN_S": 0.2}.items():
        monkeypatch.setattr(connections, name, value)
    module, name = implementation.split(".")
    if module == "httptools_impl":
        pytest.importorskip("httptools")
    protocol = getattr(importlib.import_module(f"uvicorn.protocols.http.{module}"), name)
    impatient = ServerSettings(idle_seconds=idle_s)
    monkeypatch.setattr(Serving, "http_protocol", connections.http_protocol(impatient, 8, protocol))
    monkeypatch.setattr(Serving, "websocket_protocol", connections.websocket_protocol(impatient))
    server = Serving(FakeEngine(delay=0.05), ServerSettings(idle_seconds=application_idle_s))
    yield server
    server.http.close()
    server.stop()


def ended(connection: socket.socket) -> bool:
    """Whether the server ends the connection in the end, whatever it sends before."""
    connection.settimeout(PATIENCE_S)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["nothing", "half a head"])
def test_without_a_request(server: Serving, sent: bytes):
    began = time.monotonic()
    with server.raw(sent) as connection:
        assert ended(connection)
    assert time.monotonic() - began >= IDLE_S


@pytest.mark.parametrize(
    "sent",
    [HEAD + b"X: ", HEAD + b"\r\n" + HEAD + b"X: ", HEAD + b"Content-Length: 999\r\n\r\n"],
    ids=["half a head", "half a second one", "a body that nobody reads"],
)
def test_bytes_win_no_time(server: Serving, sent: bytes):
    with server.raw(sent) as connection:
        for _ in range(int(PATIENCE_S / 0.05)):
            time.sleep(0.05)
            try:
                connection.sendall(b"x")
            except OSError:
                return
    raise AssertionError("still open")


def test_an_answer_that_nobody_takes(server: Serving):
    """It fills the buffers and lies there, even when all of it has been made."""
    server.engine.delay, server.engine.answer = 0.0, "word " * 600
    body = chat_body("hello", modalities=["text", "audio"], audio={"format": "wav"})
    data = json.dumps(body).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        wait_until(lambda: server.open_connections == 1)
        wait_until(lambda: not server.open_connections)


def test_what_goes_on_goes_on(server: Serving):
    """A reply that takes its time, and a WebSocket."""
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime") as websocket:
        with server.client.chat.completions.create(
            **chat_body("a b c d e f g h i j k l m n o p"), stream=True
        ) as chunks:
            assert len(list(chunks)) > 10
        websocket.send(json.dumps({"type": "session.update", "session": {"type": "realtime"}}))
        kinds = [json.loads(websocket.recv(timeout=PATIENCE_S))["type"] for _ in range(2)]
    assert kinds == ["session.created", "session.updated"]


def test_one_too_many(server: Serving):
    """It is told so, /health and /metrics excepted; when one of the others has gone there is room again."""
    inside = [connect(f"ws://127.0.0.1:{server.port}/v1/realtime") for _ in range(4)]
    for _ in range(5):
        assert server.http.get("/health").json()["status"] == "ok"
        assert server.http.get("/metrics").headers["connection"] == "close"
        response = server.http.get("/v1/models")
        assert assert_error(response, 503, "too_many_connections") and response.headers["retry-after"]
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}/v1/realtime")
    assert refused.value.response.status_code == 503
    inside[0].close()
    wait_until(lambda: server.http.get("/v1/models").status_code == 200)
    for websocket in inside:
        websocket.close()


def test_spare_connections_that_bring_nothing(server: Serving):
    """The oldest makes room: who floods the server with connections does not keep its health from being asked."""
    with contextlib.ExitStack() as flood:
        for _ in range(30):
            flood.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        for _ in range(3):
            assert server.http.get("/health").status_code == 200
        assert server.open_connections <= 7


@pytest.mark.parametrize("path", [None, CHAT, SPEECH])
def test_many_clients_that_read_nothing(hasty_server: Serving, path: str | None):
    """WebSockets (None) and streamed answers: each is closed in time, with its slot, and /health answers all along."""
    server = hasty_server
    outcome = '{outcome="slow"}' if path is None else '{outcome="cancelled"}'
    stalled = [_deaf_client(server, path) for _ in range(3)]
    try:
        wait_until(lambda: server.metric("sessions_total", outcome) + server.busy == 3)
        until = time.monotonic() + PATIENCE_S
        while server.busy or server.open_connections > 1:
            assert server.http.get("/health").status_code == 200
            assert time.monotonic() < until
            time.sleep(0.1)
        wait_until(lambda: server.metric("sessions_total", outcome) == 3)
    finally:
        for connection in stalled:
            connection.close()


def test_a_slow_reader_is_none_that_stalls(hasty_server: Serving):
    """It takes a little again and again, longer than one may take nothing; the writer is always ahead of it."""
    server = hasty_server
    with _deaf_client(server, CHAT, receive_bytes=65536) as connection:
        wait_until(lambda: server.busy == 1)
        began = time.monotonic()
        while time.monotonic() < began + 2 * SLOW_READER_IDLE_S:
            assert connection.recv(1 << 16)
            time.sleep(0.02)


def _deaf_client(server: Serving, path: str | None, receive_bytes: int = 4096) -> socket.socket:
    """A client that asks for more than the buffers hold, and reads none of it. path: None for the WebSocket."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.connect(("127.0.0.1", server.port))
    if path is None:
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        upgrade = f"Connection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n"
        connection.sendall(f"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\n{upgrade}".encode())
        assert connection.recv(12).endswith(b"101")
        for event in (ITEM, {"type": "response.create"}):
            text = json.dumps(event).encode()
            connection.sendall(b"\x81" + struct.pack("!BH", 0x80 | 126, len(text)) + bytes(4) + text)
        return connection
    chat = chat_body("x", modalities=["audio"], audio={"format": "pcm16"}, stream=True)
    body = chat if path == CHAT else {"model": "x", "input": "word " * 800, "response_format": "wav"}
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def test_pings_of_one_who_reads_nothing(hasty_server: Serving):
    """Their answers do not fill the memory."""
    server = hasty_server
    with _deaf_client(server, None) as connection:
        pings = (b"\x89" + bytes([0x80 | 125]) + bytes(4) + b"x" * 125) * 2000
        connection.settimeout(0.2)
        largest, until = 0, time.monotonic() + 2 * IDLE_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                connection.sendall(pings)
            sizes = [
                protocol.transport.get_write_buffer_size() for protocol in list(server._server.server_state.connections)
            ]
            largest = max([largest, *sizes])
        assert 0 < largest < 2**20
