"""What tests over HTTP need: a server with its clients, and the question whether it has let everything go again."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import openai
import soundfile
from fake_engine import FakeEngine
from page_tools import PATIENCE_S, LiveServer

from baichuan_audio.server.settings import ServerSettings

KEY = "a-key-of-the-tests"


class Serving(LiveServer):
    """A live server, an `openai` client and a bare HTTP client for it."""

    def __init__(self, engine: Any, settings: ServerSettings) -> None:
        super().__init__(engine, settings)
        key = settings.api_keys[0] if settings.api_keys else "none"
        self.client = openai.OpenAI(base_url=self.url + "v1", api_key=key, max_retries=0, timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {key}"} if settings.api_keys else {}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S)

    @property
    def busy(self) -> int:
        """Slots taken."""
        return int(self.engine.stats().active_sessions)

    def idle(self, within_s: float = PATIENCE_S) -> bool:
        """Whether every slot is free again, and every request has ended, within this time."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if not self.busy and self.metric("active_sessions") == 0:
                return True
            time.sleep(0.02)
        return False

    def metric(self, name: str, labels: str = "") -> float:
        """One figure of /metrics; 0 before it has been counted."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"baichuan_audio_{name}{labels} "):
                return float(line.split()[-1])
        return 0.0

    def raw(self, request: bytes) -> socket.socket:
        """A connection over which these bytes have been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection.sendall(request)
        return connection

    def post_raw(self, path: str, body: object) -> socket.socket:
        """A JSON request whose answer nobody has read yet."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        return self.raw(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)


@contextmanager
def serving(engine: Any = None, **settings: Any) -> Iterator[Serving]:
    """A server for a block; afterwards it must be idle."""
    server = Serving(engine or FakeEngine(), ServerSettings(**settings))
    try:
        yield server
        assert server.idle(), "a slot has not been freed"
    finally:
        server.client.close()
        server.http.close()
        server.stop()


def tone(seconds: float = 1.0, rate: int = 16000, format: str = "WAV", channels: int = 1) -> bytes:
    """A tone as an audio file."""
    wave = 0.3 * np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * 220 / rate)
    file = io.BytesIO()
    soundfile.write(file, np.repeat(wave[:, None], channels, axis=1), rate, format=format)
    return file.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def chat_body(text: str, **more: Any) -> dict[str, Any]:
    """A chat request of one turn."""
    return {"model": "any", "messages": [{"role": "user", "content": text}], **more}


def assert_error(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape with this status -> what is in it."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"]
    if code is not None:
        assert error["code"] == code, error
    return dict(error)
