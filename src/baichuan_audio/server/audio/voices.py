"""Names of voices in requests."""

from __future__ import annotations

from collections.abc import Sequence

from ...engine import Engine
from ..errors import bad_request

_NAMES = "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse default"
OPENAI_VOICES = frozenset(_NAMES.split())
"""Names that clients of OpenAI send by default; here each means the model's first voice."""


def resolve_voice(voices: Sequence[str], name: str) -> str | None:
    """A name from a request -> one of these voices; None where there is no such voice."""
    if name in voices:
        return name
    return voices[0] if name in OPENAI_VOICES else None


def voice_refusal(voices: Sequence[str]) -> str:
    """What follows the field's name in an error."""
    return f"must name a voice of this model: {', '.join(voices)}"


def choose_voice(engine: Engine, name: str | None, param: str = "voice") -> str | None:
    """A name from a request -> one of the engine's voices; None where none is named. Raises ApiError 400."""
    if name is None:
        return None
    voice = resolve_voice(engine.voices, name)
    if voice is None:
        raise bad_request(f"'{param}' {voice_refusal(engine.voices)}.", param, "unknown_voice")
    return voice
