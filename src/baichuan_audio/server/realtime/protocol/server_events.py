"""What the server sends: every event of the Realtime API that it uses, built here and nowhere else.

An event is a plain dict; the send queue adds its `event_id`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ....engine import Usage

Event = dict[str, Any]


def new_id(kind: str) -> str:
    """A fresh id such as `resp_...`; kind: event, sess, conv, item, resp."""
    return f"{kind}_{secrets.token_hex(10)}"


def session_created(session: Event) -> Event:
    return {"type": "session.created", "session": session}


def session_updated(session: Event) -> Event:
    return {"type": "session.updated", "session": session}


def error(message: str, code: str, kind: str, param: str | None = None, client_event_id: str | None = None) -> Event:
    """client_event_id: the `event_id` of what caused it."""
    details = {"type": kind, "code": code, "message": message, "param": param, "event_id": client_event_id}
    return {"type": "error", "error": details}


def speech_started(item_id: str, audio_start_ms: int) -> Event:
    return {"type": "input_audio_buffer.speech_started", "audio_start_ms": audio_start_ms, "item_id": item_id}


def speech_stopped(item_id: str, audio_end_ms: int) -> Event:
    return {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": audio_end_ms, "item_id": item_id}


def audio_committed(item_id: str, previous_item_id: str | None) -> Event:
    return {"type": "input_audio_buffer.committed", "item_id": item_id, "previous_item_id": previous_item_id}


def audio_cleared() -> Event:
    return {"type": "input_audio_buffer.cleared"}


def timeout_triggered(item_id: str, audio_start_ms: int, audio_end_ms: int) -> Event:
    return {
        "type": "input_audio_buffer.timeout_triggered",
        "item_id": item_id,
        "audio_start_ms": audio_start_ms,
        "audio_end_ms": audio_end_ms,
    }


def output_cleared(response_id: str) -> Event:
    return {"type": "output_audio_buffer.cleared", "response_id": response_id}


def item_added(item: Event, previous_item_id: str | None) -> Event:
    return {"type": "conversation.item.added", "item": item, "previous_item_id": previous_item_id}


def item_done(item: Event, previous_item_id: str | None) -> Event:
    return {"type": "conversation.item.done", "item": item, "previous_item_id": previous_item_id}


def item_retrieved(item: Event) -> Event:
    return {"type": "conversation.item.retrieved", "item": item}


def item_deleted(item_id: str) -> Event:
    return {"type": "conversation.item.deleted", "item_id": item_id}


def item_truncated(item_id: str, audio_end_ms: int) -> Event:
    return {
        "type": "conversation.item.truncated",
        "item_id": item_id,
        "content_index": 0,
        "audio_end_ms": audio_end_ms,
    }


def transcription_delta(item_id: str, content_index: int, text: str) -> Event:
    return {
        "type": "conversation.item.input_audio_transcription.delta",
        "item_id": item_id,
        "content_index": content_index,
        "delta": text,
    }


def transcription_completed(item_id: str, content_index: int, text: str, seconds: float) -> Event:
    return {
        "type": "conversation.item.input_audio_transcription.completed",
        "item_id": item_id,
        "content_index": content_index,
        "transcript": text,
        "usage": {"type": "duration", "seconds": round(seconds, 3)},
    }


def transcription_failed(item_id: str, content_index: int, message: str, code: str) -> Event:
    return {
        "type": "conversation.item.input_audio_transcription.failed",
        "item_id": item_id,
        "content_index": content_index,
        "error": {"type": "transcription_error", "code": code, "message": message, "param": None},
    }


def response_created(response: Event) -> Event:
    return {"type": "response.created", "response": response}


def response_done(response: Event) -> Event:
    return {"type": "response.done", "response": response}


def rate_limits_updated(limits: Sequence[Mapping[str, Any]]) -> Event:
    """limits: name, limit, remaining, reset_seconds of each."""
    return {"type": "rate_limits.updated", "rate_limits": [dict(limit) for limit in limits]}


def output_item_added(response_id: str, item: Event) -> Event:
    return {"type": "response.output_item.added", "response_id": response_id, "output_index": 0, "item": item}


def output_item_done(response_id: str, item: Event) -> Event:
    return {"type": "response.output_item.done", "response_id": response_id, "output_index": 0, "item": item}


class OutputEvents:
    """Events of the one message in a response, audio or text."""

    def __init__(self, response_id: str, item_id: str, speak: bool) -> None:
        self._speak = speak
        self._ids = {"response_id": response_id, "item_id": item_id, "output_index": 0, "content_index": 0}

    def part_added(self) -> Event:
        return {"type": "response.content_part.added", **self._ids, "part": self._part("")}

    def part_done(self, text: str) -> Event:
        return {"type": "response.content_part.done", **self._ids, "part": self._part(text)}

    def audio_delta(self, base64_audio: str) -> Event:
        return {"type": "response.output_audio.delta", **self._ids, "delta": base64_audio}

    def audio_done(self) -> Event:
        return {"type": "response.output_audio.done", **self._ids}

    def text_delta(self, text: str) -> Event:
        return {"type": f"response.{self._text_kind}.delta", **self._ids, "delta": text}

    def text_done(self, text: str) -> Event:
        name = "transcript" if self._speak else "text"
        return {"type": f"response.{self._text_kind}.done", **self._ids, name: text}

    @property
    def _text_kind(self) -> str:
        return "output_audio_transcript" if self._speak else "output_text"

    def _part(self, text: str) -> Event:
        return {"type": "audio", "transcript": text} if self._speak else {"type": "text", "text": text}


def usage(usage: Usage) -> Event:
    """The engine's counts as the protocol has them; an audio token is one code frame."""
    total_input = usage.input_text_tokens + usage.input_audio_tokens
    total_output = usage.output_text_tokens + usage.output_audio_tokens
    return {
        "total_tokens": total_input + total_output,
        "input_tokens": total_input,
        "output_tokens": total_output,
        "input_token_details": {
            "text_tokens": usage.input_text_tokens,
            "audio_tokens": usage.input_audio_tokens,
            "image_tokens": 0,
            "cached_tokens": usage.cached_tokens,
        },
        "output_token_details": {
            "text_tokens": usage.output_text_tokens,
            "audio_tokens": usage.output_audio_tokens,
        },
    }
