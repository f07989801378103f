"""What a client sends: the events of the Realtime API, validated when they are read."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import PydanticKnownError

from ...errors import ApiError, bad_request
from ...validation import (
    MAX_AUDIO_BYTES,
    MAX_ID_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    REALTIME,
    Identifier,
    Metadata,
    Text,
    describe,
    missing,
    refusal,
)
from .base import ProtocolModel
from .session_config import (
    BETA_NAMES,
    Modalities,
    RealtimeAudioFormats,
    RealtimeSessionCreateRequest,
    TokenLimit,
    ToolChoice,
    Voice,
)

_MAX_AUDIO_CHARACTERS = MAX_AUDIO_BYTES * 4 // 3 + 4

Role = Literal["system", "user", "assistant"]
PartType = Literal["input_text", "input_audio", "output_text", "output_audio"]


def _decode_base64(value: Any) -> bytes:
    if not isinstance(value, str):
        raise PydanticKnownError("string_type")
    if len(value) > _MAX_AUDIO_CHARACTERS:
        raise PydanticKnownError("string_too_long", {"max_length": _MAX_AUDIO_CHARACTERS})
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise refusal("is not valid base64") from None


Base64Audio = Annotated[bytes, BeforeValidator(_decode_base64)]
"""base64 -> bytes in the session's input format."""


class Content(ProtocolModel):
    """One part of a message. `text` or `transcript` are its words; `audio` is there in `input_audio` only."""

    ignored = frozenset({"text", "audio", "transcript", "detail", "image_url"})

    @property
    def words(self) -> str | None:
        """The text, of audio the transcript."""
        text: str | None = getattr(self, "text", None) or getattr(self, "transcript", None)
        return text


class InputText(Content):
    ignored = Content.ignored - {"text"}
    type: Literal["input_text"]
    text: Text


class InputAudio(Content):
    ignored = Content.ignored - {"audio", "transcript"}
    type: Literal["input_audio"]
    audio: Base64Audio
    transcript: Text | None = None


class OutputText(Content):
    ignored = Content.ignored - {"text"}
    type: Literal["output_text"]
    text: Text


class OutputAudio(Content):
    """Speech of the assistant counts by its transcript; the audio is not read."""

    ignored = Content.ignored - {"transcript"}
    type: Literal["output_audio"]
    transcript: Text


class _Message(ProtocolModel):
    """id: None or "", and the server chooses one."""

    ignored = frozenset({"object", "status"})
    type: Literal["message"]
    id: Identifier | None = None

    @model_validator(mode="after")
    def _check_length(self) -> _Message:
        parts: Sequence[Content] = self.content  # type: ignore[attr-defined]
        if sum(len(part.words or "") for part in parts) > MAX_TEXT_CHARACTERS:
            reason = f"may have at most {MAX_TEXT_CHARACTERS} characters in all"
            raise refusal(reason, "content", code="string_above_max_length")
        if not any(part.words or getattr(part, "audio", None) for part in parts):
            raise refusal("is empty", "content")
        return self


class RealtimeConversationItemSystemMessage(_Message):
    role: Literal["system"]
    content: Annotated[list[Annotated[InputText, Field(discriminator="type")]], Field(max_length=64)]


class RealtimeConversationItemUserMessage(_Message):
    role: Literal["user"]
    content: Annotated[list[Annotated[InputText | InputAudio, Field(discriminator="type")]], Field(max_length=64)]


class RealtimeConversationItemAssistantMessage(_Message):
    role: Literal["assistant"]
    content: Annotated[list[Annotated[OutputText | OutputAudio, Field(discriminator="type")]], Field(max_length=64)]


def _check_item_type(item: Any) -> Any:
    """Other items than messages have no use here. Their type comes first: most have no role."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type")
    if kind is None:
        raise missing("type")
    if not isinstance(kind, str):
        raise refusal("must be a string", "type", code="invalid_type")
    if kind != "message":
        raise refusal("must be 'message': this model calls no tools", "type", code="unsupported_item")
    if item.get("role") is None:
        raise missing("role")
    return item


ConversationItem = Annotated[
    Annotated[
        RealtimeConversationItemSystemMessage
        | RealtimeConversationItemUserMessage
        | RealtimeConversationItemAssistantMessage,
        Field(discriminator="role"),
    ],
    BeforeValidator(_check_item_type),
]


class ItemReference(ProtocolModel, extra="ignore"):
    """An item of the conversation, named among the input of a response."""

    type: Literal["item_reference"]
    id: Identifier


def _input_tag(item: Any) -> str:
    return "reference" if isinstance(item, dict) and item.get("type") == "item_reference" else "message"


InputItem = Annotated[
    Annotated[ItemReference, Tag("reference")] | Annotated[ConversationItem, Tag("message")],
    Discriminator(_input_tag),
]


class ResponseAudioOutput(ProtocolModel):
    format: RealtimeAudioFormats | None = None
    voice: Voice = ""


class RealtimeResponseCreateAudioOutput(ProtocolModel):
    output: ResponseAudioOutput = ResponseAudioOutput()


class RealtimeResponseCreateParams(ProtocolModel):
    """What a `response.create` asks for; None where the session's setting counts.

    conversation: "none" for a response that does not become part of it. input: what the model sees in place of it.
    """

    ignored = frozenset({"tools", "parallel_tool_calls", "reasoning", "prompt"})
    renamed = BETA_NAMES
    tool_choice: ToolChoice = "auto"
    audio: RealtimeResponseCreateAudioOutput = RealtimeResponseCreateAudioOutput()
    output_modalities: Modalities | None = None
    instructions: Text | None = None
    max_output_tokens: TokenLimit | None = None
    metadata: Metadata | None = None
    conversation: Literal["auto", "none"] = "auto"
    input: Annotated[list[InputItem], Field(max_length=256)] | None = None

    @model_validator(mode="after")
    def _check_input(self) -> RealtimeResponseCreateParams:
        if self.input is not None and self.conversation != "none":
            raise refusal("""needs "conversation": "none", since the response does not see the conversation""", "input")
        return self


class _Event(ProtocolModel):
    event_id: Identifier | None = None


class SessionUpdateEvent(_Event):
    type: Literal["session.update"]
    session: RealtimeSessionCreateRequest


class InputAudioBufferAppendEvent(_Event):
    type: Literal["input_audio_buffer.append"]
    audio: Base64Audio


class InputAudioBufferCommitEvent(_Event):
    type: Literal["input_audio_buffer.commit"]


class InputAudioBufferClearEvent(_Event):
    type: Literal["input_audio_buffer.clear"]


class OutputAudioBufferClearEvent(_Event):
    type: Literal["output_audio_buffer.clear"]


class ConversationItemCreateEvent(_Event):
    type: Literal["conversation.item.create"]
    item: ConversationItem
    previous_item_id: Identifier | None = None


class ConversationItemRetrieveEvent(_Event):
    type: Literal["conversation.item.retrieve"]
    item_id: Identifier


class ConversationItemDeleteEvent(_Event):
    type: Literal["conversation.item.delete"]
    item_id: Identifier


class ConversationItemTruncateEvent(_Event):
    type: Literal["conversation.item.truncate"]
    item_id: Identifier
    content_index: Literal[0]
    audio_end_ms: Annotated[int, Field(ge=0, le=2**53)]


class ResponseCreateEvent(_Event):
    type: Literal["response.create"]
    response: RealtimeResponseCreateParams = RealtimeResponseCreateParams()


class ResponseCancelEvent(_Event):
    type: Literal["response.cancel"]
    response_id: Identifier | None = None


ClientEvent = (
    SessionUpdateEvent
    | InputAudioBufferAppendEvent
    | InputAudioBufferCommitEvent
    | InputAudioBufferClearEvent
    | OutputAudioBufferClearEvent
    | ConversationItemCreateEvent
    | ConversationItemRetrieveEvent
    | ConversationItemDeleteEvent
    | ConversationItemTruncateEvent
    | ResponseCreateEvent
    | ResponseCancelEvent
)
_EVENTS: dict[str, type[ClientEvent]] = {
    get_args(event.model_fields["type"].annotation)[0]: event for event in get_args(ClientEvent)
}


def read_frame(text: str) -> dict[str, Any]:
    """One frame -> its JSON object, not validated yet. Raises ApiError 400."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise bad_request("The frame is not valid JSON.", code="invalid_json") from None
    if not isinstance(value, dict):
        raise bad_request("An event must be an object.", code="invalid_type")
    return value


def event_id_of(frame: dict[str, Any]) -> str | None:
    """The client's id of an event, which may be invalid otherwise, for the error to name."""
    event_id = frame.get("event_id")
    return event_id if isinstance(event_id, str) and len(event_id) <= MAX_ID_CHARACTERS else None


def read_event(frame: dict[str, Any], voices: Sequence[str]) -> ClientEvent:
    """The object of a frame -> the event. voices: names that `voice` may have. Raises ApiError 400."""
    kind = frame.get("type")
    if kind is None:
        raise bad_request(f"{REALTIME.missing.format(param='type')}.", "type", "missing_required_parameter")
    if not isinstance(kind, str):
        raise bad_request("'type' must be a string.", "type", "invalid_type")
    event = _EVENTS.get(kind)
    if event is None:
        raise bad_request(f"There is no client event '{kind[:100]}'.", "type", "invalid_value")
    try:
        return event.model_validate(frame, context={"voices": voices})
    except ValidationError as error:
        description = describe(error.errors(include_url=False, include_input=False), frame, REALTIME)
        raise ApiError(400, description.message, code=description.code, param=description.param) from None


def read_session(session: Any, voices: Sequence[str]) -> RealtimeSessionCreateRequest:
    """The `session` of an update, by itself. Raises ApiError 400."""
    event = read_event({"type": "session.update", "session": session}, voices)
    assert isinstance(event, SessionUpdateEvent)
    return event.session


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
