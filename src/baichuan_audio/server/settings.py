"""Settings of a server: its address, who may use it, and its limits."""

from __future__ import annotations

import ipaddress
import re
import secrets
from dataclasses import dataclass, field, fields
from urllib.parse import urlsplit

from ..errors import ConfigError

_STALLED_S = 20.0
_MIN_SIGNING_KEY = 32
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, who may use it, and its limits.

    api_keys: every request needs one of them; empty: no key is required. allowed_origins: web sites
    (`https://voice.example`, or `*` for all) whose pages may use the server; its own page always may.
    max_message_bytes: of a request's body, or of one WebSocket message. max_audio_seconds: of one piece of audio from a
    client. max_session_seconds: of one session or one HTTP request. idle_seconds: without anything from the client, or
    without its reading anything. max_input_characters: of a text to speech request. model_name: in `/v1/models`.
    log_content: whether user content is logged. signing_key: signs the keys of pages; shared by the replicas of one
    server. Raises ConfigError for invalid values.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_message_bytes: int = 26_214_400
    max_audio_seconds: float = 600.0
    max_session_seconds: float = 3600.0
    idle_seconds: float = 120.0
    max_input_characters: int = 4096
    model_name: str = "baichuan-audio"
    log_content: bool = False
    signing_key: str = field(default_factory=lambda: secrets.token_hex(32), repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            is_limit = name.startswith("max_") or name == "idle_seconds"
            if is_limit and not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be above 0, not {value}.")
        if not 0 <= self.port < 65536:
            raise ConfigError(f"port must lie in 0..65535, not {self.port}.")
        if len(self.signing_key) < _MIN_SIGNING_KEY:
            raise ConfigError(f"signing_key must have at least {_MIN_SIGNING_KEY} characters.")
        if not self.model_name.strip():
            raise ConfigError("model_name must not be empty.")
        for key in self.api_keys:
            if not is_token(key):  # browsers send it as the name of a WebSocket's subprotocol
                raise ConfigError("an API key must consist of ASCII letters, digits and !#$%&'*+-.^_`|~.")
        for origin in self.allowed_origins:
            if origin != "*" and not (urlsplit(origin).scheme and urlsplit(origin).netloc):
                raise ConfigError(f"'{origin}' is not an origin; give scheme and host, such as https://voice.example.")

    @property
    def stalled_seconds(self) -> float:
        """How long a client may read nothing."""
        return min(_STALLED_S, self.idle_seconds)

    @property
    def local_only(self) -> bool:
        """Whether it serves this machine only."""
        return is_loopback(self.host)


def is_token(text: str) -> bool:
    """Whether HTTP calls this a token (RFC 9110), as names of headers and of subprotocols must be."""
    return _TOKEN.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    host = host.strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
