"""Streamed synthesis of a reply: code frames in, waveform out before the clause is complete."""

from __future__ import annotations

import torch
from torch import Tensor

from .crossfade import Crossfader, sentence_pause
from .segment_stream import SegmentStream, SynthesisModel

FIRST_CHUNK_FRAMES = 4
CHUNK_FRAMES = 16
_NEVER = 1 << 62


class SpeechStream:
    """The audio of one reply: clauses of code frames, joined as `BaichuanAudio.speak` joins them.

        stream = SpeechStream(model)
        for codes in clause: play(stream.push(codes))
        play(stream.end_segment())
        ...
        play(stream.finish())

    Audio is returned whenever an attention chunk of the flow decoder is full. It is also returned early: in the first
    clause at `first_chunk_frames` code frames and each time their number has doubled, and `chunk_frames` after the last
    time. Early audio differs a little from the offline result (docs/streaming.md has the figures); 0 for both returns
    full chunks only, which are exact where `segment_norm` is false. The times depend on the positions of the codes
    only, so the result does not depend on how many are pushed at once.

    Several streams may use one model; each has its own state. Not for use by two threads at a time.
    """

    def __init__(
        self, model: SynthesisModel, first_chunk_frames: int = FIRST_CHUNK_FRAMES, chunk_frames: int = CHUNK_FRAMES
    ) -> None:
        if first_chunk_frames < 0 or chunk_frames < 0:
            raise ValueError("first_chunk_frames and chunk_frames count code frames, 0 or more")
        self._model = model
        self._first_chunk, self._chunk = first_chunk_frames, chunk_frames
        self._attention_chunk = model.flow.config.attention_chunk_frames
        self._crossfader = Crossfader(model.vocoder.sample_rate)
        self._has_started, self._first_clause = False, True  # whether audio of this reply has been returned
        self._new_segment()

    def push(self, codes: Tensor) -> Tensor:
        """The next code frames [K, n] of the clause, n >= 0 -> waveform [S] float32 on the CPU, perhaps empty.

        Raises AudioError for codes of the wrong shape or range. A clause longer than `max_audio_seconds` continues in
        a new segment, as offline.
        """
        pieces = [torch.zeros(0)]
        if codes.shape[-1]:
            self._model.tokenizer.check_codes(codes)
        while codes.shape[-1]:
            stop = min(self._full_at, self._early_at, self._model.tokenizer.config.piece_codes)
            taken = min(stop - self._count, codes.shape[-1])
            self._pending.append(codes[:, :taken])
            codes = codes[:, taken:]
            self._count += taken
            if self._count == stop:
                pieces.append(self._release())
        return torch.cat(pieces)

    def end_segment(self) -> Tensor:
        """End the clause -> the rest of its waveform but for the 10 ms that the next clause fades into."""
        if not self._count:
            return torch.zeros(0)
        samples = self._advance(last=True)
        waveform = torch.cat([self._crossfader.push(samples), self._crossfader.end_segment()])
        self._has_started, self._first_clause = True, False
        self._new_segment()
        return waveform

    def end_sentence(self) -> Tensor:
        """End the clause and the sentence -> the rest of its waveform and a pause."""
        rest = torch.cat([self.end_segment(), self._crossfader.flush()])
        return torch.cat([rest, sentence_pause(self._model.vocoder.sample_rate)])

    def finish(self) -> Tensor:
        """End the reply -> the rest of its waveform, empty without codes; resets the stream."""
        waveform = torch.cat([self.end_segment(), self._crossfader.flush()])
        self._has_started, self._first_clause = False, True
        self._new_segment()
        return waveform

    def _new_segment(self) -> None:
        self._segment: SegmentStream | None = None  # made when its first codes are used
        self._pending: list[Tensor] = []
        self._count = 0  # codes of this segment
        self._full_chunks = 0
        self._plan_full()
        self._plan_early()

    def _plan_full(self) -> None:
        """Set the count of codes at which the next attention chunk is full."""
        frames = (self._full_chunks + 1) * self._attention_chunk
        self._full_at = self._model.tokenizer.decoder.codes_needed(frames)

    def _plan_early(self) -> None:
        """Set the count of codes at which audio is returned although no attention chunk is full."""
        if not self._has_started:
            step = self._first_chunk or self._chunk
        else:
            step = min(self._chunk, self._count) if self._first_clause else self._chunk
        self._early_at = self._count + step if step else _NEVER

    def _release(self) -> Tensor:
        """The samples that the codes so far give."""
        if self._count == self._model.tokenizer.config.piece_codes:
            return self.end_segment()
        early = self._count == self._early_at
        samples = self._advance(early=early)
        self._has_started = True
        if self._count == self._full_at:
            self._full_chunks += 1
            self._plan_full()
        self._plan_early()
        return self._crossfader.push(samples)

    def _advance(self, early: bool = False, last: bool = False) -> Tensor:
        """Pass the pending codes to the segment -> samples."""
        self._segment = self._segment or SegmentStream(self._model)
        codes = torch.cat(self._pending, dim=-1) if self._pending else None
        self._pending = []
        return self._segment.advance(codes, early, last)
