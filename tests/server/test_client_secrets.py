"""Keys for pages: good for the Realtime WebSocket alone, for a while, with settings in them; any replica takes them."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai")

import openai
from fake_engine import FakeEngine
from http_tools import KEY, Serving, assert_error, chat_body, serving
from openai.types.realtime import ClientSecretCreateResponse
from realtime_tools import Client, address
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from baichuan_audio.errors import ConfigError
from baichuan_audio.server import ServerSettings
from baichuan_audio.server.access import client_secrets
from baichuan_audio.server.access.client_secrets import ClientSecrets

SECRETS = "/v1/realtime/client_secrets"
SIGNING_KEY = "s" * 32
SESSION = {
    "type": "realtime",
    "instructions": "Speak like a pirate. 你好",
    "output_modalities": ["text"],
    "audio": {"input": {"turn_detection": None}, "output": {"voice": "邻家女声"}},
}


@pytest.fixture(scope="module", params=[(), (KEY,)], ids=["open", "with keys"])
def server(request: pytest.FixtureRequest) -> Iterator[Serving]:
    with serving(api_keys=request.param, signing_key=SIGNING_KEY) as server:
        yield server


@pytest.fixture(scope="module")
def locked() -> Iterator[Serving]:
    with serving(FakeEngine(max_sessions=2), api_keys=(KEY,), signing_key=SIGNING_KEY) as server:
        yield server


@asynccontextmanager
async def dial(server: Any, value: str, in_header: bool = False):
    """A session with this key, as a browser or (in_header) as a program brings it."""
    protocols = ["realtime", f"openai-insecure-api-key.{value}"]
    how: dict[str, Any] = {"subprotocols": protocols}
    if in_header:
        how = {"additional_headers": {"Authorization": f"Bearer {value}"}}
    async with connect(address(server), **how) as socket:
        client = Client(socket)
        assert (await client.next())["type"] == "session.created"
        yield client


async def refused(server: Any, value: str) -> None:
    with pytest.raises(InvalidStatus) as error:
        async with dial(server, value):
            pass
    assert error.value.response.status_code == 401


@pytest.mark.parametrize("in_header", [False, True])
async def test_a_session_begins_as_the_key_says(server: Serving, in_header: bool):
    made = server.http.post(SECRETS, json={"session": SESSION}).json()
    assert ClientSecretCreateResponse.model_validate(made).session.type == "realtime"
    assert made["session"]["instructions"] == SESSION["instructions"]
    assert 590 <= made["expires_at"] - time.time() <= 601
    for _ in range(2):  # it may be used again until it expires
        async with dial(server, made["value"], in_header) as client:
            session = client.events[0]["session"]
            assert session["instructions"] == SESSION["instructions"] and session["output_modalities"] == ["text"]
            assert session["audio"]["input"]["turn_detection"] is None
            assert session["audio"]["output"]["voice"] == "邻家女声"
            done = await client.ask("Hello")
            assert done["output"][0]["content"][0]["type"] == "output_text"
            assert server.engine.dialogues[-1].system == SESSION["instructions"]
            assert (await client.update(instructions="Now like a sailor."))["output_modalities"] == ["text"]


async def test_with_the_client_of_openai(server: Serving):
    made = server.client.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 60}, session={"type": "realtime", "instructions": "x"}
    )
    assert 50 <= made.expires_at - time.time() <= 61
    client = openai.AsyncOpenAI(base_url=server.url + "v1", api_key=made.value)
    async with client.realtime.connect(model="any") as connection:
        async for event in connection:
            assert event.type == "session.created" and event.session.instructions == "x"
            break


@pytest.mark.parametrize("body", [{}, {"session": {}}, {"session": None, "expires_after": None}, None])
async def test_without_settings(server: Serving, body: dict | None):
    response = server.http.post(SECRETS) if body is None else server.http.post(SECRETS, json=body)
    made = response.json()
    assert response.status_code == 200, response.text
    async with dial(server, made["value"]) as client:
        assert client.events[0]["session"]["instructions"] == ""


async def test_it_opens_nothing_else(locked: Serving):
    value = locked.http.post(SECRETS, json={}).json()["value"]
    headers = {"authorization": f"Bearer {value}"}
    for method, path in (
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", SECRETS),
        ("GET", "/metrics"),
    ):
        assert_error(locked.http.request(method, path, headers=headers, json=chat_body("x")), 401, "invalid_api_key")
    assert_error(locked.http.post(SECRETS, json={}, headers={"authorization": ""}), 401, "invalid_api_key")


async def test_keys_that_are_none(server: Serving, monkeypatch: pytest.MonkeyPatch):
    value = server.http.post(SECRETS, json={"session": SESSION}).json()["value"]
    stranger, _ = ClientSecrets("t" * 32).issue(SESSION, 600)
    changed = [value[:at] + ("A" if value[at] != "A" else "B") + value[at + 1 :] for at in (3, 20, 60, -9)]
    for wrong in (stranger, *changed, value[:-4], value + "AAAA", "ek_", "ek_x", "ek_" + "A" * 43, "ek_" + "A" * 5000):
        await refused(server, wrong)
    now = time.time()
    monkeypatch.setattr(client_secrets.time, "time", lambda: now + 601)
    await refused(server, value)


async def test_any_replica_takes_it(locked: Serving):
    """Each is a process of its own with the same settings: nothing about the key is remembered."""
    value = locked.http.post(SECRETS, json={"session": SESSION}).json()["value"]
    with serving(api_keys=(KEY,), signing_key=SIGNING_KEY) as other:
        async with dial(other, value) as client:
            assert client.events[0]["session"]["instructions"] == SESSION["instructions"]
    with serving(api_keys=(KEY,)) as stranger:
        await refused(stranger, value)


async def test_it_wins_no_place(locked: Serving):
    value = locked.http.post(SECRETS, json={}).json()["value"]
    async with (
        dial(locked, value),
        dial(locked, value),
        connect(address(locked), subprotocols=["realtime", f"openai-insecure-api-key.{value}"]) as third,
    ):
        event = await Client(third).next()
        assert event["type"] == "error" and event["error"]["code"] == "server_full"
        await asyncio.wait_for(third.wait_closed(), 60)
        assert (third.close_code, third.close_reason) == (1013, "server_full")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"session": "x"}, "session"),
        ({"session": {"type": "transcription"}}, "session.type"),
        ({"session": {"voice": "Ada"}}, "session.voice"),
        ({"session": {"audio": {"output": {"voice": "Nobody"}}}}, "session.audio.output.voice"),
        ({"session": {"tool_choice": "required"}}, "session.tool_choice"),
        ({"session": {"instructions": 3}}, "session.instructions"),
        ({"expires_after": 60}, "expires_after"),
        ({"expires_after": {"seconds": 5}}, "expires_after.seconds"),
        ({"expires_after": {"seconds": 7201}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "last_used_at"}}, "expires_after.anchor"),
    ],
)
def test_what_cannot_be_met(locked: Serving, body: dict, param: str):
    assert assert_error(locked.http.post(SECRETS, json=body), 400)["param"] == param


def test_more_settings_than_a_header_holds(locked: Serving):
    words = "".join(chr(0x4E00 + index * 7919 % 20000) for index in range(4000))
    body = {"session": {"type": "realtime", "instructions": words}}
    assert_error(locked.http.post(SECRETS, json=body), 400, "session_too_long")


def test_signing_keys():
    assert ServerSettings().signing_key != ServerSettings().signing_key and len(ServerSettings().signing_key) >= 32
    assert "signing_key" not in repr(ServerSettings())
    settings = ServerSettings()  # as it reaches the replicas
    assert pickle.loads(pickle.dumps(settings)).signing_key == settings.signing_key
    with pytest.raises(ConfigError, match="signing_key"):
        ServerSettings(signing_key="")


def test_a_key_is_a_token_of_a_header():
    value, _ = ClientSecrets(SIGNING_KEY).issue(SESSION, 60)
    assert value.isascii() and all(letter.isalnum() or letter in "-_" for letter in value)
