"""A session without a socket: what one client does may cost the others little, and no answer is ever left open."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import fake_engine
import pytest
from fake_engine import FakeDialogue, FakeEngine

from baichuan_audio.server.monitoring.logging import EventLog
from baichuan_audio.server.monitoring.metrics import Metrics
from baichuan_audio.server.realtime import session
from baichuan_audio.server.realtime.conversation import item_list as conversation
from baichuan_audio.server.realtime.input import transcripts
from baichuan_audio.server.realtime.send_queue import SendQueue
from baichuan_audio.server.realtime.session import RealtimeSession
from baichuan_audio.server.settings import ServerSettings


def silence(seconds: float, rate: int = 24000, width: int = 2) -> str:
    return base64.b64encode(b"\0" * round(seconds * rate) * width).decode()


class Talk:
    """A session, the frames it has sent (`events`) and what went into its log."""

    def __init__(self, engine: FakeEngine, settings: ServerSettings) -> None:
        self.events: list[dict[str, Any]] = []
        self.log = io.StringIO()
        self.send_queue = SendQueue(self._send)
        self.dialogue: Any = engine.open()
        log, metrics = EventLog(stream=self.log), Metrics(engine)  # type: ignore[arg-type]
        self.session = RealtimeSession(engine, self.dialogue, settings, metrics, log, self.send_queue)  # type: ignore[arg-type]

    async def _send(self, frame: str) -> None:
        self.events.append(json.loads(frame))

    async def do(self, kind: str, **fields: Any) -> None:
        await self.session.handle(json.dumps({"type": kind, **fields}))

    async def say(self, *content: dict[str, Any], **fields: Any) -> None:
        parts = list(content) or [{"type": "input_text", "text": "Hello"}]
        await self.do("conversation.item.create", item={"type": "message", "role": "user", "content": parts, **fields})

    async def ask(self, **fields: Any) -> dict[str, Any]:
        """The response, when it is done."""
        before = len(self.of("response.done"))
        await self.do("response.create", response=fields)
        return (await self.wait("response.done", before + 1))["response"]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    async def wait(self, kind: str, count: int = 1) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while len(self.of(kind)) < count:
                await asyncio.sleep(0.01)
        return self.of(kind)[count - 1]


@asynccontextmanager
async def talk(engine: FakeEngine | None = None, **settings: Any) -> AsyncIterator[Talk]:
    engine = engine or FakeEngine()
    engine.start()
    begun = Talk(engine, ServerSettings(**settings))
    tasks = [asyncio.create_task(begun.send_queue.run()), asyncio.create_task(begun.session.run())]
    try:
        yield begun
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await begun.dialogue.close()


@pytest.mark.parametrize(("speed", "chunk_s"), [(1.0, 0.56), (0.7, 0.32), (1.0, 1.0)])
async def test_sound_is_cut_between_samples(monkeypatch: pytest.MonkeyPatch, speed: float, chunk_s: float) -> None:
    monkeypatch.setattr(fake_engine, "CHUNK_S", chunk_s)
    monkeypatch.setattr(fake_engine, "SECONDS_A_WORD", chunk_s)
    async with talk(FakeEngine(answer="one two three")) as client:
        await client.do("session.update", session={"type": "realtime", "audio": {"output": {"speed": speed}}})
        await client.say()
        await client.ask()
        sizes = [len(base64.b64decode(event["delta"])) for event in client.of("response.output_audio.delta")]
        assert len(sizes) > 2 and all(size % 2 == 0 and size <= 24000 for size in sizes)


async def test_an_incomplete_reply_keeps_its_tail() -> None:
    async with talk(FakeEngine(answer="one two three four")) as client:
        await client.do("session.update", session={"type": "realtime", "audio": {"output": {"speed": 0.5}}})
        await client.say()
        done = await client.ask(max_output_tokens=2)
        assert done["status"] == "incomplete"
        sent = sum(len(base64.b64decode(event["delta"])) for event in client.of("response.output_audio.delta"))
        assert sent / 48000 == pytest.approx(2 * fake_engine.SECONDS_A_WORD / 0.5, abs=0.02)


async def test_what_nobody_foresaw_ends_the_response_and_not_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> str:
        raise RuntimeError("out of memory")

    async with talk() as client:
        await client.say()
        await client.ask()
        for name, fields in (("add_user", {"conversation": "none", "input": [_message()]}), ("reply", {})):
            with monkeypatch.context() as broken:
                broken.setattr(FakeDialogue, name, fail if name == "add_user" else _raise)
                done = await client.ask(**fields)
            assert done["status"] == "failed" and done["status_details"]["error"]["type"] == "server_error"
        assert client.log.getvalue().count('"kind": "RuntimeError"') == 2
        assert (await client.ask())["status"] == "completed"
        await asyncio.wait_for(client.session.wait_quiet(), 60)


def _raise(*_: Any, **__: Any) -> None:
    raise RuntimeError("out of memory")


def _message() -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}


async def test_the_input_of_one_response_is_bounded_and_its_reading_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[int] = []

    async def slow(self: FakeDialogue, parts: Any, item_id: str | None = None, after: str | None = None) -> str:
        given.append(len(parts))
        await asyncio.sleep(0.05)
        return self.insert("user", list(parts), item_id, after)

    async with talk(max_audio_seconds=60.0) as client:
        await client.say({"type": "input_audio", "audio": silence(20)}, id="long")
        await client.say({"type": "input_text", "text": "x" * 40_000}, id="text")
        for name, code in (("long", "audio_too_long"), ("text", "input_too_long")):
            count = len(client.of("error"))
            references = [{"type": "item_reference", "id": name}] * 4
            await client.do("response.create", response={"conversation": "none", "input": references})
            assert (await client.wait("error", count + 1))["error"]["code"] == code
        monkeypatch.setattr(FakeDialogue, "add_user", slow)
        await client.do("response.create", response={"conversation": "none", "input": [_message()] * 100})
        await asyncio.sleep(0.12)
        await client.do("response.cancel")
        assert (await client.wait("response.done"))["response"]["status"] == "cancelled"
        assert len(given) < 20


async def test_an_interruption_cuts_all_that_has_not_been_heard() -> None:
    async with talk(FakeEngine(answer="well " * 40)) as client:
        await client.say()
        first = (await client.ask())["output"][0]["id"]
        await client.ask(conversation="none", output_modalities=["text"], input=[_message()])
        await client.say()
        second = (await client.ask())["output"][0]["id"]
        client.session._responses.interrupt()
        await client.wait("conversation.item.truncated", 2)
        cut = {event["item_id"]: event["audio_end_ms"] for event in client.of("conversation.item.truncated")}
        assert cut.keys() == {first, second} and 0 <= cut[first] < 3000 and cut[second] == 0
        assert len(client.of("error")) == 0
        await client.do("output_audio_buffer.clear")
        assert (await client.wait("error"))["error"]["code"] == "output_audio_buffer_empty"


@pytest.mark.parametrize("how", ["conversation.item.truncate", "conversation.item.delete", "apart"])
async def test_what_the_client_plays_no_more_does_not_keep_the_next_waiting(how: str) -> None:
    async with talk(FakeEngine(answer="well " * 40)) as client:
        await client.say()
        apart = {"conversation": "none", "input": [_message()]} if how == "apart" else {}
        first = (await client.ask(**apart))["output"][0]["id"]
        if how == "apart":
            client.session._responses.interrupt()
        else:
            truncate = how == "conversation.item.truncate"
            await client.do(how, item_id=first, **({"content_index": 0, "audio_end_ms": 500} if truncate else {}))
        assert not client.of("error")
        assert client.session._responses.ended_at(time.monotonic()) is not None
        await client.say()
        second = (await client.ask())["output"][0]["id"]
        await asyncio.sleep(0.3)
        client.session._responses.interrupt()
        await client.wait("conversation.item.truncated", 1 + (how == "conversation.item.truncate"))
        cut = [(event["item_id"], event["audio_end_ms"]) for event in client.of("conversation.item.truncated")]
        assert cut[-1][0] == second and 200 < cut[-1][1] < 3000
        assert [ms for item, ms in cut if item == first] == ([500] if how == "conversation.item.truncate" else [])


async def test_a_silent_response_in_between_does_not_hide_what_plays() -> None:
    async with talk(FakeEngine(answer="well " * 40)) as client:
        await client.say()
        first = (await client.ask())["id"]
        await client.ask(conversation="none", output_modalities=["text"], input=[_message()])
        assert client.session._responses.ended_at(time.monotonic()) is None  # nobody is idle while they listen
        await client.do("output_audio_buffer.clear")
        assert (await client.wait("output_audio_buffer.cleared"))["response_id"] == first


async def test_sound_is_counted_by_the_item_and_not_by_its_parts() -> None:
    async with talk(max_audio_seconds=60.0) as client:
        part = {"type": "input_audio", "audio": silence(25)}
        await client.say(*[part] * 3)
        assert (await client.wait("error"))["error"]["code"] == "audio_too_long"
        await client.say(part, part, id="two")
        await client.wait("conversation.item.done")
        await client.do("conversation.item.retrieve", item_id="two")
        shown = (await client.wait("conversation.item.retrieved"))["item"]["content"]
        assert all("audio" in content for content in shown)
    async with talk(max_audio_seconds=600.0) as client:
        await client.say(*[part] * 3, id="three")
        await client.wait("conversation.item.done")
        await client.do("conversation.item.retrieve", item_id="three")
        shown = (await client.wait("conversation.item.retrieved"))["item"]["content"]
        assert not any("audio" in content for content in shown)


async def test_a_commit_that_is_refused_says_so_and_keeps_the_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_MAX_ITEMS", 1)
    async with talk() as client:
        await client.do("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        await client.say(id="only")
        await client.do("input_audio_buffer.append", audio=silence(1))
        await client.do("input_audio_buffer.commit")
        assert (await client.wait("error"))["error"]["code"] == "conversation_full"
        assert not client.of("input_audio_buffer.committed")
        await client.do("conversation.item.delete", item_id="only")
        await client.do("input_audio_buffer.commit")
        committed = await client.wait("input_audio_buffer.committed")
        added = await client.wait("conversation.item.added", 2)
        assert committed["item_id"] == added["item"]["id"] and client.events.index(committed) < client.events.index(
            added
        )


async def test_speaking_up_in_a_full_conversation_is_an_error_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_MAX_ITEMS", 2)
    async with talk() as client:
        detection = {"type": "server_vad", "idle_timeout_ms": 5000}
        await client.do(
            "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
        )
        await client.say()
        await client.ask(output_modalities=["text"])
        await client.do("input_audio_buffer.append", audio=silence(6))
        client.session._respond_to_silence(6.0)
        assert (await client.wait("error"))["error"]["code"] == "conversation_full"


async def test_half_a_sample_is_refused_before_any_of_it_is_taken() -> None:
    async with talk() as client:
        await client.do("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        await client.do("input_audio_buffer.append", audio=base64.b64encode(b"\0" * 96_001).decode())
        assert "even number of bytes" in (await client.wait("error"))["error"]["message"]
        assert len(client.session._input_audio._audio) == 0


async def test_the_users_sound_is_taken_by_its_length_in_any_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_INPUT_AUDIO_S", (2.0, 4.0))
    async with talk() as client:
        audio = {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}}
        await client.do("session.update", session={"type": "realtime", "audio": audio})
        begun = time.monotonic()
        await client.do("input_audio_buffer.append", audio=silence(4, 8000, 1))
        assert time.monotonic() - begun > 0.4


async def test_transcripts_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with talk(FakeEngine(delay=0.3), max_audio_seconds=60.0) as client:
        transcriber = transcripts.Transcriber(client.session._context)
        sound = transcripts.AudioInput(fake_engine.torch.zeros(25 * 16000), 16000)
        for number in range(4):
            transcriber.start(f"item_{number}", [sound], 25.0)
        failed = await client.wait("conversation.item.input_audio_transcription.failed", 2)
        assert failed["item_id"] == "item_3" and failed["error"]["code"] == "too_many_requests"
        await client.wait("conversation.item.input_audio_transcription.completed", 2)
        transcriber._waiting_s = 2e-16  # what rounding leaves
        transcriber.start("item_5", [sound], 61.0)
        await client.wait("conversation.item.input_audio_transcription.completed", 3)


async def test_a_dialogue_that_is_too_long_is_the_clients_mistake() -> None:
    async with talk(FakeEngine(too_long=True)) as client:
        await client.say()
        error = (await client.ask())["status_details"]["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "context_length_exceeded")
        assert error["message"] == "system text and message are 99 tokens long."
