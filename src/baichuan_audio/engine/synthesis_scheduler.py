"""The synthesis threads: codes to waveform for replies, waveform to codes for user audio.

They are separate from the thread that runs the language model (`worker/`): a step of the batch is many small
operations, a chunk of audio or a layer of the encoder a few large ones, and torch releases the GIL while it computes.
So the batch runs on one core while audio is synthesized on another, and neither waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..audio_tokenizer.model import AudioTokenizer
from ..generation.events import AudioDelta, FrameDecoded, SentenceEnd, TextDelta
from ..generation.sequence import Frame, frames_to_codes
from ..synthesis import SpeechStream
from .types import ReplyDone, ReplyEvent

_MIN_FRAMES = 2  # least frames of a chunk after the first audio of a reply
_MAX_PENDING_FRAMES = 25  # more frames without audio pause generation
_JOB_MIN_BUFFER_S = 0.5  # a job has priority over outputs with more buffered audio
_MAX_SKIPS = {"output": float("inf"), "job": 3, "background": 12}
"""Kinds of work, the most urgent first, and the turns for which each may be skipped. Nobody waits for background."""


@dataclass
class _Segment:
    """Frames of an audio segment that are not synthesized yet."""

    frames: list[Frame] = field(default_factory=list)
    closed: bool = False


class AudioOutput:
    """The output of one reply, text and audio in order, and how much of it is buffered for the listener.

    The language model's thread puts events in, a synthesis thread takes them out. frame_samples: samples of a code
    frame where speech is continuous (`BaichuanAudio.continuous_speech`), else None; continuous audio lags behind its
    frames, so a text waits until its audio begins. deliver: passes an event to the reader. on_failure: called when
    synthesis fails. wake: called when generation may resume after a pause.
    """

    def __init__(
        self,
        speech: SpeechStream,
        num_codebooks: int,
        sample_rate: int,
        frame_samples: int | None,
        deliver: Callable[[ReplyEvent], None],
        on_failure: Callable[[Exception], None],
        wake: Callable[[], None],
    ) -> None:
        self._speech, self._num_codebooks, self._sample_rate = speech, num_codebooks, sample_rate
        self._frame_samples = frame_samples
        self._deliver, self.on_failure, self._wake = deliver, on_failure, wake
        self._pending, self._pausing = 0, False  # frames without audio; whether generation pauses for them
        self._entries: deque[TextDelta | _Segment | SentenceEnd | ReplyDone] = deque()
        self._texts: deque[tuple[int, TextDelta]] = deque()  # texts before their audio, and the sample where it begins
        self._frames = self._samples = 0  # synthesized; delivered
        self._created = time.monotonic()
        self._first_audio: float | None = None  # on the same clock
        self.ended = self.busy = False
        self.lock = threading.Lock()

    def put(self, entry: TextDelta | FrameDecoded | SentenceEnd | ReplyDone) -> None:
        """Add text, a code frame, the end of a sentence or of the reply."""
        with self.lock:
            last = self._entries[-1] if self._entries else None
            if not isinstance(entry, FrameDecoded):
                if isinstance(last, _Segment):
                    last.closed = True
                self._entries.append(entry)
                return
            if not isinstance(last, _Segment) or last.closed:
                last = _Segment()
                self._entries.append(last)
            last.frames.append(entry.codes)
            self._pending += 1

    def end_segment(self) -> None:
        """The audio segment is complete."""
        with self.lock:
            last = self._entries[-1] if self._entries else None
            if not isinstance(last, _Segment) or last.closed:
                last = _Segment()
                self._entries.append(last)
            last.closed = True

    def drop(self) -> None:
        """Deliver nothing more."""
        with self.lock:
            self.ended = True
            self._entries.clear()

    def must_wait(self) -> bool:
        """Whether so many frames are pending that generation should pause; if so `wake` is called later."""
        with self.lock:
            self._pausing = self._pending > _MAX_PENDING_FRAMES
            return self._pausing

    def elapsed(self) -> float:
        """Seconds since the first audio; 0 before."""
        return 0.0 if self._first_audio is None else time.monotonic() - self._first_audio

    def buffered_seconds(self) -> float:
        """Seconds of audio left for a listener who plays from the first audio on; negative: seconds of silence."""
        if self._first_audio is None:
            return self._created - time.monotonic()
        return self._samples / self._sample_rate - self.elapsed()

    @property
    def has_started(self) -> bool:
        """Whether any audio has been delivered."""
        return self._first_audio is not None

    def ready(self, first_frames: int) -> bool:
        """Whether `run` would deliver something."""
        with self.lock:
            if self.ended or not self._entries:
                return False
            head = self._entries[0]
            min_frames = _MIN_FRAMES if self.has_started else max(first_frames, 1)
            return not isinstance(head, _Segment) or head.closed or len(head.frames) >= min_frames

    def run(self, max_frames: int) -> None:
        """Deliver the next text, or the audio of up to `max_frames` frames."""
        with self.lock:
            if self.ended or not self._entries:
                return
            head = self._entries[0]
            if isinstance(head, _Segment):
                frames, head.frames = head.frames[:max_frames], head.frames[max_frames:]
                self._pending -= len(frames)
                closes = head.closed and not head.frames
            if not isinstance(head, _Segment) or closes:
                self._entries.popleft()
            wake = self._pausing and self._pending <= _MAX_PENDING_FRAMES
        if wake:
            self._wake()
        if isinstance(head, TextDelta):
            self._texts.append((self._frames * (self._frame_samples or 0), head))
            self._deliver_audio(torch.zeros(0))
        elif isinstance(head, _Segment):
            self._frames += len(frames)
            self._deliver_audio(self._speech.push(frames_to_codes(frames, self._num_codebooks)))
            if closes and self._frame_samples is None:
                self._deliver_audio(self._speech.end_segment())
        elif isinstance(head, SentenceEnd):
            speech, continuous = self._speech, self._frame_samples is not None
            self._deliver_audio(speech.end_sentence() if continuous else speech.end_segment())
        else:
            self._deliver_audio(self._speech.finish())
            for _, text in self._texts:
                self._deliver(text)
            self.ended = True
            self._deliver(head)

    def _deliver_audio(self, waveform: Tensor) -> None:
        """Deliver audio, and each pending text before the sample where its audio begins."""
        while self._texts and self._texts[0][0] <= self._samples + waveform.shape[0] and not self.ended:
            start, text = self._texts.popleft()
            before, waveform = waveform.tensor_split([max(0, start - self._samples)])
            self._deliver_waveform(before)
            self._deliver(text)
        self._deliver_waveform(waveform)

    def _deliver_waveform(self, waveform: Tensor) -> None:
        if waveform.shape[0] and not self.ended:
            if self._first_audio is None:
                self._first_audio = time.monotonic()
            self._samples += waveform.shape[0]
            with torch.inference_mode(False):  # a normal tensor, which readers may modify
                waveform = waveform.clone()
            self._deliver(AudioDelta(waveform, self._sample_rate))


@dataclass(eq=False)
class SynthesisJob:
    """Work in bounded pieces: each `next` is one; `done` gets the result of the last, or the exception.

    background: no dialogue waits for it, so those of dialogues come first.
    """

    pieces: Iterator[Any]
    done: Callable[[Any, Exception | None], None]
    background: bool = False
    cancelled: bool = False
    busy: bool = False


class SynthesisPool:
    """`count` threads that run outputs and jobs, each of them in one thread at a time.

    The output with the least buffered audio comes first; jobs when every output has half a second buffered. A job that
    was skipped three times runs in any case, so that it ends under any load; jobs alternate. Background jobs come after
    both, and run in any case when they were skipped twelve times.
    """

    def __init__(self, first_chunk_frames: int, chunk_frames: int, count: int, torch_threads: int) -> None:
        self._first_chunk, self._max_chunk = first_chunk_frames, max(chunk_frames, 4)
        self._torch_threads = torch_threads
        self._outputs: list[AudioOutput] = []
        self._jobs: list[SynthesisJob] = []
        self._condition = threading.Condition()
        self._stopped = False
        self._skips = dict.fromkeys(_MAX_SKIPS, 0)
        self._threads = [
            threading.Thread(target=self._run, name=f"baichuan-audio synthesis {number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """End after the current work; blocks."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether any of the threads is still running."""
        return any(thread.is_alive() for thread in self._threads)

    def add_output(self, output: AudioOutput) -> None:
        with self._condition:
            self._outputs.append(output)

    def add_job(self, job: SynthesisJob) -> None:
        with self._condition:
            self._jobs.append(job)
            self._condition.notify()

    def wake(self, output: AudioOutput) -> None:
        """Notify a thread that something has been put into `output`."""
        if output.ready(self._first_chunk):
            with self._condition:
                self._condition.notify()

    @property
    def waiting(self) -> int:
        """Number of unfinished jobs, and of outputs that have something to deliver."""
        return len(self._jobs) + sum(output.ready(self._first_chunk) for output in list(self._outputs))

    @property
    def active_outputs(self) -> int:
        """Number of outputs that have not ended."""
        return sum(not output.ended for output in list(self._outputs))

    @torch.inference_mode()
    def _run(self) -> None:
        torch.set_num_threads(self._torch_threads)
        while True:
            with self._condition:
                chosen = self._choose()
                while chosen is None and not self._stopped:
                    self._condition.wait()
                    chosen = self._choose()
                if chosen is None or self._stopped:
                    return
                chosen.busy = True
            if isinstance(chosen, AudioOutput):
                self._run_output(chosen)
            else:
                self._run_job(chosen)
            with self._condition:
                chosen.busy = False
                self._condition.notify()  # the rest may be another thread's

    def _choose(self) -> AudioOutput | SynthesisJob | None:
        """The output or job to run next."""
        self._outputs = [output for output in self._outputs if not output.ended]
        self._jobs = [job for job in self._jobs if not job.cancelled]
        ready = [output for output in self._outputs if not output.busy and output.ready(self._first_chunk)]
        output = min(ready, key=AudioOutput.buffered_seconds, default=None)
        jobs = [job for job in self._jobs if not job.busy]
        first: dict[str, AudioOutput | SynthesisJob | None] = {
            "output": output,
            "job": next((job for job in jobs if not job.background), None),
            "background": next((job for job in jobs if job.background), None),
        }
        waiting = [kind for kind in _MAX_SKIPS if first[kind] is not None]
        if output is not None and output.buffered_seconds() > _JOB_MIN_BUFFER_S:
            waiting.append(waiting.pop(0))  # an output that has enough for now comes last
        overdue = [kind for kind in waiting if self._skips[kind] >= _MAX_SKIPS[kind]]
        chosen = next(iter([*reversed(overdue), *waiting]), "output")
        for kind in waiting:
            self._skips[kind] = 0 if kind == chosen else self._skips[kind] + 1
        return first[chosen]

    def _run_output(self, output: AudioOutput) -> None:
        try:
            output.run(self._max_chunk)
        except Exception as error:
            output.drop()
            output.on_failure(error)

    def _run_job(self, job: SynthesisJob) -> None:
        """Run one piece of a job, which then is last in the queue."""
        result, failure = None, None
        try:
            result = next(job.pieces)
        except Exception as error:
            failure = error
        with self._condition:
            if job in self._jobs:
                self._jobs.remove(job)
                if result is None and failure is None:
                    self._jobs.append(job)
        if result is not None or failure is not None:
            job.done(result, failure)


def encode_in_pieces(tokenizer: AudioTokenizer, waveform: Tensor, sample_rate: int) -> Iterator[list[Tensor] | None]:
    """`AudioTokenizer.encode` in steps: yields None after each stage and layer, last the codes [K, T] of each piece.

    Raises AudioError as `encode` does.
    """
    codes: list[Tensor] = []
    for piece in tokenizer.pieces(waveform, sample_rate):
        yield None
        log_mel = tokenizer.log_mel(piece, tokenizer.config.sampling_rate)[None]
        yield None
        features = log_mel
        for stage in tokenizer.encoder.layerwise(log_mel.to(tokenizer.encoder.conv1.weight.dtype)):
            features = stage
            yield None
        codes.append(tokenizer.quantize(features[0]).cpu())
    yield codes
