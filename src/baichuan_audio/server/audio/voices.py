"""Names of voices in requests."""

from __future__ import annotations

from ...engine import Engine
from ..errors import bad_request

_NAMES = "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse default"
OPENAI_VOICES = frozenset(_NAMES.split())
"""Names that clients of OpenAI send by default; here each means the model's first voice."""


def choose_voice(engine: Engine, name: str | None, param: str = "voice") -> str | None:
    """A name from a request -> one of the engine's voices; None where none is named. Raises ApiError 400."""
    if name is None or name in engine.voices:
        return name
    if name in OPENAI_VOICES:
        return engine.voices[0]
    known = ", ".join(engine.voices)
    raise bad_request(f"{param}: there is no such voice; this model has {known}.", param, "unknown_voice")
