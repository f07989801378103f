"""What the checks of Realtime clients share: the options, a question as sound, and words about how it went."""

from __future__ import annotations

import argparse
import asyncio
import time
import wave
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

RATE = 24000
CHUNK_S = 0.04
QUESTION = Path(__file__).parents[2] / "examples" / "en-day.wav"


@dataclass
class Options:
    """url: of the server, up to /v1. question: a recording, 16-bit mono."""

    url: str
    key: str
    question: Path

    @property
    def websocket(self) -> str:
        """The Realtime endpoint."""
        return self.url.replace("http", "ws", 1) + "/realtime"


def options(client: str) -> Options:
    """What was said on the command line."""
    parser = argparse.ArgumentParser(description=f"Hold a conversation with a Realtime server through {client}.")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none")
    parser.add_argument("--question", type=Path, default=QUESTION)
    print(f"{client} {version(client)}", flush=True)
    return Options(**vars(parser.parse_args()))


def sound(path: Path, before_s: float = 0.5, after_s: float = 1.5) -> bytes:
    """The recording with silence around, at 24 kHz."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2), "want 16-bit mono"
        rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")
    places = np.arange(0, len(samples) - 1, rate / RATE)
    speech = np.interp(places, np.arange(len(samples)), samples).astype("<i2")
    return bytes(2 * int(before_s * RATE)) + speech.tobytes() + bytes(2 * int(after_s * RATE))


async def in_real_time(data: bytes) -> AsyncIterator[bytes]:
    """As a microphone gives it."""
    size = 2 * int(CHUNK_S * RATE)
    began = time.monotonic()
    for number, start in enumerate(range(0, len(data), size)):
        await asyncio.sleep(max(0.0, began + number * CHUNK_S - time.monotonic()))
        yield data[start : start + size]


async def until(done: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether `done` came true in that time."""
    for _ in range(int(seconds / 0.05)):
        if done():
            return True
        await asyncio.sleep(0.05)
    return False


def report(name: str, passed: bool, words: str = "") -> None:
    """One line about one check; the first that fails ends the program."""
    print(f"{'ok  ' if passed else 'FAIL'} {name}: {words}", flush=True)
    if not passed:
        raise SystemExit(1)
