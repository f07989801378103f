"""Events of a reply that is being generated.

`TextDelta` and `AudioDelta` are what callers of the model and of the engine receive. The other events pass from a reply
program to the code that turns code frames into sound.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .sequence import Frame


@dataclass(frozen=True)
class TextDelta:
    """More text of a reply; the texts joined are the reply."""

    text: str


@dataclass(frozen=True)
class AudioDelta:
    """More audio of a reply: waveform [S] float32 on the CPU, `sample_rate` in Hz; joined they are the reply."""

    waveform: Tensor
    sample_rate: int


@dataclass(frozen=True)
class FrameDecoded:
    """One code frame has been sampled: its K codes."""

    codes: Frame


@dataclass(frozen=True, eq=False)
class SegmentEnd:
    """An audio segment is complete: codes [K, T], whose frames were yielded one by one."""

    codes: Tensor


@dataclass(frozen=True)
class SentenceEnd:
    """A sentence that is read aloud is complete, and another follows."""


ProgramEvent = TextDelta | SegmentEnd | SentenceEnd
"""What a reply program yields beside its requests."""
DecodedEvent = ProgramEvent | FrameDecoded
"""What running a reply program gives."""
