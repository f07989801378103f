"""What tests of the page need: a server in a thread, a recording as microphone, and what passed over the WebSocket."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import uvicorn

from baichuan_audio.server.app import create_app
from baichuan_audio.server.settings import ServerSettings

MICROPHONE_RATE = 48000
PATIENCE_S = 60.0
"""What takes a moment on an idle machine may take this long on a busy one."""


def chromium() -> str | None:
    """The browser's path, if one is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def browser_flags(microphone: Path) -> list[str]:
    """A browser that may run as root, hears a file once from every opening of its microphone, and asks nobody."""
    return [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
        "--autoplay-policy=no-user-gesture-required",
    ]


def write_microphone(path: Path, question: Path, pauses_s: tuple[float, ...]) -> None:
    """The question after each pause but the last, at 48 kHz."""
    speech, rate = soundfile.read(question, dtype="float32")
    speech = soxr.resample(speech, rate, MICROPHONE_RATE)
    parts = []
    for pause in pauses_s:
        parts += [np.zeros(int(pause * MICROPHONE_RATE), np.float32), speech]
    soundfile.write(path, np.concatenate(parts[:-1]), MICROPHONE_RATE, subtype="PCM_16")


class LiveServer:
    """A real server on a free port, in a thread; `restart` cuts every connection and comes back on the same port."""

    # What uvicorn has without the libraries that Ray brings along, as most who serve; test_serve.py takes the best.
    http_protocol: Any = "h11"
    websocket_protocol: Any = "auto"

    def __init__(self, engine: Any, settings: ServerSettings | None = None) -> None:
        self.settings = settings
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._start(engine)

    def _start(self, engine: Any) -> None:
        self.engine = engine
        plain: dict[str, Any] = {"loop": "asyncio", "http": self.http_protocol, "ws": self.websocket_protocol}
        app = create_app(engine, self.settings)
        config = uvicorn.Config(app, port=self.port, log_level="warning", timeout_graceful_shutdown=1, **plain)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)

    @property
    def open_connections(self) -> int:
        return len(self._server.server_state.connections)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)

    def restart(self, engine: Any, away_s: float = 0.0) -> None:
        self.stop()
        time.sleep(away_s)
        self._start(engine)


class Wire:
    """Every event that a page sends and receives, in order, as (direction, event)."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.events: list[tuple[str, dict[str, Any]]] = []
        page.on("websocket", self._listen)

    def _listen(self, socket: Any) -> None:
        socket.on("framesent", lambda frame: self.events.append(("sent", json.loads(frame))))
        socket.on("framereceived", lambda frame: self.events.append(("received", json.loads(frame))))

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [event for _, event in self.events if event["type"] == kind]

    def wait(self, kind: str, count: int = 1, seconds: float = PATIENCE_S) -> dict[str, Any]:
        """The `count`th event of a kind, when it has come."""
        wait_until(lambda: len(self.all(kind)) >= count, seconds, lambda: self.page.wait_for_timeout(50), kind)
        return self.all(kind)[count - 1]


class FakeRealtime:
    """The server's side of a page's WebSocket, played by the test: it greets, and what follows the test sends."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.received: list[dict[str, Any]] = []
        self.sockets: list[Any] = []
        page.route_web_socket(re.compile("/v1/realtime"), self._accept)

    def _accept(self, socket: Any) -> None:
        self.sockets.append(socket)
        socket.on_message(lambda text: self.received.append(json.loads(text)))
        self.send("session.created")

    def send(self, kind: str, **fields: Any) -> None:
        self.sockets[-1].send(json.dumps({"type": kind, **fields}))

    def close(self, code: int, reason: str = "") -> None:
        self.sockets[-1].close(code=code, reason=reason)

    def all(self, kind: str) -> list[dict[str, Any]]:
        """What the page has sent of a kind."""
        return [event for event in self.received if event["type"] == kind]

    def hear(self, item: str, transcript: str, start_ms: int = 0, end_ms: int = 500) -> None:
        """A turn that turn detection found, and its transcript."""
        self.send("input_audio_buffer.speech_started", item_id=item, audio_start_ms=start_ms)
        self.send("input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=end_ms)
        self.send("input_audio_buffer.committed", item_id=item)
        self.transcribe(item, transcript)

    def transcribe(self, item: str, transcript: str) -> None:
        kind = "conversation.item.input_audio_transcription.completed"
        self.send(kind, item_id=item, content_index=0, transcript=transcript)

    def reply(self, item: str, text: str, seconds: float, status: str = "completed", reason: str | None = None) -> None:
        """A spoken reply, all of it at once: a quiet tone."""
        tone = 0.1 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * 24000)) / 24000)
        sound = base64.b64encode((tone * 32767).astype("<i2").tobytes()).decode()
        at = {"item_id": item, "content_index": 0}
        self.send("response.created", response={"id": f"resp_{item}"})
        self.send("response.output_item.added", item={"id": item, "type": "message"})
        self.send("response.output_audio_transcript.delta", delta=text, **at)
        self.send("response.output_audio.delta", delta=sound, **at)
        self.send("response.output_audio.done", **at)
        details = {"type": status, "reason": reason} if reason else None
        response = {"id": f"resp_{item}", "status": status, "status_details": details, "output": [{"id": item}]}
        self.send("response.done", response=response)


@contextmanager
def visit(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A fresh visitor's page, English and light unless told otherwise; fails if a script of the page does."""
    given = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US", "color_scheme": "light", **options}
    context = browser.new_context(**given)
    context.set_default_timeout(PATIENCE_S * 1000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None)
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert not faults


def state(page: Any, name: str, seconds: float = PATIENCE_S) -> None:
    """Wait for a state of the conversation."""
    page.wait_for_selector(f"body[data-state={name}]", timeout=seconds * 1000)


def texts(page: Any, role: str) -> list[str]:
    """What each turn of a side reads."""
    return list(page.locator(f".turn.{role} .text").all_text_contents())


def happens(page: Any, happened: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    wait_until(happened, seconds, lambda: page.wait_for_timeout(50))


def ask(page: Any, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def wait_until(
    happened: Callable[[], bool],
    seconds: float = PATIENCE_S,
    pause: Callable[[], None] = lambda: time.sleep(0.05),
    what: str = "",
) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"did not happen in {seconds} s: {what}"
        pause()
