"""The worker's state of a dialogue, and of a reply that is being generated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..batch import BatchRow
from ..history import History, HistoryItem
from ..reply_stream import ReplyStream
from ..synthesis_scheduler import AudioOutput
from ..types import Usage


@dataclass(eq=False)
class DialogueState:
    """A dialogue in its slot, which the base (None) or an adapter answers.

    pending_reply: begins a reply once the user's audio has been encoded.
    """

    slot: int
    history: History
    seed: int | None
    adapter: str | None = None
    replies: int = 0
    pending_reply: Callable[[], None] | None = None

    def next_seed(self) -> int | str | None:
        """The seed of the next reply; None: not repeatable."""
        number, self.replies = self.replies, self.replies + 1
        return f"{self.seed}.{number}" if number and self.seed is not None else self.seed


@dataclass(eq=False, kw_only=True)
class ActiveReply(BatchRow):
    """A reply that is being generated.

    reply_start: position in the sequence of the first control token of the reply, from which its item is kept.
    background: no dialogue waits for it (a transcript), so it pauses while a listener has little audio buffered.
    """

    stream: ReplyStream
    output: AudioOutput | None
    reply_start: int
    history: History | None
    item: HistoryItem | None
    max_tokens: int | None
    prompt_usage: Usage
    background: bool = False
    text_tokens: int = 0
    frames: int = 0
    frame_seconds: float = 0.08
    texts: list[str] = field(default_factory=list)

    def buffered_seconds(self) -> float:
        """Seconds of audio generated that the listener has not heard yet; 0 for a reply without audio."""
        if self.output is None:
            return 0.0
        return self.frames * self.frame_seconds - self.output.elapsed()

    def must_wait(self) -> bool:
        """Whether its reader, or its synthesis, is too far behind."""
        return self.stream.must_wait() or (self.output is not None and self.output.must_wait())

    def at_limit(self) -> bool:
        """Whether it has as many tokens as it may have."""
        return self.max_tokens is not None and self.text_tokens + self.frames >= self.max_tokens

    def usage(self) -> Usage:
        """Its tokens so far."""
        prompt = self.prompt_usage
        return Usage(
            prompt.input_text_tokens, prompt.input_audio_tokens, prompt.cached_tokens, self.text_tokens, self.frames
        )
