"""Connections that bring nothing, or take nothing, come to an end; so do those above the greatest number."""

from __future__ import annotations

import importlib
import json
import socket
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai")

import httpx
from fake_engine import FakeEngine
from http_tools import Serving, said
from page_tools import wait_until
from websockets.sync.client import connect

from baichuan_audio.server import ServerSettings, connections

CHAT = "/v1/chat/completions"
HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
IDLE_S = 0.4


@pytest.fixture(params=["h11_impl.H11Protocol", "httptools_impl.HttpToolsProtocol"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """A server whose connections, four at most, have little patience; what goes on in them has more."""
    monkeypatch.setattr(connections, "_FEWEST_CONNECTIONS", 4)
    monkeypatch.setattr(connections, "_CONNECTIONS_PER_SESSION", 0)
    module, name = request.param.split(".")
    if module == "httptools_impl":
        pytest.importorskip("httptools")
    protocol = getattr(importlib.import_module(f"uvicorn.protocols.http.{module}"), name)
    impatient = connections.http_protocol(ServerSettings(idle_seconds=IDLE_S), 8, protocol)
    monkeypatch.setattr(Serving, "http_protocol", impatient)
    server = Serving(FakeEngine(delay=0.05), ServerSettings(idle_seconds=3))
    yield server
    server.http.close()
    server.stop()


def ended(connection: socket.socket) -> bool:
    """Whether the server ends the connection within some seconds, whatever it sends before."""
    connection.settimeout(5)
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
        for _ in range(100):
            time.sleep(0.05)
            try:
                connection.sendall(b"x")
            except OSError:
                return
    raise AssertionError("still open")


def test_an_answer_that_nobody_takes(server: Serving, monkeypatch: pytest.MonkeyPatch):
    """It fills the buffers and lies there, even when all of it has been made."""
    monkeypatch.setattr(connections, "LEAST_BYTES_PER_S", 2**20)
    server.engine.delay, server.engine.answer = 0.0, "word " * 600
    body = said("hello", modalities=["text", "audio"], audio={"format": "wav"})
    data = json.dumps(body).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        wait_until(lambda: server.busy == 1, 5)
        wait_until(lambda: not server.open_connections, 20)


def test_what_goes_on_goes_on(server: Serving):
    """A reply that takes its time, and a WebSocket."""
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime") as websocket:
        with server.client.chat.completions.create(**said("a b c d e f g h i j k l m n o p"), stream=True) as chunks:
            assert len(list(chunks)) > 10
        websocket.send(json.dumps({"type": "session.update", "session": {"type": "realtime"}}))
        kinds = [json.loads(websocket.recv(timeout=5))["type"] for _ in range(2)]
    assert kinds == ["session.created", "session.updated"]


def test_one_too_many(server: Serving):
    """It gets no answer; when one of the others has gone there is room again."""
    inside = [connect(f"ws://127.0.0.1:{server.port}/v1/realtime") for _ in range(4)]
    with pytest.raises(httpx.TransportError):
        server.http.get("/health")
    inside[0].close()
    wait_until(lambda: server.open_connections == 3, 5)
    assert server.http.get("/health").status_code == 200
    for websocket in inside:
        websocket.close()
