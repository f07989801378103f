"""The engine as the server uses it: replies, order of events, cancelling, cutting, reading aloud."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from baichuan_audio.engine import AudioDelta, AudioInput, ReplyDone, TextDelta
from baichuan_audio.errors import PromptError

from .conftest import Script, noise, perform, quiet, read, running, seconds

WHOLE = "one two, three four, five."


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
            read_ids = dialogue._state.history.find("answer").tokens
            assert read_ids.count(small.special.assistant) == 1
            ids = [token for token in dialogue._state.history.prompt("", True) if isinstance(token, int)]
            assert ids.count(small.special.assistant) == 2  # the spelling in the user's text is text
            await dialogue.add_user(["Again"])
            _, again = await read(dialogue.reply(speak=False))
            known = done.usage.input_text_tokens + done.usage.input_audio_tokens + done.usage.output_text_tokens
            assert again.text == WHOLE and again.usage.cached_tokens > known
            await dialogue.close()

    perform(test)


def test_words_and_speech_in_turn_are_one_stretch(small: Any, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "_interleave_min_letters", 5)

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
            kept = dialogue._state.history.find("long").tokens
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
            assert dialogue._state.history.find("answer").tokens == []

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


def test_what_can_never_be_answered_is_refused_before_it_is_encoded(
    small: Any, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with running(small) as engine:
            dialogue = engine.open()
            most = dialogue._state.history.budget
            monkeypatch.setattr(dialogue._allocator, "encode", None)
            with pytest.raises(PromptError, match="s of audio, and at most"):
                await dialogue.add_user([AudioInput(torch.zeros((most + 20) * 1280), 16_000, vad=False)])
            for add in (lambda text: dialogue.add_user([text]), dialogue.add_assistant, dialogue.add_system):
                with pytest.raises(PromptError, match="characters long"):
                    await add("x" * 10_000_000)
            with pytest.raises(PromptError, match="tokens long"):
                await dialogue.add_assistant("x " * most)
            assert dialogue._state.history.items == []
            await dialogue.close()

    perform(test)


def test_what_people_type_is_normalised(small: Any, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "_input_steps", ("join_lines", "remove_emoji", "lowercase_capitals"))

    async def test() -> None:
        async with running(small) as engine:
            dialogue = engine.open()
            await dialogue.add_user(["\ufeffHELLO\r\n😀THERE\r\n"], item_id="a")
            await dialogue.add_user(["Hello there"], item_id="b")
            await dialogue.add_system("a\r\nb", item_id="c")
            find = dialogue._state.history.find
            assert small.text_tokenizer.decode(find("a").tokens).strip() == "Hello there"
            assert find("c").text == "a\nb"
            with pytest.raises(PromptError, match="no words in the message"):
                await dialogue.add_user(["😀"], item_id="d")
            await dialogue.close()

    perform(test)


def test_transcribe_and_speak(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small, max_sessions=1) as engine:
            script.clauses = [(" a b ", 5)]
            pieces = [delta.text async for delta in engine.transcribe(noise(11.0).waveform, 16000, vad=False)]
            assert "".join(pieces) == "a b a b"
            events = [event async for event in engine.speak("Hello.", voice="Ada", seed=1)]
            assert seconds(events) == pytest.approx(5 * 0.08 - 0.02, abs=0.02)
            speech = engine.speak("Hello again.")
            await anext(speech)
            await speech.aclose()  # type: ignore[attr-defined]
            assert engine.stats().slots_free == 1

    perform(test)
