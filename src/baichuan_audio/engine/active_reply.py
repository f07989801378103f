"""What the worker knows of a dialogue, and of a reply that is being written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .batch import Row
from .history import History, Item
from .reply_stream import Reply
from .synthesis_scheduler import AudioOutput
from .types import Usage


@dataclass(eq=False)
class DialogueState:
    """A dialogue in its slot, as the worker sees it."""

    slot: int
    history: History
    seed: int | None
    replies: int = 0
    waiting: Callable[[], None] | None = None  # a reply that begins when the user's audio has been encoded


@dataclass(eq=False, kw_only=True)
class ActiveReply(Row):
    """A reply being written. header: positions of its prompt before the mark of the reply."""

    reply: Reply
    voice: AudioOutput | None
    header: int
    history: History | None
    item: Item | None
    most_tokens: int | None
    usage: Usage
    text_tokens: int = 0
    frames: int = 0
    frame_seconds: float = 0.08
    said: list[str] = field(default_factory=list)

    def lead(self) -> float:
        """Seconds of sound written that the listener has not heard yet; 0 for a reply without sound."""
        if self.voice is None:
            return 0.0
        return self.frames * self.frame_seconds - self.voice.elapsed()

    def must_wait(self) -> bool:
        """Whether its reader, or its sound, is too far behind."""
        return self.reply.must_wait() or (self.voice is not None and self.voice.must_wait())

    def used(self) -> Usage:
        """Its tokens so far."""
        before = self.usage
        return Usage(
            before.input_text_tokens, before.input_audio_tokens, before.cached_tokens, self.text_tokens, self.frames
        )
