"""Spoken replies that a later request may refer to, and words that end a written one."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from fastapi import Request

from ..access import auth
from ..errors import bad_request

_KEPT_S = 3600
_MOST = 4096


@dataclass(frozen=True)
class _StoredReply:
    owner: bytes
    text: str
    expires_at: int


class ReplyStore:
    """What was said under an audio id: for an hour, the latest 4096, and only for whom it was said (by API key)."""

    def __init__(self) -> None:
        self._replies: OrderedDict[str, _StoredReply] = OrderedDict()

    def owner(self, request: Request) -> bytes:
        """Whom a request comes from, as far as its key tells."""
        return sha256(auth.presented_key(request).encode()).digest()

    def keep(self, owner: bytes, text: str, audio_id: str | None = None) -> tuple[str, int]:
        """Remember a reply -> its audio id and when it expires (Unix time)."""
        audio_id = audio_id or f"audio_{secrets.token_hex(12)}"
        expires_at = int(time.time()) + _KEPT_S
        self._replies[audio_id] = _StoredReply(owner, text, expires_at)
        while len(self._replies) > _MOST:
            self._replies.popitem(last=False)
        return audio_id, expires_at

    def recall(self, owner: bytes, audio_id: str, param: str) -> str:
        """What was said under this id. Raises ApiError 400 when it is unknown, has expired, or is somebody else's."""
        said = self._replies.get(audio_id)
        if said is None or said.owner != owner or said.expires_at < time.time():
            raise bad_request(
                f"{param}: there is no such audio here any more; send the transcript as content.",
                param,
                "audio_not_found",
            )
        return said.text


class StopSequenceFilter:
    """Ends a text where one of `stops` begins; what may be the beginning of one is held back."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """More text -> what is certain now."""
        if self.found:
            return ""
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        held = max((self._beginning(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _beginning(text: str, stop: str) -> int:
        """How many characters at the end of the text may be the beginning of `stop`."""
        return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
