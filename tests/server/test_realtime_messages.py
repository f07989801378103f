"""What is wrong with an event is said in the client's terms: the field as it was sent, and what is taken there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai", reason="openai, whose types are the measure, is not installed: pip install openai")

from fake_engine import FakeEngine
from page_tools import LiveServer
from realtime_tools import dial


def item(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"type": "conversation.item.create", "item": {"type": "message", "role": role, "content": list(content)}}


def session(**fields: Any) -> dict[str, Any]:
    return {"type": "session.update", "session": {"type": "realtime", **fields}}


def response(**fields: Any) -> dict[str, Any]:
    return {"type": "response.create", "response": fields}


CUT = {"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 1}
PART = "item.content[0]"
EVENTS: list[tuple[Any, str | None, str]] = [
    ([], None, "An event must be an object"),
    ({}, "type", "Missing"),
    ({"type": "nope"}, "type", "'nope'"),
    (item("x"), PART, "object"),
    (item({}), f"{PART}.type", "Missing"),
    (item({"type": "input_image", "image_url": "x"}), f"{PART}.type", "'input_text', 'input_audio'"),
    (item({"type": "text", "text": "x"}), f"{PART}.type", "'input_text', 'input_audio'"),
    (item({"type": "input_text"}), f"{PART}.text", "Missing"),
    (item({"type": "input_audio"}), f"{PART}.audio", "Missing"),
    (item({"type": "input_audio", "audio": 3}), f"{PART}.audio", "string"),
    (item(role="robot"), "item.role", "'system', 'user', 'assistant'"),
    ({"type": "conversation.item.create", "item": {"type": "function_call"}}, "item.type", "no tools"),
    ({**CUT, "audio_end_ms": -1}, "audio_end_ms", "at least 0"),
    ({**CUT, "audio_end_ms": 1.5}, "audio_end_ms", "whole number"),
    ({**CUT, "audio_end_ms": None}, "audio_end_ms", "Missing"),
    ({**CUT, "content_index": 1}, "content_index", "must be 0"),
    (session(output_modalities=["text", "audio"]), "session.output_modalities", r'\["audio"\] or \["text"\]'),
    (session(modalities=["text"]), "session.modalities", "'session.output_modalities'"),
    (session(voice="Ada"), "session.voice", "'session.audio.output.voice'"),
    (session(audio={"input": {"format": "pcm16"}}), "session.audio.input.format", "object"),
    (session(audio={"output": {"voice": 3}}), "session.audio.output.voice", "a string or an object"),
    (session(audio={"output": {"speed": 9}}), "session.audio.output.speed", "0.25 and 1.5"),
    (session(max_output_tokens=1.5), "session.max_output_tokens", "whole number"),
    ({"type": "session.update", "session": {"type": "other"}}, "session.type", "'realtime'"),
    ({"type": "session.update", "session": {"type": "transcription"}}, "session.type", "not offered"),
    (response(modalities=["text"]), "response.modalities", "'response.output_modalities'"),
    (response(metadata={"a": 3}), "response.metadata.a", "string"),
    (response(input=[3], conversation="none"), "response.input[0]", "object"),
]


@pytest.fixture(scope="module")
def server():
    server = LiveServer(FakeEngine())
    yield server
    server.stop()


async def test_each(server: LiveServer):
    async with dial(server) as client:
        for event, param, words in EVENTS:
            await client.socket.send(json.dumps(event))
            error = (await client.until_error())["error"]
            assert error["param"] == param and re.search(words, error["message"]), (event, error)
