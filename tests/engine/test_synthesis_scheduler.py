"""Whose turn it is, without a thread: listeners by how soon they run dry, jobs between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from baichuan_audio.engine import AudioDelta, EngineConfig, ReplyDone, TextDelta, Usage
from baichuan_audio.engine import synthesis_scheduler as sound
from baichuan_audio.engine.synthesis_scheduler import AudioOutput, SynthesisJob, SynthesisPool, encode_in_pieces
from baichuan_audio.errors import AudioError, ConfigError
from baichuan_audio.generation.events import FrameDecoded

FRAME = FrameDecoded((0,) * 8)


class Speech:
    """Gives a tenth of a second for each frame, 10 samples."""

    def push(self, codes: Tensor) -> Tensor:
        return torch.ones(10 * codes.shape[1])

    def end_segment(self) -> Tensor:
        return torch.zeros(0)

    def finish(self) -> Tensor:
        return torch.zeros(5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(sound.time, "monotonic", lambda: now[0])
    return now


def voice(events: list[Any] | None = None, woken: list[int] | None = None) -> AudioOutput:
    speech: Any = Speech()
    deliver = (events if events is not None else []).append
    wake = (woken if woken is not None else []).append
    return AudioOutput(speech, 8, 100, None, deliver, lambda error: None, lambda: wake(1))


def job(steps: int, done: list[Any]) -> SynthesisJob:
    def pieces() -> Iterator[Any]:
        for _ in range(steps - 1):
            yield None
        yield "done"

    return SynthesisJob(pieces(), lambda value, error: done.append((value, error)))


def test_order_of_text_and_sound(clock: list[float]) -> None:
    events: list[Any] = []
    one = voice(events)
    one.put(TextDelta("a, "))
    for _ in range(5):
        one.put(FRAME)
    one.end_segment()
    one.put(TextDelta("b"))
    one.put(FRAME)
    end = ReplyDone("completed", None, "a, b", Usage())
    one.put(end)
    while one.ready(4):
        one.run(3)
    kinds = [event.waveform.shape[0] if isinstance(event, AudioDelta) else event for event in events]
    assert kinds == [TextDelta("a, "), 30, 20, TextDelta("b"), 10, 5, end]
    assert one.ended and not one.ready(4)


def test_words_in_continuous_speech_wait_for_their_sound(clock: list[float]) -> None:
    """Sound that comes three frames at a time is cut where the next words begin; the last come with the end."""

    class Lagging(Speech):
        ahead = 0

        def push(self, codes: Tensor) -> Tensor:
            self.ahead += codes.shape[1]
            frames, self.ahead = self.ahead // 3 * 3, self.ahead % 3
            return torch.ones(10 * frames)

        def finish(self) -> Tensor:
            return torch.ones(10 * self.ahead - 3)

    events: list[Any] = []
    speech: Any = Lagging()
    one = AudioOutput(speech, 8, 100, 10, events.append, lambda error: None, lambda: None)
    for text, frames in (("I", 2), (" am", 2), (" here", 4), (".", 0)):
        one.put(TextDelta(text))
        for _ in range(frames):
            one.put(FRAME)
        one.end_segment()
        while one.ready(4):
            one.run(8)
    told = [len(event.waveform) if isinstance(event, AudioDelta) else event.text for event in events]
    assert told == ["I", 20, " am", 10, 10, " here", 20]
    one.put(ReplyDone("completed", None, "I am here.", Usage()))
    one.run(8)
    told = [len(event.waveform) if isinstance(event, AudioDelta) else event.text for event in events]
    assert told[-3:] == [17, ".", "I am here."] and one.buffered_seconds() == pytest.approx(0.77)


def test_few_frames_are_not_worth_a_turn(clock: list[float]) -> None:
    one = voice()
    for count in range(1, 6):
        one.put(FRAME)
        assert one.ready(4) == (count >= 4)
    one.run(8)
    one.put(FRAME)
    assert one.has_started and not one.ready(4)
    one.put(FRAME)
    assert one.ready(4)
    one.drop()
    assert not one.ready(4)


def test_a_backlog_wakes_who_waits_for_its_end(clock: list[float]) -> None:
    woken: list[int] = []
    one = voice(woken=woken)
    for _ in range(30):
        assert not one.must_wait()
        one.put(FRAME)
        if one._pending > 25:
            break
    assert one.must_wait() and not woken
    one.run(8)
    assert woken == [1] and not one.must_wait()


def test_who_runs_dry_first_goes_first(clock: list[float]) -> None:
    thread = SynthesisPool(4, 8, 1, 1)
    rich, poor, new = voice(), voice(), voice()
    for each, frames in ((rich, 30), (poor, 10)):
        thread.add_output(each)
        for _ in range(frames + 4):
            each.put(FRAME)
        each.run(frames)
    assert [rich.buffered_seconds(), poor.buffered_seconds()] == [3.0, 1.0] and thread._choose() is poor
    thread.add_output(new)
    for _ in range(4):
        new.put(FRAME)
    clock[0] += 0.2
    assert thread._choose() is new  # its listener hears nothing yet
    clock[0] += 10
    new.run(4)
    assert thread._choose() is poor and poor.buffered_seconds() == pytest.approx(-9.2)


def test_jobs_go_between(clock: list[float]) -> None:
    thread, done = SynthesisPool(4, 8, 1, 1), []  # type: ignore[var-annotated]
    first, second = job(2, done), job(1, done)
    thread.add_job(first)
    thread.add_job(second)
    assert thread.waiting == 2
    listener = voice()
    thread.add_output(listener)
    for _ in range(30):
        listener.put(FRAME)
    listener.run(10)
    first.busy = True
    assert thread._choose() is second  # one thread has the first in hand
    first.busy = False
    assert thread._choose() is first  # the listener has a second left
    thread._run_job(first)
    assert thread._choose() is second  # in turn
    clock[0] += 0.8
    assert [thread._choose() for _ in range(4)] == [listener, listener, listener, second]
    thread._run_job(second)
    first.cancelled = True
    assert thread._choose() is listener and done == [("done", None)]


def test_background_jobs_come_after_those_of_dialogues_and_still_end() -> None:
    pool, done = SynthesisPool(4, 8, 1, 1), []  # type: ignore[var-annotated]
    transcript, question = job(1, done), job(1, done)
    transcript.background = True
    pool.add_job(transcript)
    pool.add_job(question)
    assert [pool._choose() for _ in range(12)] == [question] * 12
    assert pool._choose() is transcript  # skipped twelve times
    pool._run_job(question)
    assert pool._choose() is transcript  # nobody else waits


def test_several_threads_never_share_a_voice_or_a_job() -> None:
    threads = SynthesisPool(4, 8, 3, 1)
    inside: set[int] = set()
    heard: list[list[Any]] = [[] for _ in range(5)]
    ended = [threading.Event() for _ in range(8)]

    class Careful(Speech):
        def __init__(self, number: int) -> None:
            self.number, self.next = number, 0

        def push(self, codes: Tensor) -> Tensor:
            assert self.number not in inside
            inside.add(self.number)
            assert codes[0].tolist() == list(range(self.next, self.next + codes.shape[1]))
            self.next += codes.shape[1]
            time.sleep(0.001)
            inside.remove(self.number)
            return super().push(codes)

    def careful_job(number: int) -> Iterator[Any]:
        for _ in range(5):
            assert number not in inside
            inside.add(number)
            time.sleep(0.001)
            inside.remove(number)
            yield None
        yield "done"

    def hear(number: int, event: Any) -> None:
        heard[number].append(event)
        if isinstance(event, ReplyDone):
            ended[number].set()

    def fail(error: Exception) -> None:
        raise AssertionError from error

    threads.start()
    voices = []
    for number in range(5):
        speech: Any = Careful(number)
        voices.append(AudioOutput(speech, 8, 100, None, partial(hear, number), fail, lambda: None))
        threads.add_output(voices[-1])
    for number in range(5, 8):
        threads.add_job(SynthesisJob(careful_job(number), lambda value, error, number=number: ended[number].set()))  # type: ignore[misc]
    for place in range(40):
        for each in voices:
            each.put(FrameDecoded((place,) * 8))
            threads.wake(each)
    for each in voices:
        each.put(ReplyDone("completed", None, "", Usage()))
        threads.wake(each)
    assert all(event.wait(30) for event in ended)
    threads.stop(10)
    assert not threads.alive and threads.waiting == 0
    for events in heard:
        assert sum(event.waveform.shape[0] for event in events[:-1]) == 405


def test_encoding_in_pieces_is_encoding(small: Any) -> None:
    waveform = torch.randn(16000 * 11) * 0.1
    *pauses, codes = encode_in_pieces(small.tokenizer, waveform, 16000)
    assert len(codes) == 2 and len(pauses) > 6 and not any(pauses)
    assert torch.equal(torch.cat(codes, dim=1), small.tokenizer.encode(waveform, 16000))
    with pytest.raises(AudioError):
        list(encode_in_pieces(small.tokenizer, torch.zeros(5), 16000))


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"max_sessions": 0}, {"max_context": 5}, {"threads": -1}, {"chunk_frames": -1},
                  {"prefill_positions": 0}, {"buffer_seconds": 0}):  # fmt: skip
        with pytest.raises(ConfigError):
            EngineConfig(**wrong)
