"""Short-lived keys for pages: valid for the Realtime WebSocket only, with the session's settings in them.

Nothing is stored about a key: it carries its settings and its expiry, signed, so that every replica can check it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
import time
import zlib
from typing import Any

PREFIX = "ek_"
_MAX_CHARACTERS = 4096  # a header has to hold it
_SIGNATURE_BYTES = 32


class ClientSecrets:
    """Issues and checks keys. signing_key: shared by the replicas of one server."""

    def __init__(self, signing_key: str) -> None:
        self._key = signing_key.encode()

    def issue(self, session: dict[str, Any], seconds: int) -> tuple[str, int]:
        """A session's settings -> the key and its expiry (Unix time). Raises ValueError where they are too long."""
        expires_at = int(time.time()) + seconds
        content = {"expires_at": expires_at, "session": session, "nonce": secrets.token_hex(8)}
        packed = zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)
        value = PREFIX + base64.urlsafe_b64encode(self._sign(packed) + packed).rstrip(b"=").decode()
        if len(value) > _MAX_CHARACTERS:
            raise ValueError("too many settings for one key")
        return value, expires_at

    def session_of(self, value: str) -> dict[str, Any] | None:
        """The settings in a key; None where it is invalid or has expired. Compares in constant time."""
        encoded = value.removeprefix(PREFIX)
        if encoded == value or len(value) > _MAX_CHARACTERS:
            return None
        try:
            signed = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars="-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        signature, packed = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(packed)):
            return None
        content = json.loads(zlib.decompress(packed))
        session: dict[str, Any] | None = content["session"] if content["expires_at"] > time.time() else None
        return session

    def _sign(self, packed: bytes) -> bytes:
        return hmac.digest(self._key, b"client secret:" + packed, "sha256")
