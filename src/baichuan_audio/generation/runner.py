"""Runs reply programs: passes each result to the program and its events to the caller.

A program (`reply.py`) yields what it wants decoded next. `ProgramRunner` advances one program by one result; the
engine does so for many programs in a batch, `run_program` for a single session.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Generic, Protocol, TypeVar

from .events import DecodedEvent, FrameDecoded, ProgramEvent
from .sequence import DecodeRequest, DecodeResult, FrameRequest, TextRequest

R = TypeVar("R")
Program = Generator[DecodeRequest | ProgramEvent, DecodeResult, R]
"""Yields a request and is sent its result; yields events; returns R."""
ReplyProgram = Program[str | None]
"""Returns why the reply ended: None when the model ended it, "limit", or a reason of `runaway.py`."""


class Decodes(Protocol):
    """Computes the result of a request."""

    def decode(self, request: DecodeRequest) -> DecodeResult: ...


class ProgramRunner(Generic[R]):
    """A program in progress.

    request: what it waits for; None before the first `advance` and after its end. result: what it returned, once it is
    `finished`.
    """

    def __init__(self, program: Program[R]) -> None:
        self._program = program
        self.request: DecodeRequest | None = None
        self.result: R | None = None
        self.finished = False

    def advance(self, result: DecodeResult = None) -> Iterator[DecodedEvent]:
        """Send the result of `request` (None at first) -> the events up to the next request; iterate to the end."""
        if isinstance(result, tuple):
            yield FrameDecoded(result)
        while True:
            try:
                event = self._program.send(result)
            except StopIteration as end:
                self.request, self.result, self.finished = None, end.value, True
                return
            if isinstance(event, (TextRequest, FrameRequest)):
                self.request = event
                return
            result = None
            yield event

    def close(self) -> None:
        """Interrupt the program, which leaves its sequence complete."""
        self._program.close()


def run_program(session: Decodes, program: Program[R]) -> Generator[DecodedEvent, None, R | None]:
    """Run `program` on a session of its own -> its events as they are made; returns what the program returns."""
    runner = ProgramRunner(program)
    try:
        yield from runner.advance()
        while runner.request is not None:
            yield from runner.advance(session.decode(runner.request))
        return runner.result
    finally:
        runner.close()


def run_to_end(session: Decodes, program: Program[R]) -> R:
    """Run `program` on a session of its own -> what it returns; its events are dropped."""
    events = run_program(session, program)
    while True:
        try:
            next(events)
        except StopIteration as end:
            result: R = end.value
            return result
