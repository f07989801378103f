"""The engine says what the same model says alone: many at once, cut, seeded, encoded, with shared beginnings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from baichuan_audio.engine import AudioDelta
from baichuan_audio.generation.reply import ReplySampling, spoken_reply
from baichuan_audio.generation.runner import run_to_end

from .conftest import Script, noise, perform, read, running


def test_replies_at_once_equal_the_conversation(pair: tuple[Any, Any]) -> None:
    """Dialogues at different phases, two turns each, against the session that answers one alone."""
    small, speaker = pair
    greedy = ReplySampling.from_config(small.config).greedy()
    questions = [["Hello there.", "And you?"], [noise(), "What?"], ["七加五是多少？", noise(0.7)], ["x", "y"]]
    expected = []
    for number, turns in enumerate(questions):
        conversation = small.conversation(speak=number != 3, sampling=greedy, vad=False)
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
                written = dialogue._state.history.prompt(small.system_text(), number != 3)
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
        asked[number] = dialogue._state.history.prompt(alone.system_text(), True)
        await read(dialogue.reply(item_id="second", sampling=greedy))
        answered[number] = dialogue._state.history.find("second").tokens

    async def test() -> None:
        async with running(speaker) as engine:
            await asyncio.gather(*(hold(engine, number) for number in range(3)))

    perform(test)
    assert len({len(prompt) for prompt in asked.values()}) > 1
    for number, prompt in asked.items():
        session = alone.start([0])
        session.truncate(0)
        session.extend(prompt)
        run_to_end(session, spoken_reply(session, alone.text_tokenizer, greedy))
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
                tokens = dialogue._state.history.prompt("", True)
                await dialogue.close()
                return tokens

            alone = await ask(3)
            together = await asyncio.gather(ask(1), ask(3), ask(2), ask(3))
            assert together[1] == together[3] == alone != together[0]

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
            frames = [token for token in dialogue._state.history.find("q").tokens if isinstance(token, tuple)]
            assert torch.equal(torch.tensor(frames).T, expected)
            assert done.usage.input_audio_tokens == len(frames) and len(encoded) == 2

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
