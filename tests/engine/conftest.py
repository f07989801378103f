"""A small model with short replies, one that says what it is told, and an engine around it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import baichuan_audio
from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.acceleration.cuda.flow import StaticFlow
from baichuan_audio.acceleration.optimize import joined_copy
from baichuan_audio.engine import (
    AudioDelta,
    AudioInput,
    Engine,
    EngineConfig,
    ReplyDone,
    ReplyStream,
    TextDelta,
    batch,
)
from baichuan_audio.engine.batch import DecoderBatch
from baichuan_audio.generation.sequence import TokenSequence

from ..conftest import NEEDS_CUDA


@pytest.fixture(scope="session")
def small(tiny_dir: Path) -> Any:
    """Replies of two segments; two voices; two solver steps."""
    return baichuan_audio.load(tiny_dir, dtype=torch.float32)


@pytest.fixture(params=["batch", "fast", "decoder", pytest.param("cuda", marks=NEEDS_CUDA)])
def pair(small: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A model for sessions that answer alone, and its twin for an engine, whose steps are each of both kinds."""
    if request.param == "batch":
        return small, small
    if request.param == "fast":
        return small, optimize_for_inference(small)
    if request.param == "decoder":
        monkeypatch.setattr(batch, "batch_for", DecoderBatch)
        return small, joined_copy(small, flow=StaticFlow.from_flow(small.flow))
    there = copy.deepcopy(small).to("cuda")
    return there, optimize_for_inference(there)


@asynccontextmanager
async def running(model: Any, **settings: Any) -> AsyncIterator[Engine]:
    """An engine from start to stop, which leaves nothing behind."""
    engine = Engine(model, EngineConfig(**{"max_context": 400, "max_sessions": 4, "threads": 1} | settings))
    engine.start()
    try:
        yield engine
    finally:
        await engine.stop()
        assert not engine._allocator.worker._thread.is_alive() and not engine._allocator.worker.synthesis.alive


def perform(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test on a fresh loop; a hanging one fails."""

    async def bounded() -> None:
        await asyncio.wait_for(test(), 600)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not others

    asyncio.run(bounded())


async def read(reply: ReplyStream) -> tuple[list[Any], ReplyDone]:
    """All events but the last, and the last."""
    events = [event async for event in reply]
    assert isinstance(events[-1], ReplyDone)
    assert not any(isinstance(event, ReplyDone) for event in events[:-1])
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == events[-1].text
    return events[:-1], events[-1]


def seconds(events: Sequence[Any]) -> float:
    return sum(event.waveform.shape[0] / event.sample_rate for event in events if isinstance(event, AudioDelta))


def noise(length: float = 1.0) -> AudioInput:
    samples = torch.randn(int(16000 * length), generator=torch.Generator().manual_seed(0)) * 0.1
    return AudioInput(samples, 16000, vad=False)  # nobody speaks in it


async def quiet(engine: Any) -> None:
    """Until the threads have nothing left to do."""
    worker = engine._allocator.worker
    for _ in range(2000):
        before = worker.steps
        await asyncio.sleep(0.01)
        if worker.steps == before and not worker.synthesis.waiting and worker.commands._commands.empty():
            return
    raise AssertionError("the engine never comes to rest")


class Script:
    """Stands for the drawing of ids and frames: every reply says these clauses, each in so many frames."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.clauses: list[tuple[str, int]] = [("one two,", 6), (" three four,", 7), (" five.", 4)]

    def ids(self, model: Any, hidden: Any, sequences: Sequence[TokenSequence], steps: Any) -> list[int]:
        return [self._id(sequence, step) for sequence, step in zip(sequences, steps, strict=True)]

    def frames(self, head: Any, hidden: Any, cache: Any, sequences: Any, steps: Any) -> list[tuple[int, ...] | None]:
        return [self._frame(sequence) for sequence in sequences]

    def _written(self, sequence: TokenSequence) -> list[Any]:
        """What stands behind the mark of the reply, or behind the sound to transcribe."""
        special, ids = sequence.special, sequence.ids
        begin = special.assistant if special.assistant in ids else special.audio_end
        return sequence.tokens[len(ids) - ids[::-1].index(begin) :]

    def _id(self, sequence: TokenSequence, step: Any) -> int:
        special, written = sequence.special, self._written(sequence)
        done = written.count(special.audiogen_end)
        current = written[len(written) - written[::-1].index(special.audiogen_end) :] if done else written
        if special.audiogen_start in step.suppressed_tokens:
            text = self.tokenizer.encode("".join(text for text, _ in self.clauses))
            return text[len(written)] if len(written) < len(text) else special.end_of_text
        if done == len(self.clauses):
            return int(special.end_of_text)
        text = self.tokenizer.encode(self.clauses[done][0])
        if len(current) < len(text):
            return int(text[len(current)])
        last = done == len(self.clauses) - 1
        return int(special.end_of_text if last and done else special.audiogen_start)

    def _frame(self, sequence: TokenSequence) -> tuple[int, ...] | None:
        special, written = sequence.special, self._written(sequence)
        start = len(written) - written[::-1].index(special.audiogen_start)
        done = written.count(special.audiogen_end)
        if len(written) - start + 1 >= self.clauses[done][1] + 1:
            return None
        return tuple((len(written) + level) % 16 for level in range(8))


@pytest.fixture
def script(small: Any, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Until the test ends, every reply says the script's clauses."""
    told = Script(small.text_tokenizer)
    monkeypatch.setitem(small.config, "reply_sampling", {"stop_runaways": False})
    monkeypatch.setattr(batch, "draw_ids", told.ids)
    monkeypatch.setattr(batch, "draw_frames", told.frames)
    return told
