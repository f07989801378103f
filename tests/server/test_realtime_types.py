"""The models that validate client events against the official types, which are no validators but know every field."""

from __future__ import annotations

from typing import Any, get_args

import pytest

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")
pytest.importorskip("openai", reason="openai, whose types are the measure, is not installed: pip install openai")

import openai.types.realtime as official
from openai.types.realtime import (
    RealtimeClientEvent,
    realtime_audio_config_output,
    realtime_audio_formats,
    realtime_audio_input_turn_detection,
    realtime_response_create_audio_output,
)
from openai.types.realtime.realtime_audio_config_input import NoiseReduction
from pydantic import BaseModel, TypeAdapter

from baichuan_audio.server.errors import ApiError
from baichuan_audio.server.realtime.protocol import client_events, session_config
from baichuan_audio.server.realtime.protocol.base import ProtocolModel
from baichuan_audio.server.realtime.protocol.client_events import read_event

OFFICIAL: TypeAdapter[Any] = TypeAdapter(RealtimeClientEvent)
ELSEWHERE: dict[str, Any] = {
    "ServerVad": realtime_audio_input_turn_detection.ServerVad,
    "SemanticVad": realtime_audio_input_turn_detection.SemanticVad,
    "AudioPCM": realtime_audio_formats.AudioPCM,
    "AudioPCMU": realtime_audio_formats.AudioPCMU,
    "AudioPCMA": realtime_audio_formats.AudioPCMA,
    "VoiceID": realtime_audio_config_output.VoiceID,
    "ResponseAudioOutput": realtime_response_create_audio_output.Output,
    "NoiseReduction": NoiseReduction,
}
OURS_ALONE = {  # OpenAI has one class for all parts of a message, and none for references and the tools of both kinds
    "Content",
    "InputText",
    "InputAudio",
    "OutputText",
    "OutputAudio",
    "ItemReference",
    "Tool",
}


def models() -> list[type[ProtocolModel]]:
    modules = (client_events, session_config)
    classes = {
        value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, ProtocolModel) and not name.startswith("_")
    }
    named = [c for c in classes if c.__name__ not in {*OURS_ALONE, "ProtocolModel", "MergedModel"}]
    return sorted(named, key=lambda model: model.__name__)


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_official_field_is_known(model: type[ProtocolModel]):
    counterpart: type[BaseModel] = ELSEWHERE.get(model.__name__) or getattr(official, model.__name__)
    ours = set(model.model_fields) | model.ignored
    assert set(counterpart.model_fields) <= ours
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    assert required - {"type"} <= {name for name, field in counterpart.model_fields.items() if field.is_required()}


def test_every_official_event_is_known():
    def type_of(event: type[BaseModel]) -> str:
        return get_args(event.model_fields["type"].annotation)[0]

    events = get_args(get_args(RealtimeClientEvent)[0])
    assert {type_of(event) for event in events} == set(client_events._EVENTS)
    assert len(models()) > 25


TEXT = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
AUDIO = {"type": "message", "id": "i", "role": "user", "content": [{"type": "input_audio", "audio": "AAAA"}]}
ANSWER = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
SYSTEM = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "x"}]}
TURNS = ({"type": "server_vad", "threshold": 1, "idle_timeout_ms": None}, {"type": "semantic_vad"}, None)
INPUT = {"format": {"type": "audio/pcm", "rate": 24000}, "transcription": {"model": "m"}, "noise_reduction": None}
OUTPUT = {"voice": {"id": "Ada"}, "speed": 1, "format": {"type": "audio/pcmu"}}
SESSION = {
    "type": "realtime",
    "instructions": "x",
    "output_modalities": ["text"],
    "max_output_tokens": "inf",
    "tools": [{"type": "function", "name": "f", "parameters": {}}],
    "tool_choice": "auto",
    "tracing": "auto",
    "truncation": "disabled",
}
RESPONSE = {"conversation": "none", "input": [TEXT, ANSWER], "metadata": {"a": "b"}, "max_output_tokens": 7}
VALID = [
    *({"type": "session.update", "session": {**SESSION, "audio": {"input": {"turn_detection": t}}}} for t in TURNS),
    {"type": "session.update", "session": {"type": "realtime", "audio": {"input": INPUT, "output": OUTPUT}}},
    *({"type": "conversation.item.create", "item": item} for item in (TEXT, AUDIO, ANSWER, SYSTEM)),
    {"type": "input_audio_buffer.append", "audio": "AAAA", "event_id": "e"},
    *({"type": f"input_audio_buffer.{name}"} for name in ("commit", "clear")),
    {"type": "output_audio_buffer.clear"},
    *({"type": f"conversation.item.{name}", "item_id": "i"} for name in ("retrieve", "delete")),
    {"type": "conversation.item.truncate", "item_id": "i", "content_index": 0, "audio_end_ms": 5},
    *({"type": "response.create", "response": response} for response in ({}, RESPONSE)),
    {"type": "response.create"},
    {"type": "response.cancel", "response_id": "r"},
]


@pytest.mark.parametrize("event", VALID, ids=lambda event: event["type"])
def test_what_is_valid_there_is_valid_here(event: dict[str, Any]):
    expected = OFFICIAL.validate_python(event)
    ours = read_event(event, ["Ada"])
    assert type(ours).__name__ == type(expected).__name__
    for name in ("item_id", "audio_end_ms", "content_index", "response_id", "event_id"):
        assert getattr(ours, name, None) == getattr(expected, name, None)


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ({"type": "input_audio_buffer.clear", "audoi": 1}, "unknown_parameter", "audoi"),
        ({**VALID[-5], "audio_end_ms": "5"}, "invalid_type", "audio_end_ms"),
        ({**VALID[-5], "audio_end_ms": -5}, "invalid_value", "audio_end_ms"),
        ({**VALID[-5], "audio_end_ms": True}, "invalid_type", "audio_end_ms"),
        ({"type": "session.update", "session": {"audio": {"output": {"speed": 9}}}}, "invalid_value", None),
    ],
)
def test_what_the_official_types_let_through(event: dict[str, Any], code: str, param: str | None):
    """The reason why they do not validate here."""
    if event["type"] != "session.update":
        OFFICIAL.validate_python(event)
    with pytest.raises(ApiError) as refused:
        read_event(event, ["Ada"])
    assert refused.value.code == code and param in (None, refused.value.param)


LONG = "x" * 65_537


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        (
            {"type": "session.update", "session": {"instructions": LONG}},
            "string_above_max_length",
            "session.instructions",
        ),
        ({"type": "response.cancel", "response_id": "x" * 513}, "string_above_max_length", "response_id"),
        (
            {"type": "response.create", "response": {"metadata": {str(n): "" for n in range(17)}}},
            None,
            "response.metadata",
        ),
        ({"type": "response.create", "response": {"metadata": {"a": "x" * 513}}}, None, "response.metadata.a"),
        ({"type": "conversation.item.create", "item": {**TEXT, "content": TEXT["content"] * 65}}, None, "item.content"),
        ({"type": "response.create", "response": {"input": [TEXT]}}, "invalid_value", "response.input"),
        ({"type": "x" * 1000, "event_id": "e"}, "invalid_value", "type"),
        ({"type": "input_audio_buffer.clear", "x" * 1000: 1}, "unknown_parameter", "x" * 200),
    ],
)
def test_limits(event: dict[str, Any], code: str | None, param: str):
    with pytest.raises(ApiError) as refused:
        read_event(event, ["Ada"])
    assert refused.value.param == param and code in (None, refused.value.code)
    assert len(refused.value.message) < 300 and LONG not in refused.value.message
