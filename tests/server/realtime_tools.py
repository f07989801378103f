"""A Realtime client for tests: every frame that comes is checked against the types of the openai package."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from openai.types.realtime import RealtimeServerEvent
from page_tools import PATIENCE_S
from pydantic import TypeAdapter
from websockets.asyncio.client import ClientConnection, connect

EXAMPLES = Path(__file__).parents[2] / "examples"
PCM_RATE = 24000
OFFICIAL: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)


class Client:
    """events: all that came, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def next(self, seconds: float = PATIENCE_S) -> dict[str, Any]:
        event = json.loads(await asyncio.wait_for(self.socket.recv(), seconds))
        assert OFFICIAL.validate_python(event).type == event["type"]
        assert event["event_id"] not in {other["event_id"] for other in self.events}
        self.events.append(event)
        return event

    async def until(self, kind: str, seconds: float = PATIENCE_S) -> dict[str, Any]:
        """The next event of a kind; an error that is not asked for is one of the test's, too."""
        async with asyncio.timeout(seconds):
            while True:
                event = await self.next(seconds)
                if event["type"] == kind:
                    return event
                assert event["type"] != "error", event

    async def until_error(self, seconds: float = PATIENCE_S) -> dict[str, Any]:
        """The next error; replies may be going on."""
        async with asyncio.timeout(seconds):
            while True:
                event = await self.next(seconds)
                if event["type"] == "error":
                    return event

    async def nothing(self, seconds: float = 0.3) -> None:
        """Nothing comes for a while."""
        try:
            event = await self.next(seconds)
        except TimeoutError:
            return
        raise AssertionError(event)

    async def update(self, **session: Any) -> dict[str, Any]:
        await self.send("session.update", session={"type": "realtime", **session})
        return (await self.until("session.updated"))["session"]

    async def manual(self) -> None:
        """No turn detection."""
        await self.update(audio={"input": {"turn_detection": None}})

    async def append(self, samples: np.ndarray, chunk_s: float = 0.1, pace: float = 0.0) -> None:
        """Samples at 24 kHz, as fast as they go; pace 1.0: in real time."""
        size = int(chunk_s * PCM_RATE)
        for start in range(0, len(samples), size):
            await self.send("input_audio_buffer.append", audio=pcm64(samples[start : start + size]))
            await asyncio.sleep(pace * chunk_s)

    async def say(self, text: str, **fields: Any) -> None:
        """A text message of the user's."""
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}], **fields}
        await self.send("conversation.item.create", item=item)
        await self.until("conversation.item.done")

    async def ask(self, text: str, **response: Any) -> dict[str, Any]:
        """Say something and hear the reply to its end."""
        await self.say(text)
        await self.send("response.create", response=response)
        return (await self.until("response.done"))["response"]

    def kinds(self, start: int = 0) -> list[str]:
        """Types of the events but those of transcription, which may come at any time; deltas of one kind as one."""
        kinds: list[str] = []
        for event in self.events[start:]:
            kind = event["type"]
            if "transcription" not in kind and not (kind.endswith(".delta") and kind in kinds[-2:]):
                kinds.append(kind)
        return kinds

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def sound(self) -> bytes:
        """All sound that came."""
        return b"".join(base64.b64decode(event["delta"]) for event in self.all("response.output_audio.delta"))


@asynccontextmanager
async def dial(server: Any, **options: Any) -> AsyncIterator[Client]:
    """A session on a LiveServer, greeted."""
    async with connect(address(server), max_size=None, **options) as socket:
        client = Client(socket)
        assert (await client.next())["type"] == "session.created"
        yield client


def address(server: Any) -> str:
    return f"ws://127.0.0.1:{server.port}/v1/realtime?model=any"


def pcm64(samples: np.ndarray) -> str:
    return base64.b64encode((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()).decode()


def speech(name: str = "en-day.wav", before_s: float = 0.6, after_s: float = 1.0) -> np.ndarray:
    """An example with silence around, at 24 kHz."""
    samples, rate = soundfile.read(EXAMPLES / name, dtype="float32")
    samples = soxr.resample(samples, rate, PCM_RATE)
    return np.pad(samples, (int(before_s * PCM_RATE), int(after_s * PCM_RATE)))
