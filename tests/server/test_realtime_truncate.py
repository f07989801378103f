"""What a client says was heard of a reply is compared in whole samples, and tools that must be called are refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai", reason="openai, whose types are the measure, is not installed: pip install openai")

from fake_engine import FakeEngine
from page_tools import server_fixture
from realtime_tools import Client, dial

BYTES_PER_MS = {"audio/pcm": 48, "audio/pcmu": 8, "audio/pcma": 8}


server = server_fixture(FakeEngine)


@pytest.fixture
async def client(server):
    async with dial(server) as client:
        yield client


async def spoken(client: Client, words: int, format: str, speed: float) -> tuple[str, float]:
    """A reply of so many words -> its item, and how long the sound is that came, in ms."""
    rate = {"rate": 24000} if format == "audio/pcm" else {}
    await client.update(audio={"output": {"format": {"type": format, **rate}, "speed": speed}})
    start = len(client.events)
    item_id = (await client.ask("word " * words))["output"][0]["id"]
    deltas = [event["delta"] for event in client.events[start:] if event["type"] == "response.output_audio.delta"]
    return item_id, sum(len(base64.b64decode(delta)) for delta in deltas) / BYTES_PER_MS[format]


@pytest.mark.parametrize("format", BYTES_PER_MS)
@pytest.mark.parametrize(("words", "speed"), [(1, 1.0), (7, 1.0), (3, 1.1), (5, 0.7), (13, 1.37), (29, 0.9)])
async def test_cut_where_the_sound_ends(client: Client, format: str, words: int, speed: float):
    """Rounded down, to the nearest, or up, and a frame before: all of it was heard, and nothing is cut."""
    item_id, made_ms = await spoken(client, words, format, speed)
    for named in {int(made_ms) - 19, int(made_ms), round(made_ms), -int(-made_ms // 1)}:
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=named)
        assert (await client.until("conversation.item.truncated"))["audio_end_ms"] == named
    await client.send("conversation.item.retrieve", item_id=item_id)
    part = (await client.until("conversation.item.retrieved"))["item"]["content"][0]
    assert part["transcript"].startswith("You said") and part["transcript"].endswith("word .")


@pytest.mark.parametrize("beyond_ms", [1, 20, 10**9])
async def test_cut_beyond_the_end(client: Client, beyond_ms: int):
    item_id, made_ms = await spoken(client, 3, "audio/pcm", 1.1)
    beyond = -int(-made_ms // 1) + beyond_ms
    await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=beyond)
    error = (await client.until_error())["error"]
    assert error["param"] == "audio_end_ms" and str(beyond) in error["message"]


async def test_cut_again_counts_the_least(client: Client):
    item_id, _ = await spoken(client, 5, "audio/pcm", 1.0)
    for named, expected in ((900, 900), (450, 450), (700, 450)):
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=named)
        assert (await client.until("conversation.item.truncated"))["audio_end_ms"] == expected


@pytest.mark.parametrize("choice", ["required", "always", {"type": "function", "name": "f"}, ["none"], 3])
async def test_tools_that_must_be_called(client: Client, choice: Any):
    """Refused in words, and nothing has changed."""
    for kind, where in (("session.update", "session"), ("response.create", "response")):
        fields = {"type": "realtime"} if where == "session" else {}
        await client.send(kind, event_id="mine", **{where: {**fields, "instructions": "x", "tool_choice": choice}})
        error = (await client.until_error())["error"]
        assert (error["param"], error["event_id"]) == (f"{where}.tool_choice", "mine")
        assert "'auto' or 'none'" in error["message"] and "calls no tools" in error["message"]
    assert (await client.update())["instructions"] == ""


@pytest.mark.parametrize("choice", ["auto", "none", None])
async def test_tools_that_may_be_called(client: Client, choice: str | None):
    tool = {"type": "function", "name": "f", "parameters": {}}
    session = await client.update(tools=[tool], tool_choice=choice)
    assert (session["tools"], session["tool_choice"]) == ([tool], choice or "auto")
    done = await client.ask("Hello", tools=[tool], tool_choice=choice)
    assert done["status"] == "completed"
