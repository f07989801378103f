"""What clients must not be able to do to the server or to each other. The engine is a fake."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import socket
import time
from contextlib import AsyncExitStack
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai", reason="openai, whose types are the measure, is not installed: pip install openai")

from fake_engine import FakeEngine
from page_tools import PATIENCE_S, LiveServer, wait_until
from realtime_tools import OFFICIAL, PCM_RATE, Client, address, dial, pcm64, speech
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from baichuan_audio.server.monitoring.logging import EventLog
from baichuan_audio.server.realtime.conversation.playback import Playback
from baichuan_audio.server.realtime.timeouts import Timeouts
from baichuan_audio.server.settings import ServerSettings

AUDIO = "input_audio_buffer.append"
REALTIME = "baichuan_audio.server.realtime"


@pytest.fixture
def serve():
    servers = []

    def start(engine=None, **settings):
        servers.append(LiveServer(engine or FakeEngine(), ServerSettings(**settings)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def server():
    server = LiveServer(FakeEngine())
    yield server
    server.stop()


def all_free(server) -> bool:
    return server.engine.stats().slots_free == server.engine.config.max_sessions


FRAMES = {
    "no JSON": ("{", "invalid_json", None),
    "half a surrogate pair": ('"\\ud800"', "invalid_type", None),
    "not an object": ("[1]", "invalid_type", None),
    "a constant that is no JSON": ('{"type": NaN}', "invalid_json", None),
    "too deep": ("[" * 100_000, "invalid_json", None),
    "an endless number": ('{"type": ' + "9" * 10_000 + "}", "invalid_json", None),
    "no type": ("{}", "missing_required_parameter", "type"),
    "an unknown type": ('{"type": "session.burn"}', "invalid_value", "type"),
    "a type that is none": ('{"type": {}}', "invalid_type", "type"),
    "a server's event": ('{"type": "session.created"}', "invalid_value", "type"),
    "no audio": (f'{{"type": "{AUDIO}"}}', "missing_required_parameter", "audio"),
    "truncated base64": (f'{{"type": "{AUDIO}", "audio": "AAAAA"}}', "invalid_value", "audio"),
    "no base64": (f'{{"type": "{AUDIO}", "audio": "AA=A"}}', "invalid_value", "audio"),
    "half a sample": (f'{{"type": "{AUDIO}", "audio": "AAAA"}}', "invalid_audio", None),
    "a stray field": ('{"type": "input_audio_buffer.clear", "x": 1}', "unknown_parameter", "x"),
    "commit of nothing": ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty", None),
    "cancel of nothing": ('{"type": "response.cancel"}', "response_cancel_not_active", "response_id"),
    "clear of nothing": ('{"type": "output_audio_buffer.clear"}', "output_audio_buffer_empty", None),
    "item of nowhere": ('{"type": "conversation.item.delete", "item_id": "i"}', "item_not_found", "item_id"),
    "no item": ('{"type": "conversation.item.create"}', "missing_required_parameter", "item"),
    "a response that is no object": ('{"type": "response.create", "response": 1}', "invalid_type", "response"),
    "no session": ('{"type": "session.update"}', "missing_required_parameter", "session"),
}


async def test_every_fault_is_told_and_the_session_stays_open(server):
    async with dial(server) as client:
        for name, (frame, code, param) in FRAMES.items():
            await client.socket.send(frame)
            error = (await client.until_error())["error"]
            assert (error["code"], error["param"]) == (code, param), name
            assert error["message"][-1] == "." and error["type"] == "invalid_request_error"
        await client.socket.send(b"\0\1")
        assert (await client.until_error())["error"]["code"] == "invalid_frame"
        await client.send("response.cancel", event_id="mine")
        assert (await client.until_error())["error"]["event_id"] == "mine"
        assert (await client.ask("Hello"))["status"] == "completed"


SETTINGS = {
    "session.audio.output.voice": {"audio": {"output": {"voice": "Nobody"}}},
    "session.audio.output.speed": {"audio": {"output": {"speed": 3}}},
    "session.audio.output.format.type": {"audio": {"output": {"format": {"type": "audio/mp3"}}}},
    "session.audio.input.format.rate": {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}},
    "session.audio.input.turn_detection.type": {"audio": {"input": {"turn_detection": {}}}},
    "session.audio.input.turn_detection.threshold": {
        "audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}
    },
    "session.audio.input.turn_detection.eagerness": {
        "audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "very"}}}
    },
    "session.output_modalities": {"output_modalities": ["text", "audio"]},
    "session.max_output_tokens": {"max_output_tokens": 0},
    "session.instructions": {"instructions": 3},
    "session.type": {"type": "transcription"},
    "session.tools[0].type": {"tools": [{}]},
    "session.modalities": {"modalities": ["text"]},
    "session.temperature": {"temperature": 0.8},
    "session.audio.input.noise_reduction.type": {"audio": {"input": {"noise_reduction": {"type": "loud"}}}},
}


async def test_a_refused_setting_changes_nothing(server):
    async with dial(server) as client:
        before = client.events[0]["session"]
        for path, session in SETTINGS.items():
            change = {"type": "realtime", "instructions": "Changed.", **session}
            await client.send("session.update", session=change)
            assert (await client.until_error())["error"]["param"] == path
        assert await client.update() == before


async def test_frames_of_noise(server):
    random = np.random.default_rng(0)
    words = ["type", "session", "audio", "item", "content", "role", "user", "message", AUDIO, "session.update", "text"]
    words += ["response.create", "conversation.item.create", "input_audio", "turn_detection", "realtime", "metadata"]

    def value(depth: int):
        kind = random.integers(8)
        if depth > 4 or kind < 3:
            return [None, True, -1, 1e308, "", "<|endoftext|>", [], {}][random.integers(8)]
        if kind == 3:
            return [value(depth + 1) for _ in range(random.integers(4))]
        if kind == 4:
            return words[random.integers(len(words))]
        return {words[random.integers(len(words))]: value(depth + 1) for _ in range(random.integers(5))}

    async with dial(server) as client:
        for _ in range(120):
            event = value(0)
            if isinstance(event, dict) and random.random() < 0.9:
                event["type"] = words[random.integers(8, 12)]
            await client.socket.send(json.dumps(event))
        for _ in range(30):
            await client.socket.send(bytes(random.integers(32, 127, 50).astype(np.uint8)).decode())
        await client.send("session.update", session={"type": "realtime", "instructions": "Still here."})
        while not any(event["session"]["instructions"] == "Still here." for event in client.all("session.updated")):
            await client.next()
        assert all(error["error"]["code"] != "internal_error" for error in client.all("error"))
    wait_until(lambda: all_free(server))


async def test_sizes_are_limited(serve):
    server = serve(max_message_bytes=200_000, max_audio_seconds=2)
    async with dial(server) as client:
        await client.manual()
        await client.send(AUDIO, audio="A" * 200_000)
        assert (await client.until_error())["error"]["code"] == "message_too_large"
        second = pcm64(np.zeros(PCM_RATE, np.float32))
        await client.send(AUDIO, audio=second)
        await client.send(AUDIO, audio=second[: 4 * (len(second) // 8)])
        await client.send(AUDIO, audio=second)
        assert (await client.until_error())["error"]["code"] == "input_audio_buffer_full"
        await client.send("input_audio_buffer.commit")
        await client.until("input_audio_buffer.committed")
        await client.update(audio={"input": {"turn_detection": {"type": "server_vad", "create_response": False}}})
        long = np.tile(speech(before_s=0, after_s=0), 4)
        await client.append(long)  # nobody pauses: two seconds become a turn
        await client.until("input_audio_buffer.committed")
        wait_until(lambda: len(server.engine.dialogues[-1].items) == 2)  # told to the client first
        waveform = server.engine.dialogues[-1].items[-1][2][0].waveform
        assert len(waveform) / 16000 == pytest.approx(2, abs=0.2)


async def test_time_is_limited(serve):
    server = serve(max_session_seconds=2.0)
    async with dial(server) as client:
        await client.ask("Hello")
        assert (await client.until_error())["error"]["code"] == "session_expired"
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd.code == 1008
    idle = serve(idle_seconds=0.6)
    async with dial(idle) as client:
        await client.append(np.zeros(PCM_RATE // 2, np.float32), pace=1.0)  # silence is no sign of life
        assert (await client.until_error())["error"]["code"] == "session_idle"
    async with dial(idle) as client:
        await client.ask("Hello")
        assert (await client.until_error())["error"]["code"] == "session_idle"
    wait_until(lambda: all_free(idle) and all_free(server))


def test_the_clock_runs_from_the_end_of_what_is_heard():
    """The same with a clock that is set by hand."""
    ends, spoke_up = [], []
    send_queue = SimpleNamespace(overflowed=False, stalled_s=lambda: 0.0)
    turns = SimpleNamespace(last_speech_at=0.0, speaking=False, idle_timeout_ms=None)
    finished: list[float] = []

    def ended_at(now: float) -> float | None:
        return None if not finished or playback.remaining(now) > 0 else max(finished[0], playback.ends_at)

    responses = SimpleNamespace(newest=None, ended_at=ended_at)
    limits = ServerSettings(idle_seconds=60, max_session_seconds=1000)

    def end(code: int, outcome: str, message: str) -> None:
        ends.append((code, outcome))

    timeouts = Timeouts(limits, send_queue, turns, responses, end, spoke_up.append)
    began = time.monotonic()
    playback = Playback(24000)
    playback.add(40 * 24000, began)  # sent at once
    responses.newest = object()
    timeouts.check(began + 500)  # it is still being made
    finished.append(began + 1)
    for after in (30, 70, 95):
        timeouts.check(began + after)
    assert not ends and not spoke_up
    timeouts.check(began + 105)
    assert ends.pop() == (1008, "idle")
    turns.idle_timeout_ms = 20_000
    timeouts.check(began + 55)
    assert not spoke_up
    timeouts.check(began + 65)
    assert spoke_up == [pytest.approx(25)] and not ends
    timeouts.check(began + 1005)
    assert ends.pop() == (1008, "expired")
    send_queue.overflowed = True
    timeouts.check(began)
    assert ends == [(1008, "slow")]


async def test_ten_times_too_many_clients(serve):
    server = serve(FakeEngine(max_sessions=4))

    async def try_once() -> str:
        async with connect(address(server)) as socket:
            first = json.loads(await socket.recv())
            OFFICIAL.validate_python(first)
            if first["type"] == "session.created":
                client = Client(socket)
                status = (await client.ask("Hello"))["status"]
                await asyncio.sleep(1)
                return status
            try:
                await socket.recv()
            except ConnectionClosed as closed:
                assert closed.rcvd.code == 1013
            return first["error"]["code"]

    outcomes = await asyncio.gather(*(try_once() for _ in range(40)))
    assert outcomes.count("completed") >= 4 and set(outcomes) == {"completed", "server_full"}
    wait_until(lambda: all_free(server))
    async with dial(server) as client:
        assert (await client.ask("Hello"))["status"] == "completed"


async def test_clients_that_vanish_leave_nothing_behind(serve):
    server = serve(FakeEngine(max_sessions=4, delay=0.01, answer="well " * 100))
    tasks, held = [], []
    async with dial(server) as other:
        for _ in range(3):
            for vanish in ("mid-reply", "mid-speech", "at once"):
                async with dial(server) as client:
                    if vanish == "mid-reply":
                        await client.say("Hello")
                        await client.send("response.create")
                        await client.until("response.output_audio.delta")
                    elif vanish == "mid-speech":
                        await client.append(speech()[: int(1.2 * PCM_RATE)])
                    client.socket.transport.abort()
            wait_until(lambda: server.engine.stats().slots_free == 3)
            assert server.engine.dialogues[-1].closed
            gc.collect()
            tasks.append(await on_loop(server, lambda: len(asyncio.all_tasks())))
            held.append(sum(str(type(item).__module__).startswith(REALTIME) for item in gc.get_objects()))
        server.engine.answer = None
        assert (await other.ask("Hello"))["status"] == "completed"
    assert tasks[0] == tasks[-1] and held[0] == held[-1] > 0
    wait_until(lambda: all_free(server))


async def on_loop(server, function):
    """Call something on the server's loop: the engine's reader is there."""
    result = []
    original = server.engine.stats

    def stats():
        result.append(function())
        server.engine.stats = original
        return original()

    server.engine.stats = stats
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()
    return result[0]


async def test_one_who_never_reads_is_put_out(serve):
    server = serve(FakeEngine(max_sessions=2, answer="well " * 3000), idle_seconds=1.5)
    raw = handshake(server)
    frame = {"type": "conversation.item.create", "item": text_item("Hello")}
    raw.sendall(masked(json.dumps(frame)) + masked('{"type": "response.create"}'))
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(dial(server))
        began = time.monotonic()
        server.engine.answer = None
        assert (await other.ask("Hello"))["status"] == "completed"  # unharmed,
        assert server.engine.stats().slots_free == 0  # and not because the other one has gone
        while server.engine.stats().slots_free != 1:  # the other one must not go idle meanwhile
            assert time.monotonic() - began < PATIENCE_S
            await other.ask("Hello")
            await asyncio.sleep(0.2)
    raw.close()
    wait_until(lambda: all_free(server))


def handshake(server) -> socket.socket:
    """A bare connection with small buffers that speaks WebSocket just so far."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", server.port))
    raw.sendall(
        b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b"101" in raw.recv(200)
    return raw


def masked(text: str) -> bytes:
    """A text frame with a mask of zeros."""
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0x80 | 126]) + len(data).to_bytes(2, "big")
    return b"\x81" + length + b"\0\0\0\0" + data


def text_item(text: str) -> dict:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


async def test_keys_and_origins(serve):
    server = serve(api_keys=("sesame",), allowed_origins=("https://voice.example",))
    for options in (
        {"additional_headers": {"Authorization": "Bearer sesame"}},
        {"subprotocols": ["realtime", "openai-insecure-api-key.sesame"]},
        {"additional_headers": {"Authorization": "Bearer sesame"}, "origin": "https://voice.example"},
    ):
        async with dial(server, **options) as client:
            assert client.socket.subprotocol == ("realtime" if "subprotocols" in options else None)
    for options, status in (
        ({}, 401),
        ({"additional_headers": {"Authorization": "Bearer wrong"}}, 401),
        ({"additional_headers": {"Authorization": "Bearer sesame"}, "origin": "https://evil.example"}, 403),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with dial(server, **options):
                pass
        assert refused.value.response.status_code == status
        assert "sesame" not in refused.value.response.body.decode()
    wait_until(lambda: all_free(server))


async def test_nothing_that_is_said_stands_in_the_log(serve, monkeypatch):
    lines = io.StringIO()
    monkeypatch.setattr("baichuan_audio.server.app.EventLog", lambda log_content=False: EventLog(log_content, lines))
    server = serve(api_keys=("sesame",))
    async with dial(server, additional_headers={"Authorization": "Bearer sesame"}) as client:
        await client.update(instructions="top secret")
        await client.ask("top secret")
        await client.send("conversation.item.retrieve", item_id="top secret")
        await client.until_error()
    wait_until(lambda: "session_closed" in lines.getvalue())
    assert "secret" not in lines.getvalue() and "sesame" not in lines.getvalue()
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert {"session_opened", "response", "session_closed"} <= {event["event"] for event in events}


async def test_figures(serve):
    server = serve()
    async with dial(server) as client:
        await client.append(speech())
        await client.until("response.done")
        await client.append(speech(before_s=0.1)[: int(1.5 * PCM_RATE)])
        await client.next()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("baichuan"))
    for name in ("ttfa_seconds", "endpoint_delay_seconds", "rtf", "underrun_seconds"):
        assert float(figures[f"baichuan_audio_{name}_count"]) >= 1, name
    assert 0.4 < float(figures["baichuan_audio_endpoint_delay_seconds_sum"]) < 1.5
    assert float(figures['baichuan_audio_audio_seconds_total{direction="out"}']) == pytest.approx(0.8)


async def test_a_server_that_stops_says_so(serve):
    server = serve(FakeEngine(delay=0.02, answer="well " * 10))
    app = server._server.config.app
    async with dial(server) as client:
        await client.say("Hello")
        await client.send("response.create")
        await client.until("response.output_audio.delta")
        app.state.work.close()
        assert (await client.until("response.done"))["response"]["status"] == "completed"  # it may end what it says
        assert (await client.until_error())["error"]["code"] == "session_shutdown"
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd.code == 1012
    async with connect(address(server)) as late:
        assert json.loads(await late.recv())["error"]["code"] == "shutting_down"
