"""The openai package's own client holds a conversation, first with a fake engine, then with the real one."""

from __future__ import annotations

import base64

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai", reason="the client is not installed: pip install openai")

import openai
from fake_engine import FakeEngine
from page_tools import LiveServer
from realtime_tools import PCM_RATE, dial, pcm64, speech

from baichuan_audio.server.settings import ServerSettings


@pytest.fixture
def server():
    server = LiveServer(FakeEngine(), ServerSettings(api_keys=("sesame",)))
    yield server
    server.stop()


async def collect(connection, until: str) -> list:
    events = []
    async for event in connection:
        events.append(event)
        assert event.type != "error", event
        if event.type == until:
            return events
    raise AssertionError("the connection was closed")


async def test_a_conversation_with_the_openai_client(server):
    client = openai.AsyncOpenAI(base_url=f"{server.url}v1", api_key="sesame")
    async with client.realtime.connect(model="baichuan-audio") as connection:
        created = await connection.recv()
        assert created.type == "session.created" and created.session.audio.output.voice == "Ada"
        settings = {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 300}}}
        await connection.session.update(session={"type": "realtime", "instructions": "Be kind.", "audio": settings})
        await collect(connection, "session.updated")

        clip = speech()
        for start in range(0, len(clip), PCM_RATE // 10):
            await connection.input_audio_buffer.append(audio=pcm64(clip[start : start + PCM_RATE // 10]))
        events = await collect(connection, "response.done")
        sound = b"".join(base64.b64decode(e.delta) for e in events if e.type == "response.output_audio.delta")
        assert len(np.frombuffer(sound, "<i2")) == int(0.8 * PCM_RATE)
        item = events[-1].response.output[0]
        assert item.content[0].transcript == "You said hello world."

        await connection.conversation.item.truncate(item_id=item.id, content_index=0, audio_end_ms=200)
        await collect(connection, "conversation.item.truncated")
        text = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "bye"}]}
        await connection.conversation.item.create(item=text)
        await connection.response.create(response={"output_modalities": ["text"]})
        done = (await collect(connection, "response.done"))[-1]
        assert done.response.output[0].content[0].text == "You said bye."
        server.engine.delay, server.engine.answer = 0.02, "well " * 20
        await connection.response.create()
        await collect(connection, "response.output_audio.delta")
        await connection.response.cancel()
        done = (await collect(connection, "response.done"))[-1]
        assert done.response.status_details.reason == "client_cancelled"
    wrong = openai.AsyncOpenAI(base_url=f"{server.url}v1", api_key="wrong", max_retries=0)
    with pytest.raises(Exception, match="401"):
        async with wrong.realtime.connect(model="baichuan-audio"):
            pass


@pytest.fixture(scope="module")
def real_server(tiny_dir):
    import torch

    import baichuan_audio
    from baichuan_audio.engine import Engine, EngineConfig

    model = baichuan_audio.load(tiny_dir, dtype=torch.float32, device="cpu")
    server = LiveServer(Engine(model, EngineConfig(max_sessions=3, threads=1)))
    yield server
    server.stop()


@pytest.mark.parametrize("letters", [None, 5])
async def test_a_conversation_with_the_real_engine(real_server, letters, monkeypatch):
    """Random weights: nothing that is said makes sense, but all of it is said in order. letters: of a turn of words
    between speech, None for clauses."""
    engine = real_server.engine
    monkeypatch.setattr(engine.model, "_interleave_min_letters", letters)
    async with dial(real_server) as client:
        await client.update(max_output_tokens=40, audio={"input": {"transcription": {"model": "m"}}})
        await client.append(speech())
        done = (await client.until("response.done"))["response"]
        assert done["status"] in ("completed", "incomplete") and done["usage"]["input_tokens"] > 0
        transcript = done["output"][0]["content"][0]["transcript"]
        deltas = "".join(event["delta"] for event in client.all("response.output_audio_transcript.delta"))
        assert transcript == deltas
        again = await client.ask("And again?", conversation="none")
        assert again["status"] in ("completed", "incomplete")
        if client.all("response.output_audio.delta"):
            item_id = done["output"][0]["id"]
            await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=10)
            await client.until("conversation.item.truncated")
        await client.send("response.create")
        await client.send("response.cancel")
        assert (await client.until("response.done"))["response"]["status"] == "cancelled"
        own_input = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Own"}]}]
        await client.send("response.create", response={"conversation": "none", "input": own_input})
        assert (await client.until("response.done"))["response"]["status"] in ("completed", "incomplete")
        while not client.all("conversation.item.input_audio_transcription.completed"):
            await client.next()
        assert engine.stats().active_sessions == 1
        await client.send("response.create")
        await client.until("response.created")
    assert_free(engine)


def assert_free(engine) -> None:
    from page_tools import wait_until

    wait_until(lambda: engine.stats().active_sessions == 0 and engine.stats().active_replies == 0)
