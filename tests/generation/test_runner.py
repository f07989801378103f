"""The driver of reply programs, which sessions and the engine share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baichuan_audio.generation.events import FrameDecoded, SegmentEnd, TextDelta
from baichuan_audio.generation.runner import Program, ProgramRunner, run_program, run_to_end
from baichuan_audio.generation.sequence import DecodeRequest, DecodeResult, FrameRequest, TextRequest
from baichuan_audio.language_model.sampling import Sampling

TEXT, FRAME = TextRequest(Sampling()), FrameRequest(Sampling())
CODES = torch.tensor([[1], [2]])


def program(closed: list[str]) -> Program[str]:
    """An id, a frame and the end of audio, with events between."""
    try:
        id = yield TEXT
        yield TextDelta(str(id))
        frame = yield FRAME
        assert frame == (1, 2)
        end = yield FRAME
        assert end is None
        yield SegmentEnd(CODES)
        return "limit"
    finally:
        closed.append("closed")


class Scripted:
    def __init__(self, *results: Any) -> None:
        self.results, self.requests = list(results), list[DecodeRequest]()

    def decode(self, request: DecodeRequest) -> DecodeResult:
        self.requests.append(request)
        result: DecodeResult = self.results.pop(0)
        return result


def test_events_come_in_order_and_each_request_is_answered_once() -> None:
    session, events, ending = Scripted(7, (1, 2), None), list[Any](), None
    run = run_program(session, program([]))
    while True:
        try:
            events.append(next(run))
        except StopIteration as end:
            ending = end.value
            break
    assert events[:2] == [TextDelta("7"), FrameDecoded((1, 2))]
    assert isinstance(events[2], SegmentEnd) and events[2].codes is CODES and len(events) == 3
    assert ending == "limit" and session.requests == [TEXT, FRAME, FRAME]
    assert run_to_end(Scripted(7, (1, 2), None), program([])) == "limit"


def test_a_runner_shows_what_it_waits_for() -> None:
    runner = ProgramRunner(program([]))
    assert runner.request is None and not list(runner.advance()) and runner.request is TEXT
    assert list(runner.advance(7)) == [TextDelta("7")] and runner.request is FRAME
    assert list(runner.advance((1, 2))) == [FrameDecoded((1, 2))] and not runner.finished
    assert len(list(runner.advance(None))) == 1
    assert runner.finished and runner.request is None and runner.result == "limit"


@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupted_run_closes_its_program(count: int) -> None:
    closed: list[str] = []
    run = run_program(Scripted(7, (1, 2), None), program(closed))
    for _ in range(count):
        next(run)
    assert not closed
    run.close()
    assert closed == ["closed"]
