"""Inputs and outputs of the engine: settings, events of a reply, statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..errors import BaichuanAudioError, ConfigError, PromptError
from ..generation.context import MIN_CONTEXT
from ..generation.events import AudioDelta, TextDelta
from ..synthesis import CHUNK_FRAMES, FIRST_CHUNK_FRAMES

Status = Literal["completed", "cancelled", "incomplete", "failed"]


class EngineFull(BaichuanAudioError):
    """Every slot is taken; try again when a dialogue has been closed."""


class EngineStopped(BaichuanAudioError):
    """The engine has not been started, or has been stopped."""


@dataclass(frozen=True)
class EngineConfig:
    """Size and scheduling of one engine.

    max_sessions: slots; one dialogue (or one `speak`) each, another one is rejected with EngineFull.
    max_context: positions a slot holds, no more than the model's max_position_embeddings; 0 = 4096. A dialogue is kept
    within the model's context_length in any case, where config.json has one.
    threads: torch threads of each of the engine's workers; 0 = a third of the cores it may use, at most 4.
    first_chunk_frames, chunk_frames: code frames (80 ms each) after which audio is synthesized, whether or not the flow
    decoder has a full chunk: few at first, for a short time to first audio; 0 = full chunks only.
    prefill_positions: positions of prompts read in one step, so that a long prompt does not delay other replies.
    buffer_seconds: audio and text that a reply may be ahead of its reader before it pauses.
    Raises ConfigError for values out of range.
    """

    max_sessions: int = 8
    max_context: int = 0
    threads: int = 0
    first_chunk_frames: int = FIRST_CHUNK_FRAMES
    chunk_frames: int = CHUNK_FRAMES
    prefill_positions: int = 128
    buffer_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_sessions", "prefill_positions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("max_context", "threads", "first_chunk_frames", "chunk_frames"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        if 0 < self.max_context < MIN_CONTEXT:
            raise ConfigError(f"max_context must be 0 or at least {MIN_CONTEXT}, not {self.max_context}.")
        if not self.buffer_seconds > 0:
            raise ConfigError(f"buffer_seconds must be above 0, not {self.buffer_seconds}.")


@dataclass(frozen=True)
class AudioInput:
    """Audio in a user's turn: waveform [S] (or [channels, S]) at any `sample_rate` in Hz.

    vad: find the speech in it and shorten the silence around it; False: use it as it is.
    """

    waveform: Tensor
    sample_rate: int
    vad: bool = True

    @property
    def seconds(self) -> float:
        """Duration; 0 for an invalid waveform, which encoding will report."""
        return self.waveform.shape[-1] / self.sample_rate if self.waveform.ndim and self.sample_rate > 0 else 0.0


@dataclass(frozen=True)
class TranscriptDelta:
    """More text of a transcript, and the segment of speech it belongs to: start and end in seconds.

    The texts joined are the transcript.
    """

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Usage:
    """Tokens of one reply; an audio token is one code frame.

    Input is the dialogue that the reply answers, `cached_tokens` of which were cached from an earlier reply.
    """

    input_text_tokens: int = 0
    input_audio_tokens: int = 0
    cached_tokens: int = 0
    output_text_tokens: int = 0
    output_audio_tokens: int = 0


@dataclass(frozen=True)
class ReplyDone:
    """The last event of every reply.

    status: "completed"; "cancelled" (reason: the argument of `cancel`, "closed" or "shutdown"); "incomplete" (reason
    "max_output_tokens", or for a runaway reply "repetition" or "audio_overrun"; a runaway reply is left out of the
    dialogue); "failed" (reason: an error message).
    text: all text of the reply. error: the dialogue as it is cannot be answered, so a retry would fail too.
    """

    status: Status
    reason: str | None
    text: str
    usage: Usage
    error: PromptError | None = None


ReplyEvent = TextDelta | AudioDelta | ReplyDone


@dataclass(frozen=True)
class EngineStats:
    """Statistics of one moment; `steps`, `text_tokens`, `audio_frames` and `runaways` only grow.

    runaways: replies that were stopped, by reason (`ReplyDone`).
    """

    active_sessions: int = 0
    slots_free: int = 0
    active_replies: int = 0
    waiting_jobs: int = 0
    last_batch_size: int = 0
    steps: int = 0
    text_tokens: int = 0
    audio_frames: int = 0
    runaways: Mapping[str, int] = field(default_factory=dict)
