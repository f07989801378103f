"""Tiny benchmarks in their published layouts, systems that need no model, and a server that speaks OpenAI's form."""

from __future__ import annotations

import base64
import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from baichuan_audio.evaluation.suites.items import Item
from baichuan_audio.evaluation.systems.base import ItemFailure, Reply

RATE = 16_000
ROWS: dict[str, list[dict[str, str]]] = {
    "reasoning_qa": [
        {"Prompt": "小明有3个苹果，又买了4个，一共几个？", "参考答案": "7"},
        {"Prompt": "一年有几个月？", "参考答案": "12个月"},
    ],
    "llama_questions": [
        {"Questions": "What is the capital of France?", "Answer": "Paris"},
        {"Questions": "How many legs has a spider?", "Answer": "8"},
        {"Questions": "Which planet is the largest, and why?", "Answer": "Jupiter"},
    ],
    "web_questions": [{"question": "Who coached the Panthers?", "answers": "George Seifert;Dom Capers;John Fox"}],
    "trivia_qa": [
        {
            "question": "Which town is Bohemia's capital?",
            "answer_normalized_value": "prague",
            "answer_normalized_aliases": "['prague', 'praha']",
        }
    ],
    "alpaca_eval": [{"instruction": "Write a limerick, please.", "output": "There once was\na cat"}],
}


def tone(seconds: float = 0.2) -> np.ndarray:
    """A soft tone [S] at RATE."""
    return (0.1 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def write_benchmark(root: Path) -> Path:
    """All five sets: CSV files with Excel's mark, a quoted line break, WAV recordings."""
    for name, rows in ROWS.items():
        folder = root / "eval_datas" / name
        (folder / "audios").mkdir(parents=True)
        full = [{**row, "audio_filename": f"{index}.wav"} for index, row in enumerate(rows)]
        write_table(folder / f"{name}.csv", full)
        for row in full:
            soundfile.write(folder / "audios" / row["audio_filename"], tone(), RATE)
    return root


def write_table(path: Path, rows: list[dict[str, str]], encoding: str = "utf-8-sig") -> None:
    """A CSV file as Excel writes it."""
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(file.getvalue().encode(encoding))


@pytest.fixture
def benchmark_dir(tmp_path: Path) -> Path:
    """A whole small OpenAudioBench that a test may break."""
    return write_benchmark(tmp_path / "OpenAudioBench")


@dataclass
class ScriptedSystem:
    """Replies by the question; records what was asked, and stops where `stop_at` calls were made."""

    replies: dict[str, str] = field(default_factory=dict)
    failing: tuple[str, ...] = ()
    stop_at: int | None = None
    name: str = "scripted"
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def provenance(self) -> dict[str, Any]:
        return {"kind": "scripted", "name": self.name}

    def answer(self, item: Item, spoken: bool, typed: bool = False, earlier: Any = None) -> Reply:
        if self.stop_at is not None and len(self.asked) >= self.stop_at:
            raise KeyboardInterrupt
        self.asked.append((item.id, spoken))
        if item.question in self.failing:
            raise ItemFailure("refused.")
        text = self.replies.get(item.question, f"I do not know about {item.id}.")
        text = text if earlier is None else f"{text} You asked {earlier[0].question} and I said: {earlier[1]}"
        return Reply(text, tone(), RATE) if spoken else Reply(text)

    def transcribe(self, item: Item) -> str:
        return self.answer(item, False).text


@dataclass
class ScriptedRecogniser:
    """Always writes the same words."""

    text: str = "paris"

    def provenance(self) -> dict[str, Any]:
        return {"kind": "scripted", "text": self.text}

    def transcribe(self, waveform: np.ndarray, language: str) -> str:
        assert waveform.ndim == 1 and waveform.dtype == np.float32
        return self.text


@dataclass
class OpenAIServer:
    """A local server: `answer` maps path and body to (status, JSON or bytes); every request is kept."""

    base_url: str
    answer: Callable[[str, Any], tuple[int, Any]]
    requests: list[tuple[str, Any]] = field(default_factory=list)


def completion(text: str, model: str = "judge-2026-11-01", audio: bytes | None = None) -> dict[str, Any]:
    """A chat completion in OpenAI's form."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if audio is not None:
        message = {
            "role": "assistant",
            "content": None,
            "audio": {"id": "a", "transcript": text, "data": base64.b64encode(audio).decode()},
        }
    return {
        "model": model,
        "choices": [{"index": 0, "message": message}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20},
    }


@pytest.fixture
def openai_server() -> Iterator[OpenAIServer]:
    """Answers on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            body = json.loads(content) if "json" in self.headers["Content-Type"] else content
            served.requests.append((self.path, body))
            status, answer = served.answer(self.path, body)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served = OpenAIServer(
        f"http://127.0.0.1:{server.server_address[1]}/v1",
        lambda path, body: (200, completion("the score is [Correct]")),
    )
    yield served
    server.shutdown()
    server.server_close()
    thread.join()
