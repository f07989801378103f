"""`baichuan-audio serve` as a process of its own, with a real engine on a small random model: the whole chain."""

from __future__ import annotations

import base64
import io
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
openai = pytest.importorskip("openai")

import httpx  # noqa: E402
import soundfile  # noqa: E402

from baichuan_audio.cli import main  # noqa: E402
from baichuan_audio.cli.app import build_parser  # noqa: E402
from baichuan_audio.cli.serve import make_settings  # noqa: E402

KEY = "a-key-of-the-tests"
LONG = "One two three four five six seven eight. " * 60


class Process:
    """A server as a process, from its first line to its end."""

    def __init__(self, command: list[str], key: str | None = None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("BAICHUAN_AUDIO_API_KEYS", None)
        if key:
            environment["BAICHUAN_AUDIO_API_KEYS"] = key
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, *command], stdout=pipe, stderr=pipe, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.greeting = self.process.stdout.readline()
        url_match = re.search(r"http://127\.0\.0\.1:\d+", self.greeting)
        if not url_match:
            raise AssertionError(self.greeting + self.wait()[1])
        self.url = url_match[0]
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or "none", max_retries=0, timeout=120)

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def signal(self, kind: signal.Signals) -> None:
        self.process.send_signal(kind)

    def wait(self, within_s: float = 300) -> tuple[int, str]:
        """Its exit code, and its log."""
        try:
            _, log = self.process.communicate(timeout=within_s)
        finally:
            self.process.kill()
        return self.process.returncode, log

    def words(self, text: str) -> Iterator[str]:
        """The words of a streamed answer to this text; the first is awaited at once."""
        stream = self.client.chat.completions.create(
            model="x", messages=[{"role": "user", "content": text}], stream=True
        )
        words = (chunk.choices[0].delta.content or "" for chunk in stream)
        first = next(words)
        return itertools.chain([first], words)


@pytest.fixture(scope="module")
def served(tiny_dir: Path) -> Iterator[Process]:
    options = ["--port", "0", "--name", "tiny", "--max-sessions", "2"]
    process = Process(["-m", "baichuan_audio.cli", "serve", str(tiny_dir), *options], KEY)
    process.greeting += process.line()
    yield process
    process.signal(signal.SIGTERM)
    code, log = process.wait()
    assert code == 0, log
    assert '"event": "chat"' in log and '"session_id": "req_' in log
    assert "Portugal" not in log


def test_the_greeting(served: Process):
    assert f"{served.url}/ " in served.greeting and f"curl {served.url}/v1/chat/completions -H 'Auth" in served.greeting
    assert KEY not in served.greeting


def test_the_page_and_the_figures(served: Process):
    assert "<html" in httpx.get(f"{served.url}/").text
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok", "slots_free": 2}
    assert httpx.get(f"{served.url}/metrics").status_code == 401
    figures = httpx.get(f"{served.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    assert "baichuan_audio_engine_steps_total" in figures


def test_chat_in_text_and_sound(served: Process, question: Path):
    messages = [{"role": "user", "content": "What is the capital of Portugal?"}]
    written = [served.client.chat.completions.create(model="x", messages=messages, seed=3) for _ in range(2)]
    assert written[0].choices[0].message.content == written[1].choices[0].message.content
    assert written[0].usage.prompt_tokens > 5 and written[0].usage.completion_tokens > 0
    part = {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(question.read_bytes()).decode(), "format": "wav"},
    }
    spoken = served.client.chat.completions.create(
        model="x",
        messages=[*messages, {"role": "assistant", "content": "Lisbon."}, {"role": "user", "content": [part]}],
        modalities=["text", "audio"],
        audio={"voice": "Ada", "format": "wav"},
        seed=3,
    )
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(spoken.choices[0].message.audio.data)))
    assert rate == 24000 and len(wave) > 1000
    assert spoken.usage.prompt_tokens_details.audio_tokens >= 12
    assert spoken.usage.completion_tokens_details.audio_tokens > 0
    with pytest.raises(openai.BadRequestError, match="Ada"):
        served.client.audio.speech.create(model="x", voice="Nobody", input="Hello.")


def test_speech_and_transcription(served: Process, question: Path):
    speech = served.client.audio.speech.create(
        model="x", voice="邻家女声", input="Seven plus two is nine.", response_format="flac"
    ).read()
    with question.open("rb") as file:
        transcript = served.client.audio.transcriptions.create(model="x", file=file)
    assert isinstance(transcript.text, str)
    again = served.client.audio.transcriptions.create(
        model="x", file=("x.flac", speech), response_format="verbose_json"
    )
    assert again.duration > 0.1
    assert httpx.get(f"{served.url}/health").json()["slots_free"] == 2


def test_a_listener_that_leaves_frees_the_slot(served: Process):
    with served.client.audio.speech.with_streaming_response.create(
        model="x", voice="Ada", input=LONG, response_format="pcm"
    ) as response:
        next(response.iter_bytes())
    deadline = time.monotonic() + 60
    while httpx.get(f"{served.url}/health").json()["slots_free"] != 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def slow(request: pytest.FixtureRequest) -> Iterator[Process]:
    """A server whose engine takes a tenth of a second a word."""
    process = Process([str(Path(__file__).parent / "fake_serve.py"), str(request.param)])
    yield process
    process.process.kill()


@pytest.mark.parametrize("slow", [3.0], indirect=True)
def test_a_signal_lets_replies_finish_or_tells_them(slow: Process):
    """Short ones finish, a long one is told after the grace time, nobody new is let in; the exit code is 0."""
    long, short = slow.words("word " * 2000), slow.words("one two three four")
    slow.signal(signal.SIGTERM)
    assert slow.line() == "finishing 2\n"
    assert httpx.get(f"{slow.url}/health").status_code == 503
    with pytest.raises(openai.InternalServerError) as refusal:
        slow.words("hello")
    assert refusal.value.code == "shutting_down" and refusal.value.response.headers["retry-after"]
    assert "".join(short) == "You said one two three four."
    with pytest.raises(openai.APIError, match="the server ended this reply"):
        list(long)
    code, log = slow.wait()
    assert code == 0, log
    assert "Traceback" not in log and '"outcome": "shutdown"' in log


@pytest.mark.parametrize("slow", [600.0], indirect=True)
def test_a_second_signal_ends_at_once(slow: Process):
    words = slow.words("word " * 2000)
    slow.signal(signal.SIGINT)
    assert slow.line() == "finishing 1\n"
    slow.signal(signal.SIGINT)
    assert slow.wait()[0] == 130
    with pytest.raises((openai.APIError, httpx.TransportError)):
        list(words)


def test_a_port_that_is_taken(tiny: Path, capsys: pytest.CaptureFixture):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(tiny), "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another with --port" in capsys.readouterr().err


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BAICHUAN_AUDIO_API_KEYS", "a, b")
    words = ["serve", "models/nano", "--api-key", "c", "--max-minutes", "2", "--allow-origin", "https://x.example"]
    arguments = build_parser().parse_args(words)
    arguments.model = arguments.directory
    settings = make_settings(arguments)
    assert settings.api_keys == ("c", "a", "b") and settings.max_session_seconds == 120
    assert settings.model_name == "nano" and settings.allowed_origins == ("https://x.example",) and settings.local_only


@pytest.mark.parametrize("words", [["--api-key", "a/b="], []])
def test_a_key_that_browsers_cannot_send(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: list):
    monkeypatch.setenv("BAICHUAN_AUDIO_API_KEYS", "" if words else "a/b=")
    assert main(["serve", "nowhere", *words]) == 2
    printed = capsys.readouterr().err
    assert "an API key must consist of" in printed and "a/b=" not in printed


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve"]) == 2
    assert "pip install 'baichuan-audio[server]'" in capsys.readouterr().err
