"""Spoken replies that a later request may refer to, and the stop sequences of text replies."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from fastapi import Request

from ..access import auth
from ..errors import bad_request

_TTL_S = 3600
_MAX_REPLIES = 4096


@dataclass(frozen=True)
class _StoredReply:
    owner: bytes
    text: str
    expires_at: int


class ReplyStore:
    """Transcripts of spoken replies by audio id: for an hour, the latest 4096, for the same API key only."""

    def __init__(self) -> None:
        self._replies: OrderedDict[str, _StoredReply] = OrderedDict()

    def owner(self, request: Request) -> bytes:
        """Identifies the client of a request by its key."""
        return sha256(auth.presented_key(request).encode()).digest()

    def keep(self, owner: bytes, text: str, audio_id: str | None = None) -> tuple[str, int]:
        """Store a reply -> its audio id and when it expires (Unix time)."""
        audio_id = audio_id or f"audio_{secrets.token_hex(12)}"
        expires_at = int(time.time()) + _TTL_S
        self._replies[audio_id] = _StoredReply(owner, text, expires_at)
        while len(self._replies) > _MAX_REPLIES:
            self._replies.popitem(last=False)
        return audio_id, expires_at

    def recall(self, owner: bytes, audio_id: str, param: str) -> str:
        """The transcript. Raises ApiError 400 where the id is unknown, has expired, or belongs to another client."""
        reply = self._replies.get(audio_id)
        if reply is None or reply.owner != owner or reply.expires_at < time.time():
            raise bad_request(
                f"'{param}' names no audio that is still stored; send the transcript as content.",
                param,
                "audio_not_found",
            )
        return reply.text


class StopSequenceFilter:
    """Ends a text at the first stop sequence; what may be the beginning of one is held back."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._held = ""
        self.matched = False

    def push(self, text: str) -> str:
        """More text -> what cannot be part of a stop sequence."""
        if self.matched:
            return ""
        text = self._held + text
        matches = [index for stop in self._stops if (index := text.find(stop)) >= 0]
        if matches:
            self.matched, self._held = True, ""
            return text[: min(matches)]
        held = max((self._overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """How many characters at the end of the text may be the beginning of `stop`."""
        return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
