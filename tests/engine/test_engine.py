"""The engine as the server uses it: replies, order of events, cancelling, cutting, bounds, failures, leaks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from baichuan_audio.engine import (
    AudioDelta,
    AudioInput,
    EngineFull,
    EngineStopped,
    ReplyDone,
    TextDelta,
    sound,
)
from baichuan_audio.errors import AudioError, PromptError
from baichuan_audio.language_model.reply import ReplySampling, follow, spoken_reply

from .conftest import Script, perform, read, running, seconds

WHOLE = "one two, three four, five."


def noise(length: float = 1.0) -> AudioInput:
    samples = torch.randn(int(16000 * length), generator=torch.Generator().manual_seed(0)) * 0.1
    return AudioInput(samples, 16000)


async def quiet(engine: Any) -> None:
    """Until the threads have nothing left to do."""
    worker = engine._desk.worker
    for _ in range(2000):
        before = worker.steps
        await asyncio.sleep(0.01)
        if worker.steps == before and not worker.sound.waiting and worker._commands.empty():
            return
    raise AssertionError("the engine never comes to rest")


def test_replies_at_once_equal_the_conversation(pair: tuple[Any, Any]) -> None:
    """Dialogues at different phases, two turns each, against the session that answers one alone."""
    small, speaker = pair
    greedy = ReplySampling.from_config(small.config).greedy()
    questions = [["Hello there.", "And you?"], [noise(), "What?"], ["七加五是多少？", noise(0.7)], ["x", "y"]]
    expected = []
    for number, turns in enumerate(questions):
        conversation = small.conversation(speak=number != 3, sampling=greedy)
        for turn in turns:
            asked = turn if isinstance(turn, str) else {"audio": (turn.waveform, turn.sample_rate)}
            list(conversation.ask(asked))
        expected.append(conversation.session.tokens)

    async def test() -> None:
        async with running(speaker) as engine:

            async def hold(number: int) -> None:
                await asyncio.sleep(0.02 * number)
                dialogue = engine.open()
                for turn in questions[number]:
                    await dialogue.add_user([turn])
                    _, done = await read(dialogue.reply(speak=number != 3, sampling=greedy))
                    assert done.status in ("completed", "incomplete")
                written = dialogue._chat.history.prompt(small.system_text(), number != 3)
                assert written[: len(expected[number])] == expected[number]
                await dialogue.close()

            await asyncio.gather(*map(hold, range(4)))

    perform(test)


def test_a_reply_to_what_was_cancelled_or_cut_equals_the_session(pair: tuple[Any, Any]) -> None:
    """Three dialogues at once that begin alike: one breaks its first reply off, one cuts it, one leaves it."""
    alone, speaker = pair
    greedy = ReplySampling.from_config(alone.config).greedy()
    asked: dict[int, list[Any]] = {}
    answered: dict[int, list[Any]] = {}

    async def hold(engine: Any, number: int) -> None:
        dialogue = engine.open()
        await dialogue.add_user(["Hello there."])
        reply = dialogue.reply(item_id="first", sampling=greedy)
        async for event in reply:
            if number == 0 and isinstance(event, AudioDelta):
                reply.cancel()
        if number == 1:
            await dialogue.truncate("first", 0.2)
        await dialogue.add_user(["And you?"])
        asked[number] = dialogue._chat.history.prompt(alone.system_text(), True)
        await read(dialogue.reply(item_id="second", sampling=greedy))
        answered[number] = dialogue._chat.history.find("second").tokens

    async def test() -> None:
        async with running(speaker) as engine:
            await asyncio.gather(*(hold(engine, number) for number in range(3)))

    perform(test)
    assert len({len(prompt) for prompt in asked.values()}) > 1
    for number, prompt in asked.items():
        session = alone.start([0])
        session.cut(0)
        session.lay(prompt)
        list(follow(session, spoken_reply(session, alone.text_tokenizer, greedy)))
        assert session.tokens[len(prompt) - 2 :] == answered[number]


def test_seed_makes_replies_repeatable_whoever_else_speaks(pair: tuple[Any, Any]) -> None:
    async def test() -> None:
        async with running(pair[1]) as engine:

            async def ask(seed: int | None) -> list[Any]:
                dialogue = engine.open(seed=seed)
                await dialogue.add_user(["Tell me."])
                await read(dialogue.reply())
                await dialogue.add_user(["More."])
                await read(dialogue.reply())
                tokens = dialogue._chat.history.prompt("", True)
                await dialogue.close()
                return tokens

            alone = await ask(3)
            together = await asyncio.gather(ask(1), ask(3), ask(2), ask(3))
            assert together[1] == together[3] == alone != together[0]

    perform(test)


def test_events_in_order_and_usage(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small) as engine:
            dialogue = engine.open()
            await dialogue.add_user(["Count: <C_A>", noise()])
            events, done = await read(dialogue.reply(item_id="answer"))
            assert done.status == "completed" and done.reason is None and done.text == WHOLE
            order = ""
            for event in events:
                kind = "t" if isinstance(event, TextDelta) else "a"
                order += kind if not order.endswith(kind) else ""
            assert order == "tatata"
            first = "".join(event.text for event in events[: [type(e) for e in events].index(AudioDelta)])
            assert first == "one two,"
            assert seconds(events) == pytest.approx(17 * 0.08 - 3 * 0.02 - 2 * 0.01, abs=0.03)
            assert (done.usage.input_audio_tokens, done.usage.cached_tokens) == (12, 0)
            assert done.usage.output_audio_tokens == 17
            assert isinstance(events[-1], AudioDelta) and (events[-1].waveform * 2).add_(1).dtype == torch.float32
            read_ids = dialogue._chat.history.find("answer").tokens
            assert read_ids.count(small.special.assistant) == 1
            ids = [token for token in dialogue._chat.history.prompt("", True) if isinstance(token, int)]
            assert ids.count(small.special.assistant) == 2  # the spelling in the user's text is text
            await dialogue.add_user(["Again"])
            _, again = await read(dialogue.reply(speak=False))
            known = done.usage.input_text_tokens + done.usage.input_audio_tokens + done.usage.output_text_tokens
            assert again.text == WHOLE and again.usage.cached_tokens > known
            await dialogue.close()

    perform(test)


def test_words_and_speech_in_turn_are_one_stretch(small: Any, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "_interleave_letters", 5)

    async def test() -> None:
        async with running(small) as engine:
            dialogue = engine.open()
            await dialogue.add_user(["Count."])
            events, done = await read(dialogue.reply())
            assert done.status == "completed" and done.text == WHOLE
            assert seconds(events) == pytest.approx(17 * 0.08 - 0.02)
            for text, frames in (("one", 0), (" three", 6), (" five", 13)):  # the words come right before their sound
                (place,) = (n for n, event in enumerate(events) if isinstance(event, TextDelta) and event.text == text)
                assert seconds(events[:place]) == pytest.approx(frames * 0.08)
            await dialogue.close()

    perform(test)


def test_token_limit(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small) as engine:
            dialogue = engine.open()
            await dialogue.add_user(["Count"])
            for limit in (3, 12):
                _, done = await read(dialogue.reply(max_tokens=limit))
                assert (done.status, done.reason) == ("incomplete", "max_output_tokens")
                assert done.usage.output_text_tokens + done.usage.output_audio_tokens == limit
            with pytest.raises(PromptError):
                dialogue.reply(max_tokens=0)

    perform(test)


def test_cancel_in_the_midst_of_a_clause(small: Any, script: Script) -> None:
    script.clauses = [("one two three four,", 250)]

    async def test() -> None:
        async with running(small) as engine:
            dialogue, other = engine.open(), engine.open()
            await dialogue.add_user(["Count"])
            await other.add_user(["Count"])
            reply, beside = dialogue.reply(item_id="long"), other.reply(max_tokens=60)
            heard: list[Any] = []
            async for event in reply:
                heard.append(event)
                if isinstance(event, AudioDelta):
                    break
            steps = engine.stats().audio_frames
            reply.cancel("turn_detected")
            done = await anext(reply)
            assert isinstance(done, ReplyDone)
            assert (done.status, done.reason, done.text) == ("cancelled", "turn_detected", "one two three four,")
            with pytest.raises(StopAsyncIteration):
                await anext(reply)
            assert engine.stats().audio_frames < steps + 120
            kept = dialogue._chat.history.find("long").tokens
            frames = sum(isinstance(token, tuple) for token in kept)
            assert frames <= seconds(heard) / 0.08 + 1  # what was not given out has left the history
            assert not kept or kept[-1] == small.special.end_of_text
            assert (await read(beside))[1].status == "incomplete"
            script.clauses = [("yes", 3)]
            await dialogue.add_user(["And now?"])
            assert (await read(dialogue.reply()))[1].text == "yes"
            reply.cancel()  # long over

    perform(test)


def test_cancel_of_a_reply_that_is_written_but_not_read(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small) as engine:
            dialogue = engine.open()
            await dialogue.add_user(["Count"])
            reply = dialogue.reply(item_id="answer")
            while not reply.over:
                await asyncio.sleep(0.01)
            reply.cancel()
            events = [event async for event in reply]
            assert len(events) == 1 and events[0].status == "cancelled" and events[0].text == ""
            await quiet(engine)
            assert dialogue._chat.history.find("answer").tokens == []

    perform(test)


def test_truncate_and_delete_keep_what_stands_before(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small) as engine:
            dialogue = engine.open()
            first = await dialogue.add_user(["Count"])
            _, done = await read(dialogue.reply(item_id="answer"))
            with pytest.raises(PromptError):
                await dialogue.truncate(first, 1.0)
            assert await dialogue.truncate("answer", 0.5) == "one two,"
            await dialogue.add_user(["Go on"])
            _, second = await read(dialogue.reply(item_id="second"))
            before = done.usage.input_text_tokens
            assert second.usage.cached_tokens > before and second.usage.input_audio_tokens == 6
            await dialogue.delete("answer")
            _, third = await read(dialogue.reply())
            assert third.usage.cached_tokens == before - 2  # up to where the deleted reply began
            for wrong in ("answer", "nobody"):
                with pytest.raises(PromptError):
                    await dialogue.delete(wrong)
            dialogue.configure(system="Be brief.")
            _, fourth = await read(dialogue.reply(remember=False))
            assert fourth.usage.cached_tokens < 5
            _, fifth = await read(dialogue.reply(instructions="Be long."))
            assert fifth.usage.cached_tokens < 10
            with pytest.raises(PromptError):
                dialogue.configure(voice="Nobody")

    perform(test)


def test_a_long_dialogue_forgets_and_never_fails(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small, max_context=160) as engine:
            dialogue = engine.open()
            for turn in range(6):
                await dialogue.add_user([f"question {turn}"])
                _, done = await read(dialogue.reply())
                assert done.status == "completed", done
            assert any(item.forgotten for item in dialogue._chat.history.items)
            with pytest.raises(PromptError, match="can be answered"):
                await dialogue.add_user(["x" * 500])
            script.clauses = [("one,", 400)]
            await dialogue.add_user(["last"])
            _, done = await read(dialogue.reply())
            assert (done.status, done.reason) == ("incomplete", "max_output_tokens")
            dialogue.configure(system="s" * 500)
            _, done = await read(dialogue.reply())
            assert done.status == "failed" and "system text" in (done.reason or "")

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
            assert engine._desk.worker.rows[0].frames < 80
            events, done = await read(waiting)
            assert done.status == "completed" and seconds(events) > 9

    perform(test)


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
            worker = engine._desk.worker
            engine._desk.worker.post(worker.tidy)
            await quiet(engine)
            assert engine.stats().slots_free == 4 and not worker.rows and not worker._finished and not worker._held
            assert not worker._promises and not worker.sound.waiting
            assert worker.sound.voices == 0

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
    broken = sound.Voice.turn

    def turn(self: Any, most: int) -> None:
        if getattr(self, "doomed", False):
            raise RuntimeError("no sound today")
        broken(self, most)

    monkeypatch.setattr(sound.Voice, "turn", turn)

    async def test() -> None:
        async with running(small) as engine:
            dialogues = [engine.open() for _ in range(3)]
            for dialogue in dialogues:
                await dialogue.add_user(["Count"])
            worker = engine._desk.worker
            build = worker._voice

            def voice(reply: Any) -> Any:
                made = build(reply)
                made.doomed = reply is doomed
                return made

            worker._voice = voice  # type: ignore[method-assign]
            doomed: Any = None
            replies = []
            for number, dialogue in enumerate(dialogues):
                reply = dialogue.reply()
                doomed = reply if number == 0 else doomed
                replies.append(reply)
            results = await asyncio.gather(*map(read, replies))
            assert [done.status for _, done in results] == ["failed", "completed", "completed"]
            assert results[0][1].reason == "internal error (RuntimeError)"
            monkeypatch.setattr(worker, "_voice", build)
            rules = dialogues[1]._rules
            dialogues[1]._rules = lambda *_: _broken_rules()  # type: ignore[method-assign]
            results = await asyncio.gather(*(read(dialogue.reply()) for dialogue in dialogues))
            assert [done.status for _, done in results] == ["completed", "failed", "completed"]
            dialogues[1]._rules = rules  # type: ignore[method-assign]
            assert (await read(dialogues[1].reply()))[1].status == "completed"

    perform(test)


def _broken_rules() -> Any:
    raise RuntimeError("no rules today")
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
            assert dialogue._chat.history.items == []
            for system, voice in ((None, "Nobody"), ("x", "【")):
                with pytest.raises(PromptError):
                    engine.open(system, voice)
            with pytest.raises(PromptError):
                await anext(engine.speak("  "))
            assert engine.stats().slots_free == 3

    perform(test)


def test_sound_is_encoded_once_as_offline_and_a_reply_waits_for_it(
    small: Any, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = noise(11.0)  # more than one piece
    expected = small.tokenizer.encode(heard.waveform, heard.sample_rate)
    quantize, encoded = small.tokenizer.quantize, []
    monkeypatch.setattr(small.tokenizer, "quantize", lambda features: encoded.append(1) or quantize(features))

    async def test() -> None:
        async with running(small, max_context=1000) as engine:
            dialogue = engine.open()
            adding = asyncio.create_task(dialogue.add_user([heard], item_id="q"))
            await asyncio.sleep(0)
            script.clauses = [("seven", 3)]
            reply = dialogue.reply()
            said = await dialogue.transcript(heard.waveform, heard.sample_rate)
            _, done = await read(reply)
            assert await adding == "q" and said == "seven seven"  # two pieces
            frames = [token for token in dialogue._chat.history.find("q").tokens if isinstance(token, tuple)]
            assert torch.equal(torch.tensor(frames).T, expected)
            assert done.usage.input_audio_tokens == len(frames) and len(encoded) == 2

    perform(test)


def test_transcribe_and_speak(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small, max_sessions=1) as engine:
            script.clauses = [(" a b ", 5)]
            pieces = [text async for text in engine.transcribe(noise(11.0).waveform, 16000)]
            assert "".join(pieces) == "a b a b"
            events = [event async for event in engine.speak("Hello.", voice="Ada", seed=1)]
            assert seconds(events) == pytest.approx(5 * 0.08 - 0.02, abs=0.02)
            speech = engine.speak("Hello again.")
            await anext(speech)
            await speech.aclose()  # type: ignore[attr-defined]
            assert engine.stats().slots_free == 1

    perform(test)


def test_a_dialogue_that_begins_like_another_copies_what_that_has_read(pair: tuple[Any, Any]) -> None:
    greedy = ReplySampling.from_config(pair[0].config).greedy()

    async def test() -> None:
        async with running(pair[1]) as engine:
            results = []
            for _ in range(2):
                dialogue = engine.open(system="A long system text that everybody has.")
                await dialogue.add_user(["Same question"])
                _, done = await read(dialogue.reply(sampling=greedy))
                results.append(done)
            first, second = results
            assert first.text == second.text and first.usage.cached_tokens == 0
            assert second.usage.cached_tokens == second.usage.input_text_tokens - 1

    perform(test)
