"""What a client sends: each event of the Realtime API as a small dataclass, checked when it is read."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from ..input.codec import AudioFormat
from .config import read_format, read_max_tokens, read_modalities, read_tool_choice, read_voice, refuse_old_names
from .fields import Fields, WireError

MAX_AUDIO_MESSAGE_BYTES = 15 * 1024**2  # of one append, decoded; OpenAI's limit
SESSION_LIMIT = 0  # in place of a number of tokens: what the session says
_LONGEST_ID = 512
LONGEST_MESSAGE = 65_536
_MAX_PARTS = 64
_MAX_INPUT = 256

Role = Literal["system", "user", "assistant"]
PartType = Literal["input_text", "input_audio", "output_text", "output_audio"]


@dataclass(frozen=True)
class NewPart:
    """One piece of a message: text (of an audio part its transcript), or audio as bytes of the session's format."""

    type: PartType
    text: str | None = None
    audio: bytes | None = None


@dataclass(frozen=True)
class NewItem:
    """A message that a client puts into the conversation; id None: the server chooses one."""

    id: str | None
    role: Role
    parts: tuple[NewPart, ...]


@dataclass(frozen=True)
class ItemReference:
    """An item of the conversation, named among the input of a response."""

    id: str


@dataclass(frozen=True)
class ResponseParams:
    """What a `response.create` asks for; None where the session's setting counts (max_output_tokens: SESSION_LIMIT,
    None is no limit).

    remember: whether the reply becomes part of the conversation. input: what the model sees in place of it.
    """

    speak: bool | None = None
    instructions: str | None = None
    max_output_tokens: int | None = SESSION_LIMIT
    metadata: dict[str, str] | None = None
    remember: bool = True
    voice: str | None = None
    output_format: AudioFormat | None = None
    input: tuple[NewItem | ItemReference, ...] | None = None


@dataclass(frozen=True)
class SessionUpdate:
    session: object


@dataclass(frozen=True)
class AudioAppend:
    audio: bytes


@dataclass(frozen=True)
class AudioCommit:
    pass


@dataclass(frozen=True)
class AudioClear:
    pass


@dataclass(frozen=True)
class OutputClear:
    pass


@dataclass(frozen=True)
class ItemCreate:
    item: NewItem
    previous_item_id: str | None


@dataclass(frozen=True)
class ItemRetrieve:
    item_id: str


@dataclass(frozen=True)
class ItemDelete:
    item_id: str


@dataclass(frozen=True)
class ItemTruncate:
    item_id: str
    content_index: int
    audio_end_ms: int


@dataclass(frozen=True)
class ResponseCreate:
    params: ResponseParams


@dataclass(frozen=True)
class ResponseCancel:
    response_id: str | None


ClientEvent = (
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | OutputClear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
)


def read_frame(text: str) -> Fields:
    """One frame -> its object. Raises WireError when it is not JSON, or not an object."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise WireError("The frame is not valid JSON.", "invalid_json") from None
    return Fields(value)


def read_event(fields: Fields, voices: Sequence[str]) -> ClientEvent:
    """The object of a frame (its `event_id` taken out) -> the event. Raises WireError."""
    kind = fields.text("type", 100)
    if kind is None:
        raise fields.missing("type")
    reader = _READERS.get(kind)
    if reader is None:
        raise WireError(f"There is no client event '{kind}'.", "invalid_value", "type")
    event = reader(fields, voices)
    fields.done()
    return event


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _read_audio(fields: Fields, name: str) -> bytes:
    text = fields.needed_text(name, MAX_AUDIO_MESSAGE_BYTES * 4 // 3 + 4)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise WireError(f"'{fields.where(name)}' is not valid base64.", "invalid_value", fields.where(name)) from None


def _read_item(fields: Fields) -> NewItem:
    kind = fields.text("type", 100)
    if kind is None:
        raise fields.missing("type")
    if kind != "message":
        place = fields.where("type")
        message = f"Items of type '{kind}' have no use here: the model calls no tools."
        raise WireError(message, "unsupported_item", place)
    item_id = fields.text("id", _LONGEST_ID) or None
    role = cast("Role | None", fields.choice("role", "system", "user", "assistant"))
    if role is None:
        raise fields.missing("role")
    content = fields.list("content", _MAX_PARTS)
    if content is None:
        raise fields.missing("content")
    fields.ignore("object", "status")
    parts = tuple(
        _read_part(Fields(part, f"{fields.where('content')}[{index}]"), role) for index, part in enumerate(content)
    )
    fields.done()
    if sum(len(part.text or "") for part in parts) > LONGEST_MESSAGE:
        message = f"The message is longer than {LONGEST_MESSAGE} characters."
        raise WireError(message, "string_above_max_length", fields.where("content"))
    if not any(part.text or part.audio for part in parts):
        raise WireError("The message is empty.", "invalid_value", fields.where("content"))
    return NewItem(item_id, role, parts)


_PARTS: dict[Role, tuple[PartType, ...]] = {
    "system": ("input_text",),
    "user": ("input_text", "input_audio"),
    "assistant": ("output_text", "output_audio"),
}


def _read_part(fields: Fields, role: Role) -> NewPart:
    kind = cast("PartType | None", fields.choice("type", *_PARTS[role]))
    if kind is None:
        raise fields.missing("type")
    if kind in ("input_text", "output_text"):
        part = NewPart(kind, fields.needed_text("text"))
        fields.ignore("audio", "transcript")
    elif kind == "input_audio":
        part = NewPart(kind, fields.text("transcript"), _read_audio(fields, "audio"))
        fields.ignore("text")
    else:  # what the assistant said counts by its words
        part = NewPart(kind, fields.needed_text("transcript"))
        fields.ignore("text", "audio")
    fields.ignore("detail", "image_url")
    fields.done()
    return part


def _read_response(fields: Fields | None, voices: Sequence[str]) -> ResponseParams:
    if fields is None:
        return ResponseParams()
    refuse_old_names(fields)
    read_tool_choice(fields)
    fields.ignore("tools", "parallel_tool_calls", "reasoning", "prompt")
    voice, output_format = _read_response_audio(fields.inner("audio"), voices)
    params = ResponseParams(
        speak=read_modalities(fields),
        instructions=fields.text("instructions"),
        max_output_tokens=read_max_tokens(fields, SESSION_LIMIT),
        metadata=_read_metadata(fields.inner("metadata")),
        remember=fields.choice("conversation", "auto", "none") != "none",
        voice=voice,
        output_format=output_format,
        input=_read_input(fields),
    )
    fields.done()
    if params.input is not None and params.remember:
        message = """With an 'input' of its own the response cannot join the conversation: set conversation "none"."""
        raise WireError(message, "invalid_value", fields.where("input"))
    return params


def _read_response_audio(fields: Fields | None, voices: Sequence[str]) -> tuple[str | None, AudioFormat | None]:
    output = fields.inner("output") if fields is not None else None
    if fields is None or output is None:
        return None, None
    result = read_voice(output, voices), read_format(output)
    output.done()
    fields.done()
    return result


def _read_metadata(fields: Fields | None) -> dict[str, str] | None:
    if fields is None:
        return None
    names = list(fields)
    if len(names) > 16 or any(len(name) > 64 for name in names):
        raise WireError("Metadata may have 16 keys of 64 characters.", "invalid_value", "response.metadata")
    return {name: fields.needed_text(name, 512) for name in names}


def _read_input(fields: Fields) -> tuple[NewItem | ItemReference, ...] | None:
    value = fields.list("input", _MAX_INPUT)
    if value is None:
        return None
    items: list[NewItem | ItemReference] = []
    for index, entry in enumerate(value):
        item = Fields(entry, f"{fields.where('input')}[{index}]")
        if isinstance(entry, dict) and entry.get("type") == "item_reference":
            items.append(ItemReference(item.needed_text("id", _LONGEST_ID)))
        else:
            items.append(_read_item(item))
    return tuple(items)


def _read_session(fields: Fields, voices: Sequence[str]) -> ClientEvent:
    if "session" not in fields:
        raise fields.missing("session")
    return SessionUpdate(fields.json("session"))


def _read_create(fields: Fields, voices: Sequence[str]) -> ClientEvent:
    item = fields.inner("item")
    if item is None:
        raise fields.missing("item")
    return ItemCreate(_read_item(item), fields.text("previous_item_id", _LONGEST_ID))


def _read_truncate(fields: Fields, voices: Sequence[str]) -> ClientEvent:
    item_id = fields.needed_text("item_id", _LONGEST_ID)
    content_index, audio_end = fields.whole("content_index", 0, 0), fields.whole("audio_end_ms", 0, 2**53)
    for name, value in (("content_index", content_index), ("audio_end_ms", audio_end)):
        if value is None:
            raise fields.missing(name)
    return ItemTruncate(item_id, content_index or 0, audio_end or 0)


_READERS: dict[str, Callable[[Fields, Sequence[str]], ClientEvent]] = {
    "session.update": _read_session,
    "input_audio_buffer.append": lambda fields, voices: AudioAppend(_read_audio(fields, "audio")),
    "input_audio_buffer.commit": lambda fields, voices: AudioCommit(),
    "input_audio_buffer.clear": lambda fields, voices: AudioClear(),
    "output_audio_buffer.clear": lambda fields, voices: OutputClear(),
    "conversation.item.create": _read_create,
    "conversation.item.retrieve": lambda fields, voices: ItemRetrieve(fields.needed_text("item_id", _LONGEST_ID)),
    "conversation.item.delete": lambda fields, voices: ItemDelete(fields.needed_text("item_id", _LONGEST_ID)),
    "conversation.item.truncate": _read_truncate,
    "response.create": lambda fields, voices: ResponseCreate(_read_response(fields.inner("response"), voices)),
    "response.cancel": lambda fields, voices: ResponseCancel(fields.text("response_id", _LONGEST_ID)),
}
