"""What the engine survives: long dialogues, slow readers, a full house, leaks, failures, bad input, its own end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from baichuan_audio.engine import AudioInput, Engine, EngineConfig, EngineFull, EngineStopped, TextDelta
from baichuan_audio.engine import synthesis_scheduler as sound
from baichuan_audio.errors import AudioError, PromptError, PromptTooLongError

from .conftest import Script, noise, perform, quiet, read, running, seconds


def test_a_long_dialogue_forgets_and_never_fails(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small, max_context=160) as engine:
            dialogue = engine.open()
            for turn in range(6):
                await dialogue.add_user([f"question {turn}"])
                _, done = await read(dialogue.reply())
                assert done.status == "completed", done
            assert any(item.dropped for item in dialogue._state.history.items)
            with pytest.raises(PromptTooLongError, match="can be answered"):
                await dialogue.add_user(["x" * 500])
            script.clauses = [("one,", 400)]
            await dialogue.add_user(["last"])
            _, done = await read(dialogue.reply())
            assert (done.status, done.reason) == ("incomplete", "max_output_tokens")
            dialogue.configure(system="s" * 500)
            _, done = await read(dialogue.reply())
            assert (
                done.status == "failed"
                and isinstance(done.error, PromptTooLongError)
                and "system text" in (done.reason or "")
            )

    perform(test)


def test_slow_reader_waits_alone(small: Any, script: Script) -> None:
    script.clauses = [("one,", 120)]

    async def test() -> None:
        async with running(small, buffer_seconds=1.0) as engine:
            slow, quick = engine.open(), engine.open()
            await slow.add_user(["Count"])
            await quick.add_user(["Count"])
            waiting = slow.reply()
            events, done = await read(quick.reply())
            assert done.status == "completed" and seconds(events) > 9
            await quiet(engine)
            steps = engine.stats().steps
            await asyncio.sleep(0.1)
            assert engine.stats().steps == steps  # nobody spins
            assert engine._allocator.worker.replies.rows[0].frames < 80
            events, done = await read(waiting)
            assert done.status == "completed" and seconds(events) > 9

    perform(test)


def test_transcripts_pause_while_a_listener_waits(small: Any) -> None:
    """Rows of the background are left out of at most eight steps in a row."""
    worker = Engine(small, EngineConfig(max_sessions=1, threads=1))._allocator.worker

    def row(background: bool, buffered: float) -> Any:
        return SimpleNamespace(
            background=background,
            must_wait=lambda: False,
            buffered_seconds=lambda: buffered,
            stream=SimpleNamespace(abandoned=False),
        )

    transcript, listener = row(True, 0.0), row(False, 0.2)
    worker.replies.rows = [transcript, listener]
    steps = [worker._due() for _ in range(18)]
    assert steps == ([[listener]] * 8 + [[transcript, listener]]) * 2
    worker.replies.rows = [transcript, row(False, 2.0)]
    assert worker._due() == worker.replies.rows  # the listener has enough
    worker.replies.rows = [transcript]
    assert worker._due() == [transcript]


def test_full_house_and_closing_frees_at_once(small: Any, script: Script) -> None:
    script.clauses = [("one,", 250)]

    async def test() -> None:
        async with running(small, max_sessions=2) as engine:
            first, second = engine.open(), engine.open()
            with pytest.raises(EngineFull):
                engine.open()
            with pytest.raises(EngineFull):
                await anext(engine.speak("hello"))
            with pytest.raises(EngineFull):
                await anext(engine.transcribe(noise().waveform, 16000))
            await first.add_user(["Count"])
            reply = first.reply()
            assert isinstance(await anext(reply), TextDelta)
            with pytest.raises(PromptError):
                first.reply()
            await first.close()
            await first.close()
            third = engine.open()
            assert [event async for event in reply][-1].reason == "closed"
            with pytest.raises(PromptError):
                first.reply()
            with pytest.raises(PromptError):
                await first.add_user(["x"])
            script.clauses = [("yes", 3)]
            await third.add_user(["Now?"])
            assert (await read(third.reply()))[1].status == "completed"
            await second.close()
            assert engine.stats().slots_free == 1 and engine.stats().active_sessions == 1

    perform(test)


def test_nothing_leaks(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small) as engine:

            async def visit(number: int) -> None:
                dialogue = engine.open()
                adding = asyncio.create_task(dialogue.add_user([noise(0.3)]))
                if number % 3 == 0:
                    await asyncio.sleep(0)
                    adding.cancel()
                await asyncio.gather(adding, return_exceptions=True)
                reply = dialogue.reply()
                if number % 3 == 1:
                    await anext(reply)
                elif number % 3 == 2:
                    await read(reply)
                await dialogue.close()

            for start in range(0, 12, 4):
                await asyncio.gather(*(visit(number) for number in range(start, start + 4)))
            await quiet(engine)
            worker = engine._allocator.worker
            worker.commands.post(worker.replies.discard_settled)
            await quiet(engine)
            assert (
                engine.stats().slots_free == 4
                and not worker.replies.rows
                and not worker.replies._finished
                and not worker.replies._waiting
            )
            assert not worker.commands._futures and not worker.synthesis.waiting
            assert worker.synthesis.active_outputs == 0

    perform(test)


def test_stopping_ends_all(small: Any, script: Script) -> None:
    script.clauses = [("one,", 300)]

    async def test() -> None:
        async with running(small) as engine:
            dialogues = [engine.open() for _ in range(3)]
            for dialogue in dialogues:
                await dialogue.add_user(["Count"])
            replies = [dialogue.reply() for dialogue in dialogues[:2]]
            await anext(replies[0])
            adding = asyncio.create_task(dialogues[2].add_user([noise(9.0)]))
            await asyncio.sleep(0)
            await engine.stop()
            for reply in replies:
                last = [event async for event in reply][-1]
                assert (last.status, last.reason) == ("cancelled", "shutdown")
            with pytest.raises(EngineStopped):
                await adding
            with pytest.raises(EngineStopped):
                engine.open()
            with pytest.raises(EngineStopped):
                dialogues[0].reply()
            await dialogues[0].close()
            with pytest.raises(EngineStopped):
                engine.start()

    perform(test)


def test_failure_of_one_leaves_the_others_unharmed(small: Any, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = sound.AudioOutput.run

    def turn(self: Any, most: int) -> None:
        if getattr(self, "doomed", False):
            raise RuntimeError("no sound today")
        broken(self, most)

    monkeypatch.setattr(sound.AudioOutput, "run", turn)

    async def test() -> None:
        async with running(small) as engine:
            dialogues = [engine.open() for _ in range(3)]
            for dialogue in dialogues:
                await dialogue.add_user(["Count"])
            replies = engine._allocator.worker.replies
            build = replies._audio_output

            def voice(reply: Any) -> Any:
                made = build(reply)
                made.doomed = reply is doomed
                return made

            replies._audio_output = voice  # type: ignore[method-assign]
            doomed: Any = None
            streams = []
            for number, dialogue in enumerate(dialogues):
                reply = dialogue.reply()
                doomed = reply if number == 0 else doomed
                streams.append(reply)
            results = await asyncio.gather(*map(read, streams))
            assert [done.status for _, done in results] == ["failed", "completed", "completed"]
            assert results[0][1].reason == "internal error (RuntimeError)" and results[0][1].error is None
            monkeypatch.setattr(replies, "_audio_output", build)
            program = dialogues[1]._program
            dialogues[1]._program = lambda *_: _broken_program()  # type: ignore[method-assign]
            results = await asyncio.gather(*(read(dialogue.reply()) for dialogue in dialogues))
            assert [done.status for _, done in results] == ["completed", "failed", "completed"]
            dialogues[1]._program = program  # type: ignore[method-assign]
            assert (await read(dialogues[1].reply()))[1].status == "completed"

    perform(test)


def _broken_program() -> Any:
    raise RuntimeError("no program today")
    yield


def test_bad_input_leaves_the_dialogue_as_it_was(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small) as engine:
            dialogue = engine.open()
            for wrong in ([], [""], ["\ud800"]):
                with pytest.raises(PromptError):
                    await dialogue.add_user(wrong)
            for waveform in (torch.zeros(0), torch.zeros(100), torch.full((16000,), float("nan"))):
                with pytest.raises(AudioError):
                    await dialogue.add_user([AudioInput(waveform, 16000)])
            await quiet(engine)
            assert dialogue._state.history.items == []
            for system, voice in ((None, "Nobody"), ("x", "【")):
                with pytest.raises(PromptError):
                    engine.open(system, voice)
            with pytest.raises(PromptError):
                await anext(engine.speak("  "))
            assert engine.stats().slots_free == 3

    perform(test)
