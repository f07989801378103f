"""A soak: spoken dialogues with a live server in real time, minute after minute; exit code 1 where anything went wrong.

    baichuan-audio serve models/nano --port 8000 &
    python scripts/soak.py --url http://127.0.0.1:8000 --minutes 12 --dialogues 3

Each dialogue streams recorded questions as a microphone does, with turn detection by the server, listens to each reply
for as long as it lasts, waits a moment and asks the next. Wrong is a reply that is not completed, one longer than
`--longest-reply`, a turn without a reply, an error, and a runaway in the server's metrics. Needs `websockets`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import re
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from baichuan_audio.audio.waveform import load_waveform

RATE = 24000
CHUNK_S = 0.04
SILENCE_S = 1.0  # behind a question, for the server to find its end
PATIENCE_S = 30.0


@dataclass
class Notes:
    """What was noticed: replies (question, answer, seconds of sound) in order, and what went wrong."""

    replies: list[tuple[str, str, float]] = field(default_factory=list)
    first_audio: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def questions(folder: Path) -> dict[str, np.ndarray]:
    """Recordings of a folder by name: [S] at 24 kHz, followed by the noise of a quiet room."""
    quiet = np.random.default_rng(0).normal(0, 3e-4, int(SILENCE_S * RATE)).astype("f4")
    files = sorted(folder.glob("*.wav"))
    if not files:
        sys.exit(f"{folder}: there are no recordings (*.wav) to ask with.")
    return {file.stem: np.concatenate([load_waveform(file, RATE).numpy(), quiet]) for file in files}


async def hold(url: str, asked: dict[str, np.ndarray], ends: float, number: int, longest: float, notes: Notes) -> None:
    """One dialogue, until the clock reads `ends`."""
    from websockets.asyncio.client import connect

    draw = random.Random(number)
    async with connect(url.replace("http", "ws", 1) + "/v1/realtime?model=any", max_size=None) as socket:
        await asyncio.sleep(number * 1.3)
        while time.monotonic() < ends:
            name = draw.choice(list(asked))
            speaking = asyncio.create_task(_speak(socket, asked[name]))
            try:
                spoken, reply, seconds = await asyncio.wait_for(_reply(socket, notes), PATIENCE_S)
            except TimeoutError:
                notes.wrong.append(f"dialogue {number}: no reply to {name} within {PATIENCE_S:g} s")
                continue
            finally:
                await speaking
            notes.replies.append((name, spoken, seconds))
            if reply["status"] != "completed":
                notes.wrong.append(f"dialogue {number}: {name}: {reply['status']} {reply['status_details']}: {spoken}")
            if seconds > longest:
                notes.wrong.append(f"dialogue {number}: {name}: {seconds:.0f} s of sound: {spoken[:200]}")
            await asyncio.sleep(draw.uniform(0.3, 1.5))


async def _speak(socket: Any, samples: np.ndarray) -> None:
    """Send as a microphone does."""
    begun, size = time.monotonic(), int(CHUNK_S * RATE)
    for number, start in enumerate(range(0, len(samples), size)):
        await asyncio.sleep(max(0.0, begun + number * CHUNK_S - time.monotonic()))
        data = (np.clip(samples[start : start + size], -1, 1) * 32767).astype("<i2").tobytes()
        event = {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}
        await socket.send(json.dumps(event))


async def _reply(socket: Any, notes: Notes) -> tuple[str, dict[str, Any], float]:
    """The next reply, heard to its end in real time -> its words, `response.done`, and seconds of sound."""
    seconds, stopped, first = 0.0, time.monotonic(), None
    while True:
        event = json.loads(await socket.recv())
        kind, now = event["type"], time.monotonic()
        if kind == "error":
            notes.wrong.append(f"error: {event['error']}")
        elif kind == "input_audio_buffer.speech_stopped":
            stopped = now
        elif kind == "response.output_audio.delta":
            first = first or now
            seconds += len(base64.b64decode(event["delta"])) / 2 / RATE
        elif kind == "response.done":
            if first is not None:
                notes.first_audio.append(first - stopped)
                await asyncio.sleep(max(0.0, first + seconds - now))
            contents = [part for item in event["response"]["output"] for part in item.get("content", [])]
            return "".join(part.get("transcript") or "" for part in contents), event["response"], seconds


def runaways(url: str) -> float:
    """Replies that the server has stopped so far, of all reasons."""
    with urllib.request.urlopen(url + "/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(r"^baichuan_audio_runaway_replies_total\{.*\} (\S+)$", text, re.MULTILINE)))


async def soak(arguments: argparse.Namespace) -> Notes:
    notes, asked, before = Notes(), questions(Path(arguments.questions)), runaways(arguments.url)
    ends = time.monotonic() + 60 * arguments.minutes
    dialogues = [
        hold(arguments.url, asked, ends, number, arguments.longest_reply, notes)
        for number in range(arguments.dialogues)
    ]
    for result in await asyncio.gather(*dialogues, return_exceptions=True):
        if isinstance(result, BaseException):
            notes.wrong.append(f"a dialogue broke off: {result!r}")
    if count := runaways(arguments.url) - before:
        notes.wrong.append(f"the server stopped {count:g} replies that ran away")
    return notes


def report(notes: Notes) -> None:
    answers: dict[str, Counter[str]] = {}
    for name, answer, _ in notes.replies:
        answers.setdefault(name, Counter())[answer] += 1
    usual = sum(counts.most_common(1)[0][1] for counts in answers.values())
    print(f"{len(notes.replies)} replies, {usual} of them the usual answer to their question")
    if notes.replies:
        print(f"longest reply {max(seconds for *_, seconds in notes.replies):.1f} s")
    if notes.first_audio:
        print(
            f"first sound after {np.median(notes.first_audio):.2f} s (median), at most {max(notes.first_audio):.2f} s"
        )
    for name, counts in sorted(answers.items()):
        print(f"  {name}: " + "; ".join(f"{count} x {answer!r}" for answer, count in counts.most_common(3)))
    print(f"{len(notes.wrong)} wrong")
    for line in notes.wrong[:20]:
        print(f"  {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the running server")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--dialogues", type=int, default=3, help="at once")
    parser.add_argument("--questions", default="examples", help="a folder of recordings, one question each")
    parser.add_argument("--longest-reply", type=float, default=15.0, metavar="S", help="seconds of sound")
    arguments = parser.parse_args()
    notes = asyncio.run(soak(arguments))
    report(notes)
    sys.exit(bool(notes.wrong or not notes.replies))


if __name__ == "__main__":
    main()
