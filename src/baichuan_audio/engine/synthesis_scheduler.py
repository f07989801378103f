"""The threads of sound: codes to waveform for those who listen, waveform to codes for what they said.

They stand beside the thread that runs the language model (`worker.py`), because the two take turns badly: a step of the
batch is many small operations, a chunk of sound or a layer of the encoder a few large ones, and torch lets the other
threads run while it computes. So the batch flows on one core while sound is made on another, and neither waits.
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
from ..generation.sequence import Frame, SentenceEnd, frames_to_codes
from ..synthesis import SpeechStream
from .types import AudioDelta, ReplyDone, ReplyEvent, TextDelta

_MIN_FRAMES = 2  # frames that are worth a turn once a reply sounds
_BACKLOG = 25  # frames without sound, above which no more are written
_JOB_LEAD = 0.5  # seconds: a job goes before listeners who have more than that left
_MAX_SKIPS = 3  # turns that may pass a waiting job by


@dataclass
class _Clause:
    """Frames of an audio segment that wait for their sound."""

    frames: list[Frame] = field(default_factory=list)
    closed: bool = False


class AudioOutput:
    """What one reply gives out, text and sound in order, and how far ahead of its listener it is.

    The language model's thread puts in, the sound thread takes out. `frame_samples`: of a code frame, where the audio
    segments are one stretch of sound (`BaichuanAudio.continuous_speech`), else None; such sound lags behind its
    frames, so a text waits until its own begins. `deliver` hands an event to the reader; `on_failure` is told when the
    sound cannot be made, `wake` when a backlog that kept the other waiting is gone.
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
        self._pending, self._awaited = 0, False  # frames without sound; whether the other thread waits for them
        self._entries: deque[str | _Clause | SentenceEnd | ReplyDone] = deque()
        self._texts: deque[tuple[int, str]] = deque()  # those that wait for their sound, and the sample it begins at
        self._frames = self._samples = 0  # put into sound; given out
        self._begun = time.monotonic()
        self._first_sound: float | None = None  # on the same clock
        self.ended = self.busy = False
        self.lock = threading.Lock()

    def put(self, entry: str | Frame | SentenceEnd | ReplyDone) -> None:
        """Add text, a code frame, the end of a sentence or of the reply."""
        with self.lock:
            last = self._entries[-1] if self._entries else None
            if not isinstance(entry, tuple):
                if isinstance(last, _Clause):
                    last.closed = True
                self._entries.append(entry)
                return
            if not isinstance(last, _Clause) or last.closed:
                last = _Clause()
                self._entries.append(last)
            last.frames.append(entry)
            self._pending += 1

    def end_segment(self) -> None:
        """The audio segment is complete."""
        with self.lock:
            last = self._entries[-1] if self._entries else None
            if not isinstance(last, _Clause) or last.closed:
                last = _Clause()
                self._entries.append(last)
            last.closed = True

    def drop(self) -> None:
        """Nothing more shall come out."""
        with self.lock:
            self.ended = True
            self._entries.clear()

    def must_wait(self) -> bool:
        """Whether so many frames wait for their sound that writing should pause; if so `wake` follows."""
        with self.lock:
            self._awaited = self._pending > _BACKLOG
            return self._awaited

    def elapsed(self) -> float:
        """Seconds since its first sound; 0 before."""
        return 0.0 if self._first_sound is None else time.monotonic() - self._first_sound

    def lead(self) -> float:
        """Seconds until the listener runs dry, were it played from the first on; negative: so long is there silence."""
        if self._first_sound is None:
            return self._begun - time.monotonic()
        return self._samples / self._sample_rate - self.elapsed()

    @property
    def sounds(self) -> bool:
        """Whether any sound has been given out."""
        return self._first_sound is not None

    def ready(self, first_frames: int) -> bool:
        """Whether a turn of the sound thread would give something out."""
        with self.lock:
            if self.ended or not self._entries:
                return False
            head = self._entries[0]
            least = _MIN_FRAMES if self.sounds else max(first_frames, 1)
            return not isinstance(head, _Clause) or head.closed or len(head.frames) >= least

    def turn(self, most: int) -> None:
        """Give out the text that is due, or the sound of up to `most` frames."""
        with self.lock:
            if self.ended or not self._entries:
                return
            head = self._entries[0]
            if isinstance(head, _Clause):
                frames, head.frames = head.frames[:most], head.frames[most:]
                self._pending -= len(frames)
                closes = head.closed and not head.frames
            if not isinstance(head, _Clause) or closes:
                self._entries.popleft()
            wake = self._awaited and self._pending <= _BACKLOG
        if wake:
            self._wake()
        if isinstance(head, str):
            self._texts.append((self._frames * (self._frame_samples or 0), head))
            self._give(torch.zeros(0))
        elif isinstance(head, _Clause):
            self._frames += len(frames)
            self._give(self._speech.push(frames_to_codes(frames, self._num_codebooks)))
            if closes and self._frame_samples is None:
                self._give(self._speech.end_segment())
        elif isinstance(head, SentenceEnd):
            speech, continuous = self._speech, self._frame_samples is not None
            self._give(speech.end_sentence() if continuous else speech.end_segment())
        else:
            self._give(self._speech.finish())
            for _, text in self._texts:
                self._deliver(TextDelta(text))
            self.ended = True
            self._deliver(head)

    def _give(self, waveform: Tensor) -> None:
        """Sound, and each text that waits before the sample where its own begins."""
        while self._texts and self._texts[0][0] <= self._samples + waveform.shape[0] and not self.ended:
            place, text = self._texts.popleft()
            before, waveform = waveform.tensor_split([max(0, place - self._samples)])
            self._sound(before)
            self._deliver(TextDelta(text))
        self._sound(waveform)

    def _sound(self, waveform: Tensor) -> None:
        if waveform.shape[0] and not self.ended:
            if self._first_sound is None:
                self._first_sound = time.monotonic()
            self._samples += waveform.shape[0]
            with torch.inference_mode(False):  # a plain tensor, for readers to do with as they like
                waveform = waveform.clone()
            self._deliver(AudioDelta(waveform, self._sample_rate))


@dataclass(eq=False)
class SynthesisJob:
    """Work in bounded pieces: each `next` is one; `done` gets the result of the last, or what was raised."""

    pieces: Iterator[Any]
    done: Callable[[Any, Exception | None], None]
    cancelled: bool = False
    busy: bool = False


class SynthesisPool:
    """`count` threads that take turns between voices and jobs, each voice or job in one of them at a time.

    The voice whose listener runs dry first comes first; jobs when every listener has half a second left. A job that
    has been passed by three times gets a turn all the same, so that it ends under any load; jobs take turns.
    """

    def __init__(self, first_chunk_frames: int, chunk_frames: int, count: int, torch_threads: int) -> None:
        self._first, self._most, self._torch_threads = first_chunk_frames, max(chunk_frames, 4), torch_threads
        self._voices: list[AudioOutput] = []
        self._jobs: list[SynthesisJob] = []
        self._condition = threading.Condition()
        self._stopped = False
        self._passed = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"baichuan-audio sound {number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """End after the turns under way; blocks."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether any of the threads is still at work."""
        return any(thread.is_alive() for thread in self._threads)

    def add_voice(self, voice: AudioOutput) -> None:
        with self._condition:
            self._voices.append(voice)

    def add_job(self, job: SynthesisJob) -> None:
        with self._condition:
            self._jobs.append(job)
            self._condition.notify()

    def wake(self, voice: AudioOutput) -> None:
        """Something has been put into `voice`."""
        if voice.ready(self._first):
            with self._condition:
                self._condition.notify()

    @property
    def waiting(self) -> int:
        """Jobs not done, and voices with something to say."""
        return len(self._jobs) + sum(voice.ready(self._first) for voice in list(self._voices))

    @property
    def voices(self) -> int:
        """Voices that have not come to their end."""
        return sum(not voice.ended for voice in list(self._voices))

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
                self._sound(chosen)
            else:
                self._work(chosen)
            with self._condition:
                chosen.busy = False
                self._condition.notify()  # what is left may be another thread's

    def _choose(self) -> AudioOutput | SynthesisJob | None:
        """Who has the next turn."""
        self._voices = [voice for voice in self._voices if not voice.ended]
        self._jobs = [job for job in self._jobs if not job.cancelled]
        ready = [voice for voice in self._voices if not voice.busy and voice.ready(self._first)]
        voice = min(ready, key=AudioOutput.lead, default=None)
        job = next((job for job in self._jobs if not job.busy), None)
        if job is not None and (voice is None or voice.lead() > _JOB_LEAD or self._passed >= _MAX_SKIPS):
            self._passed = 0
            return job
        self._passed += job is not None
        return voice

    def _sound(self, voice: AudioOutput) -> None:
        try:
            voice.turn(self._most)
        except Exception as error:
            voice.drop()
            voice.on_failure(error)

    def _work(self, job: SynthesisJob) -> None:
        """One piece of a job, which then stands last."""
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
    """`AudioTokenizer.encode`, pausing (None) after each stage and encoder layer; last the codes [K, T] of each piece.

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
