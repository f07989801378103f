"""A soak test: spoken dialogues with a running server in real time, minute after minute.

Each dialogue streams recorded questions as a microphone does, with turn detection by the server, plays each reply in
real time, waits a moment and asks the next. A failure is a reply that is not completed or is too long, a turn without a
reply, an error, or a runaway reply in the server's metrics.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...audio.waveform import load_waveform
from ...errors import BaichuanAudioError
from ...evaluation.systems.base import encode_pcm

RATE = 24000
CHUNK_S = 0.04
SILENCE_S = 1.0  # after a question, for turn detection
TIMEOUT_S = 30.0


@dataclass
class SoakResult:
    """Replies (question, text, seconds of audio) in order, times to first audio in seconds, and failures."""

    replies: list[tuple[str, str, float]] = field(default_factory=list)
    first_audio: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def questions(folder: Path) -> dict[str, np.ndarray]:
    """Name -> recording [S] at 24 kHz with faint noise at its end. Raises BaichuanAudioError for an empty folder."""
    quiet = np.random.default_rng(0).normal(0, 3e-4, int(SILENCE_S * RATE)).astype("f4")
    files = sorted(folder.glob("*.wav"))
    if not files:
        raise BaichuanAudioError(f"{folder}: there are no recordings (*.wav) to use as questions.")
    return {file.stem: np.concatenate([load_waveform(file, RATE).numpy(), quiet]) for file in files}


async def hold(
    url: str, recordings: dict[str, np.ndarray], ends: float, number: int, longest: float, result: SoakResult
) -> None:
    """Hold one dialogue until the monotonic clock reaches `ends`."""
    from websockets.asyncio.client import connect

    draw = random.Random(number)
    async with connect(url.replace("http", "ws", 1) + "/v1/realtime?model=any", max_size=None) as socket:
        await asyncio.sleep(number * 1.3)
        while time.monotonic() < ends:
            name = draw.choice(list(recordings))
            speaking = asyncio.create_task(_speak(socket, recordings[name]))
            try:
                spoken, reply, seconds = await asyncio.wait_for(_reply(socket, result), TIMEOUT_S)
            except asyncio.TimeoutError:
                result.failures.append(f"dialogue {number}: no reply to {name} within {TIMEOUT_S:g} s")
                continue
            finally:
                await speaking
            result.replies.append((name, spoken, seconds))
            if reply["status"] != "completed":
                result.failures.append(
                    f"dialogue {number}: {name}: {reply['status']} {reply['status_details']}: {spoken}"
                )
            if seconds > longest:
                result.failures.append(f"dialogue {number}: {name}: {seconds:.0f} s of audio: {spoken[:200]}")
            await asyncio.sleep(draw.uniform(0.3, 1.5))


async def _speak(socket: Any, samples: np.ndarray) -> None:
    """Send samples in real time, as a microphone does."""
    begun, size = time.monotonic(), int(CHUNK_S * RATE)
    for number, start in enumerate(range(0, len(samples), size)):
        await asyncio.sleep(max(0.0, begun + number * CHUNK_S - time.monotonic()))
        event = {"type": "input_audio_buffer.append", "audio": encode_pcm(samples[start : start + size])}
        await socket.send(json.dumps(event))


async def _reply(socket: Any, result: SoakResult) -> tuple[str, dict[str, Any], float]:
    """Receive the next reply and play it in real time -> its transcript, its `response`, its seconds of audio."""
    seconds, stopped, first = 0.0, time.monotonic(), None
    while True:
        event = json.loads(await socket.recv())
        kind, now = event["type"], time.monotonic()
        if kind == "error":
            result.failures.append(f"error: {event['error']}")
        elif kind == "input_audio_buffer.speech_stopped":
            stopped = now
        elif kind == "response.output_audio.delta":
            first = first or now
            seconds += len(base64.b64decode(event["delta"])) / 2 / RATE
        elif kind == "response.done":
            if first is not None:
                result.first_audio.append(first - stopped)
                await asyncio.sleep(max(0.0, first + seconds - now))
            contents = [part for item in event["response"]["output"] for part in item.get("content", [])]
            return "".join(part.get("transcript") or "" for part in contents), event["response"], seconds


def runaways(url: str) -> float:
    """Number of replies that the server has stopped as runaways so far. Raises BaichuanAudioError without a server."""
    try:
        with urllib.request.urlopen(url + "/metrics", timeout=10) as response:
            text = response.read().decode()
    except (OSError, ValueError) as error:
        raise BaichuanAudioError(f"{url}: no server answers there ({error}); start one with 'serve'.") from error
    return sum(map(float, re.findall(r"^baichuan_audio_runaway_replies_total\{.*\} (\S+)$", text, re.MULTILINE)))


async def soak(url: str, folder: Path, minutes: float, dialogues: int, longest: float) -> SoakResult:
    """Hold `dialogues` dialogues at once for `minutes`, with recordings of `folder`; `longest`: seconds of a reply."""
    result, recordings, before = SoakResult(), questions(folder), runaways(url)
    ends = time.monotonic() + 60 * minutes
    tasks = [hold(url, recordings, ends, number, longest, result) for number in range(dialogues)]
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException):
            result.failures.append(f"a dialogue failed: {outcome!r}")
    if count := runaways(url) - before:
        result.failures.append(f"the server stopped {count:g} runaway replies")
    return result


def summary(result: SoakResult) -> dict[str, Any]:
    """Counts and times for --json: replies, failures, seconds of the longest reply and to the first audio."""
    return {
        "replies": len(result.replies),
        "longest_reply_s": max((seconds for *_, seconds in result.replies), default=0.0),
        "first_audio_p50": float(np.median(result.first_audio)) if result.first_audio else None,
        "first_audio_max": max(result.first_audio, default=None),
        "failures": result.failures,
    }


def report(result: SoakResult) -> str:
    """The result as text: counts, times, the most common replies to each question, and the first failures."""
    replies: dict[str, Counter[str]] = {}
    for name, text, _ in result.replies:
        replies.setdefault(name, Counter())[text] += 1
    usual = sum(counts.most_common(1)[0][1] for counts in replies.values())
    lines = [f"{len(result.replies)} replies, {usual} of them the most common reply to their question"]
    if result.replies:
        lines.append(f"longest reply {max(seconds for *_, seconds in result.replies):.1f} s")
    if times := result.first_audio:
        lines.append(f"time to first audio {np.median(times):.2f} s (median), at most {max(times):.2f} s")
    for name, counts in sorted(replies.items()):
        lines.append(f"  {name}: " + "; ".join(f"{count} x {text!r}" for text, count in counts.most_common(3)))
    lines += [f"{len(result.failures)} failures", *(f"  {line}" for line in result.failures[:20])]
    return "\n".join(lines) + "\n"
