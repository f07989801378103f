"""Many live dialogues on one model: batched, streamed, interruptible (docs/engine.md)."""

from .core import Engine
from .dialogue import Dialogue
from .reply_stream import Reply
from .types import (
    AudioDelta,
    AudioInput,
    EngineConfig,
    EngineFull,
    EngineStats,
    EngineStopped,
    ReplyDone,
    ReplyEvent,
    TextDelta,
    TranscriptDelta,
    Usage,
)

__all__ = [
    "AudioDelta",
    "AudioInput",
    "Dialogue",
    "Engine",
    "EngineConfig",
    "EngineFull",
    "EngineStats",
    "EngineStopped",
    "Reply",
    "ReplyDone",
    "ReplyEvent",
    "TextDelta",
    "TranscriptDelta",
    "Usage",
]
