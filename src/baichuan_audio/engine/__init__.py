"""Many live dialogues on one model: batched, streamed, interruptible (docs/engine.md)."""

from ..generation.events import AudioDelta, TextDelta
from .core import Engine
from .dialogue import Dialogue
from .reply_stream import ReplyStream
from .types import (
    AudioInput,
    EngineConfig,
    EngineFull,
    EngineStats,
    EngineStopped,
    ReplyDone,
    ReplyEvent,
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
    "ReplyDone",
    "ReplyEvent",
    "ReplyStream",
    "TextDelta",
    "TranscriptDelta",
    "Usage",
]
