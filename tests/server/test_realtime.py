"""The Realtime API as a client sees it: order, fields, settings, items, responses. The engine is a fake."""

from __future__ import annotations

import base64
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai", reason="openai, whose types are the measure, is not installed: pip install openai")

from fake_engine import FakeEngine
from page_tools import LiveServer
from realtime_tools import PCM_RATE, dial, pcm64, speech

SPOKEN_REPLY = [
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]
USER_ITEM = ["conversation.item.added", "conversation.item.done"]


@pytest.fixture(scope="module")
def server():
    server = LiveServer(FakeEngine())
    yield server
    server.stop()


@pytest.fixture
async def client(server):
    async with dial(server) as client:
        yield client


def dialogue(server):
    return server.engine.dialogues[-1]


async def test_a_session_begins_with_its_settings(client):
    session = client.events[0]["session"]
    assert session["type"] == "realtime" and session["output_modalities"] == ["audio"]
    assert session["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    }
    assert session["audio"]["output"] == {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "Ada", "speed": 1.0}
    assert session["audio"]["input"]["transcription"] is None and session["max_output_tokens"] == "inf"


async def test_every_setting_can_be_changed(client, server):
    tool = {"type": "function", "name": "look", "description": "", "parameters": {"type": "object"}}
    asked = {
        "model": "gpt-realtime",
        "instructions": "Be brief.",
        "output_modalities": ["text"],
        "max_output_tokens": 7,
        "tools": [tool],
        "tool_choice": "none",
        "tracing": None,
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.5},
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "transcription": {"model": "whisper-1", "language": "en"},
                "noise_reduction": {"type": "near_field"},
                "turn_detection": {"type": "semantic_vad", "eagerness": "high", "create_response": False},
            },
            "output": {"format": {"type": "audio/pcma"}, "voice": "邻家女声", "speed": 1.5},
        },
    }
    session = await client.update(**asked)
    assert session["instructions"] == "Be brief." and session["output_modalities"] == ["text"]
    assert session["max_output_tokens"] == 7 and session["tools"] == [tool] and session["tool_choice"] == "none"
    assert session["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    assert session["audio"]["input"]["noise_reduction"] == {"type": "near_field"}
    assert session["audio"]["input"]["transcription"]["model"] == "whisper-1"
    assert session["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "high",
        "create_response": False,
        "interrupt_response": True,
    }
    assert session["audio"]["output"] == {"format": {"type": "audio/pcma"}, "voice": "邻家女声", "speed": 1.5}
    later = await client.update(
        audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}, "transcription": None}}
    )
    assert later["audio"]["input"]["turn_detection"]["create_response"] is False  # what is not named stays
    assert later["audio"]["input"]["transcription"] is None and later["instructions"] == "Be brief."
    off = await client.update(max_output_tokens="inf", audio={"input": {"turn_detection": None}})
    assert off["audio"]["input"]["turn_detection"] is None and off["max_output_tokens"] == "inf"
    vad = {"type": "server_vad", "threshold": 0.8, "silence_duration_ms": 200, "idle_timeout_ms": 6000}
    again = await client.update(audio={"input": {"turn_detection": vad}})
    assert again["audio"]["input"]["turn_detection"]["idle_timeout_ms"] == 6000
    await client.ask("Hello")
    assert dialogue(server).system == "Be brief." and dialogue(server).voice == "邻家女声"


async def test_openai_voices_mean_the_first_voice(client):
    for voice in ("marin", {"id": "alloy"}):
        assert (await client.update(audio={"output": {"voice": voice}}))["audio"]["output"]["voice"] == "Ada"


async def test_a_turn_in_the_documented_order(client, server):
    await client.update(audio={"input": {"transcription": {"model": "whisper-1"}}})
    start = len(client.events)
    clip = speech()
    await client.append(clip)
    done = (await client.until("response.done"))["response"]
    while not client.all("conversation.item.input_audio_transcription.completed"):
        await client.next()
    received = [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
    ]
    assert client.kinds(start) == [*received, *USER_ITEM, *SPOKEN_REPLY]

    started, stopped, committed = (client.all(kind)[0] for kind in received)
    item_id = started["item_id"]
    assert stopped["item_id"] == committed["item_id"] == item_id and committed["previous_item_id"] is None
    assert 200 <= started["audio_start_ms"] <= 800
    assert len(clip) / 24 - 1000 <= stopped["audio_end_ms"] <= len(clip) / 24
    added = client.all("conversation.item.added")
    assert added[0]["item"]["id"] == item_id and added[0]["previous_item_id"] is None
    assert added[1]["item"]["id"] == done["output"][0]["id"] and added[1]["previous_item_id"] == item_id

    transcript = client.all("conversation.item.input_audio_transcription.completed")[0]
    assert transcript["item_id"] == item_id and transcript["transcript"] == "hello world"
    assert transcript["usage"]["type"] == "duration" and 0.5 < transcript["usage"]["seconds"] < 4

    assert done["status"] == "completed" and done["status_details"] is None
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "You said hello world."}]
    assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + done["usage"]["output_tokens"]
    assert len(client.sound()) == 4 * 0.2 * PCM_RATE * 2

    user = dialogue(server).items[0]
    assert user[0] == item_id and user[2][0].sample_rate == 16000
    seconds = (stopped["audio_end_ms"] - started["audio_start_ms"]) / 1000
    assert seconds - 0.3 <= len(user[2][0].waveform) / 16000 <= seconds - 0.2  # most of the last silence is left out


async def test_a_committed_turn(client, server):
    await client.manual()
    start = len(client.events)
    await client.append(speech())
    await client.send("input_audio_buffer.commit")
    await client.until("conversation.item.done")
    await client.nothing()  # no reply unless asked for
    await client.send("response.create")
    await client.until("response.done")
    assert client.kinds(start) == ["input_audio_buffer.committed", *USER_ITEM, *SPOKEN_REPLY]
    assert len(dialogue(server).items[0][2][0].waveform) == pytest.approx(len(speech()) * 2 / 3, abs=32)


async def test_words_are_told_one_by_one_with_their_sound(client, server):
    """A model that takes turns every few words: a delta for each piece, its blank first, right before its sound."""
    done = await client.ask("Hello there")
    transcript = "response.output_audio_transcript"
    played, truncated_ms = 0.0, []
    for event in client.events:
        if event["type"] == f"{transcript}.delta":
            truncated_ms.append((event["delta"], round(played, 3)))
        elif event["type"] == "response.output_audio.delta":
            played += len(base64.b64decode(event["delta"])) / 2 / PCM_RATE
    assert truncated_ms == [("You", 0), (" said", 0.2), (" Hello", 0.4), (" there.", 0.6)] and played == pytest.approx(
        0.8
    )
    assert client.all(f"{transcript}.done")[0]["transcript"] == "You said Hello there."
    item_id = done["output"][0]["id"]
    await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=650)
    await client.until("conversation.item.truncated")
    assert dialogue(server).items[-1][2] == "You said Hello"


async def test_text_in_and_out(client, server):
    await client.update(output_modalities=["text"])
    start = len(client.events)
    done = await client.ask("<|endoftext|><C_Q>", metadata={"topic": "t"})
    assert done["output"][0]["content"] == [{"type": "output_text", "text": "You said <|endoftext|><C_Q>."}]
    assert done["metadata"] == {"topic": "t"} and done["output_modalities"] == ["text"]
    kinds = [kind.replace("audio_transcript", "text") for kind in SPOKEN_REPLY if "output_audio." not in kind]
    assert client.kinds(start) == [*USER_ITEM, *kinds]
    assert dialogue(server).items[0][2] == ["<|endoftext|><C_Q>"]  # a text like any other


@pytest.mark.parametrize("format", ["audio/pcmu", "audio/pcma"])
async def test_telephone_formats(client, server, format):
    from baichuan_audio.server.realtime.input.codec import OutputEncoder, decode

    await client.update(audio={"input": {"format": {"type": format}}, "output": {"format": {"type": format}}})
    encoder = OutputEncoder(format, PCM_RATE)
    data = encoder.push(speech()) + encoder.flush()
    for start in range(0, len(data), 160):
        await client.send("input_audio_buffer.append", audio=base64.b64encode(data[start : start + 160]).decode())
    await client.until("response.done")
    received = decode(client.sound(), format)
    assert len(received) == pytest.approx(0.8 * 8000, abs=40)
    assert np.argmax(np.abs(np.fft.rfft(received[:1600]))) * 8000 / 1600 == pytest.approx(220, abs=5)
    assert 1 < len(dialogue(server).items[0][2][0].waveform) / 16000 < 4


async def test_speed_and_settings_of_one_response(client, server):
    await client.update(audio={"output": {"speed": 0.5}})
    voice = {"output": {"voice": "邻家女声", "format": {"type": "audio/pcmu"}}}
    done = await client.ask("Hello", audio=voice, instructions="Be loud.", max_output_tokens=2)
    assert done["status"] == "incomplete"
    assert done["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}
    assert done["audio"]["output"] == {"format": {"type": "audio/pcmu"}, "voice": "邻家女声"}
    assert len(client.sound()) == pytest.approx(2 * 0.2 / 0.5 * 8000, abs=600)  # two words at half the speed
    assert dialogue(server).asked["instructions"] == "Be loud." and dialogue(server).voice == "邻家女声"
    await client.ask("Hello")
    assert dialogue(server).asked["instructions"] is None and dialogue(server).voice == "Ada"
    server.engine.ending = ("incomplete", "repetition")
    away = await client.ask("Hello")
    assert away["status"] == away["output"][0]["status"] == "incomplete"
    assert away["status_details"] == {
        "type": "incomplete",
        "reason": "max_output_tokens",
        "error": {"type": "runaway_reply", "code": "repetition"},
    }
    server.engine.ending = ("completed", None)


async def test_items(client, server):
    await client.manual()
    sound = speech(before_s=0, after_s=0)
    part = {"type": "input_audio", "audio": pcm64(sound), "transcript": "said"}
    await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": [part]})
    first = (await client.until("conversation.item.done"))["item"]
    assert first["content"] == [{"type": "input_audio", "transcript": "said"}]
    for role, kind in (("assistant", "output_text"), ("system", "input_text")):
        content = [{"type": kind, "text": f"words of the {role}"}]
        item = {"id": f"{role}_1", "type": "message", "role": role, "content": content}
        await client.send("conversation.item.create", item=item)
        await client.until("conversation.item.done")
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "between"}]}
    await client.send("conversation.item.create", item=item, previous_item_id=first["id"])
    between = await client.until("conversation.item.done")
    assert between["previous_item_id"] == first["id"]
    await client.send("conversation.item.create", item={**item, "role": "system"}, previous_item_id=first["id"])
    assert (await client.until_error())["error"]["code"] == "unsupported_position"
    await client.send("conversation.item.retrieve", item_id=first["id"])
    retrieved = (await client.until("conversation.item.retrieved"))["item"]
    received = np.frombuffer(base64.b64decode(retrieved["content"][0]["audio"]), "<i2") / 32768
    assert np.abs(received[2000:9000] - sound[2000:9000]).max() < 0.05
    await client.send("conversation.item.delete", item_id="assistant_1")
    await client.until("conversation.item.deleted")
    assert [item[0] for item in dialogue(server).items] == [first["id"], between["item"]["id"], "system_1"]


async def test_out_of_band_responses(client, server):
    await client.say("Remember this", id="remembered")
    done = await client.ask("Hello", conversation="none", metadata={"n": "1"})
    assert done["conversation_id"] is None and done["output"][0]["content"][0]["transcript"] == "You said Hello."
    assert [item[1] for item in dialogue(server).items] == ["user", "user"]
    own_input = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Own"}]}
    asked = {"conversation": "none", "input": [{"type": "item_reference", "id": "remembered"}, own_input]}
    start = len(client.events)
    await client.send("response.create", response={**asked, "output_modalities": ["text"]})
    done = (await client.until("response.done"))["response"]
    assert done["output"][0]["content"][0]["text"] == "You said Own."
    assert "conversation.item.added" not in client.kinds(start)
    apart = server.engine.dialogues[-1]
    assert [item[2] for item in apart.items] == [["Remember this"], ["Own"]] and apart.closed


async def test_a_response_can_be_cancelled(server):
    server.engine.delay = 0.05
    try:
        async with dial(server) as client:
            await client.say("Hello")
            await client.send("response.create")
            await client.until("response.output_audio.delta")
            await client.send("response.create", event_id="again")
            error = (await client.until_error())["error"]
            assert error["code"] == "conversation_already_has_active_response" and error["event_id"] == "again"
            await client.send("response.cancel", response_id="resp_other")
            assert (await client.until_error())["error"]["code"] == "response_cancel_not_active"
            await client.send("response.cancel")
            await client.send("response.create")  # at once after it is right
            done = (await client.until("response.done"))["response"]
            assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
            assert done["output"][0]["status"] == "incomplete"
            assert (await client.until("response.done"))["response"]["status"] == "completed"
            await client.send("response.cancel")
            assert (await client.until_error())["error"]["code"] == "response_cancel_not_active"
    finally:
        server.engine.delay = 0.0


async def test_what_was_not_heard_leaves_the_conversation(client, server):
    done = await client.ask("Hello")  # four tenths of a second and more are sent at once
    item_id = done["output"][0]["id"]
    await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=450)
    truncated = await client.until("conversation.item.truncated")
    assert truncated["audio_end_ms"] == 450 and truncated["item_id"] == item_id
    assert dialogue(server).truncated == [(item_id, 0.45)]
    await client.send("conversation.item.retrieve", item_id=item_id)
    assert (await client.until("conversation.item.retrieved"))["item"]["content"][0]["transcript"] == "You said"
    await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=99999)
    assert (await client.until_error())["error"]["param"] == "audio_end_ms"


async def test_the_output_can_be_cleared(client, server):
    await client.ask("Hello" + " again" * 100)
    await client.send("output_audio_buffer.clear")
    await client.until("output_audio_buffer.cleared")
    truncated = await client.until("conversation.item.truncated")
    assert truncated["audio_end_ms"] < 20_000
    await client.send("output_audio_buffer.clear")
    assert (await client.until_error())["error"]["code"] == "output_audio_buffer_empty"


async def test_the_users_voice_interrupts(server):
    server.engine.answer, server.engine.delay = "well " * 100, 0.02  # five times faster than it is heard
    try:
        async with dial(server) as client:
            asked = time.monotonic()
            await client.append(speech())
            await client.until("response.output_audio.delta")
            began = time.monotonic()
            while time.monotonic() - began < 1.0 or len(client.all("response.output_audio_transcript.delta")) < 15:
                await client.next()
            await client.append(speech(before_s=0.1, after_s=0.0)[: int(1.2 * PCM_RATE)])
            started = await client.until("input_audio_buffer.speech_started")
            most = (time.monotonic() - asked) * 1000
            done = (await client.until("response.done"))["response"]
            assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
            index = client.events.index(started)
            assert "response.output_audio.delta" not in client.kinds(index)
            truncated = await client.until("conversation.item.truncated")
            assert 300 < truncated["audio_end_ms"] < most  # time that has passed, not sound that has been sent
            item = next(item for item in dialogue(server).items if item[0] == truncated["item_id"])
            assert len(item[2].split()) == pytest.approx(truncated["audio_end_ms"] / 200, abs=1)
            assert len(done["output"][0]["content"][0]["transcript"].split()) > 10  # as it was sent
            server.engine.answer = None
            await client.append(speech(before_s=0.2, after_s=1.0)[-int(1.2 * PCM_RATE) :])
            again = (await client.until("response.done"))["response"]
            assert again["status"] == "completed" and started["item_id"] in [i[0] for i in dialogue(server).items]
    finally:
        server.engine.answer, server.engine.delay = None, 0.0


async def test_interruption_after_the_last_event_counts_too(server):
    server.engine.answer = "well " * 50  # ten seconds of sound, sent in no time
    try:
        async with dial(server) as client:
            asked = time.monotonic()
            assert (await client.ask("Hello"))["status"] == "completed"
            await client.append(speech(after_s=0)[: int(1.2 * PCM_RATE)])
            await client.until("input_audio_buffer.speech_started")
            heard_ms = (await client.until("conversation.item.truncated"))["audio_end_ms"]
            assert heard_ms < (time.monotonic() - asked) * 1000
            assert len(dialogue(server).items[-1][2].split()) == pytest.approx(heard_ms / 200, abs=1)
    finally:
        server.engine.answer = None


async def test_turns_without_reply_or_interruption(server):
    server.engine.answer, server.engine.delay = "well " * 20, 0.02
    try:
        async with dial(server) as client:
            vad = {"type": "server_vad", "create_response": False, "interrupt_response": False}
            await client.update(audio={"input": {"turn_detection": vad}})
            await client.say("Hello")
            await client.send("response.create")
            await client.append(speech())
            assert (await client.until("response.done"))["response"]["status"] == "completed"
            assert "input_audio_buffer.committed" in client.kinds()
            await client.nothing()
    finally:
        server.engine.answer, server.engine.delay = None, 0.0


async def test_the_model_speaks_up_after_silence(client, server):
    vad = {"type": "server_vad", "idle_timeout_ms": 1000}
    await client.update(audio={"input": {"turn_detection": vad}})
    await client.append(np.zeros(PCM_RATE, np.float32))
    await client.nothing(1.3)  # it runs from the end of a reply
    await client.ask("Hello")
    await client.append(np.zeros(2 * PCM_RATE, np.float32))
    start = len(client.events)
    timeout = await client.until("input_audio_buffer.timeout_triggered")
    await client.until("response.done")
    assert client.kinds(start)[1:] == ["input_audio_buffer.committed", *USER_ITEM, *SPOKEN_REPLY]
    assert timeout["audio_end_ms"] - timeout["audio_start_ms"] == pytest.approx(1000, abs=300)


async def test_a_failing_reply_is_told(server):
    server.engine.fail = True
    try:
        async with dial(server) as client:
            done = await client.ask("Hello")
            assert done["status"] == "failed" and done["status_details"]["error"]["code"] == "response_failed"
            server.engine.fail = False
            assert (await client.ask("Hello"))["status"] == "completed"
    finally:
        server.engine.fail = False


async def test_commit_and_clear_while_somebody_speaks(client, server):
    await client.append(speech(after_s=0)[: int(1.2 * PCM_RATE)])
    started = await client.until("input_audio_buffer.speech_started")
    await client.send("input_audio_buffer.commit")
    assert (await client.until("input_audio_buffer.committed"))["item_id"] == started["item_id"]
    await client.append(speech(after_s=0)[int(1.0 * PCM_RATE) : int(1.6 * PCM_RATE)])
    await client.send("input_audio_buffer.clear")
    await client.until("input_audio_buffer.cleared")
    await client.append(np.zeros(PCM_RATE, np.float32))
    assert "response.created" not in client.kinds()


async def test_a_failed_transcription_leaves_the_session_open(client, server, monkeypatch):
    from baichuan_audio.errors import AudioError

    async def fails(waveform, sample_rate):
        raise AudioError("it is only noise.")

    await client.update(audio={"input": {"transcription": {"model": "m"}}})
    monkeypatch.setattr(dialogue(server), "transcript", fails)
    await client.append(speech())
    failed = await client.until("conversation.item.input_audio_transcription.failed")
    assert failed["error"]["message"] == "it is only noise."
    while not client.all("response.done"):
        await client.next()
    assert client.all("response.done")[0]["response"]["status"] == "completed"


async def test_an_item_the_engine_refuses_is_taken_back(client, server, monkeypatch):
    from baichuan_audio.errors import PromptTooLongError

    async def refuses(*args, **kwargs):
        raise PromptTooLongError("the message is too long.")

    monkeypatch.setattr(dialogue(server), "add_user", refuses)
    await client.append(speech())
    deleted = await client.until("conversation.item.deleted")
    error = (await client.until_error())["error"]
    assert (error["code"], error["message"]) == ("context_length_exceeded", "the message is too long.")
    done = (await client.until("response.done"))["response"]
    assert done["status"] == "failed" and done["output"] == []
    await client.send("conversation.item.retrieve", item_id=deleted["item_id"])
    assert (await client.until_error())["error"]["code"] == "item_not_found"
