"""Replies that run away, dialogues kept within the context a model answers well, long texts read to their end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baichuan_audio.engine.history import History, HistoryItem
from baichuan_audio.errors import BaichuanAudioError, ConfigError
from baichuan_audio.generation.context import context_length, turns_to_drop
from baichuan_audio.generation.events import TextDelta
from baichuan_audio.generation.reply import ReplySampling

from .conftest import Script, perform, read, running, seconds
from .test_history import spoken, told, user

GUARDED = ReplySampling(max_segment_frames=500)


def test_a_runaway_is_stopped_reported_and_not_read_again(small: Any, script: Script) -> None:
    async def test() -> None:
        async with running(small, max_context=1000) as engine:
            dialogue = engine.open()
            history = dialogue._state.history
            await dialogue.add_user(["first"])
            await read(dialogue.reply(sampling=GUARDED))
            before = history.prompt("s", True)
            good, script.clauses = script.clauses, [("one,", 400)]
            await dialogue.add_user(["second"])
            events, done = await read(dialogue.reply(item_id="away", sampling=GUARDED))
            assert (done.status, done.reason, done.text) == ("incomplete", "audio_overrun", "one,")
            assert 4 < seconds(events) < 8  # of 32
            assert engine.stats().runaways == {"repetition": 0, "audio_overrun": 1}
            assert await dialogue.truncate("away", 1.0) == ""
            await dialogue.add_user([" third"])
            prompt = history.prompt("s", True)
            assert prompt[: len(before) - 2] == before[:-2]
            assert told(small, prompt[len(before) - 2 :]) == "Usecond thirdTA"
            script.clauses = good
            _, done = await read(dialogue.reply(sampling=GUARDED))
            assert done.status == "completed"
            script.clauses = [("ha ha ha ha ", 2)] * 60
            await dialogue.add_user(["laugh"])
            _, done = await read(dialogue.reply(speak=False, sampling=GUARDED))
            assert (done.status, done.reason) == ("incomplete", "repetition")
            assert engine.stats().runaways == {"repetition": 1, "audio_overrun": 1}

    perform(test)


def test_conversation_and_engine_stop_alike(pair: tuple[Any, Any]) -> None:
    """Random weights never stop talking: both are stopped at the same frame, and both leave the reply out."""
    alone, speaker = pair
    sampling = ReplySampling(max_segment_tokens=4).greedy()
    conversation = alone.conversation(sampling=sampling)
    texts, reasons = [], []
    for turn in ("Hello there.", "And you?"):
        pieces = list(conversation.ask(turn))
        texts.append("".join(piece.text for piece in pieces if isinstance(piece, TextDelta)))
        reasons.append(conversation.incomplete_reason)
    assert reasons[0] in ("audio_overrun", "repetition")

    async def test() -> None:
        async with running(speaker, max_context=1000) as engine:
            dialogue = engine.open()
            for text, reason, turn in zip(texts, reasons, ("Hello there.", "And you?"), strict=True):
                await dialogue.add_user([turn])
                prompt = dialogue._state.history.prompt(alone.system_text(), True)
                _, done = await read(dialogue.reply(sampling=sampling))
                assert (done.text, done.reason) == (text, reason)
            assert conversation.session.tokens[: len(prompt)] == prompt
            assert conversation.session.ids.count(alone.special.user) == 1  # the two questions are one turn

    perform(test)


def test_dialogues_stay_within_the_context_length(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(small.config, "context_length", 100)
    history = History(small, 400)
    read_once: list[int] = []
    hidden = small.language_model.hidden
    conversation = small.conversation(system="sys", seed=0)
    for turn in range(12):
        history.add(user(small, f"u{turn}", "question"))
        assert len(history.prompt("system", True)) <= 75
        history.add(spoken(small, f"a{turn}", ("an answer", 8)))
        with monkeypatch.context() as patch:
            patch.setattr(
                small.language_model, "hidden", lambda x, cache: read_once.append(x.shape[1]) or hidden(x, cache)
            )
            list(conversation.ask("question"))
        ids = conversation.session.ids
        assert ids[0] == small.special.system and len(ids) < 100
        assert 1 <= ids.count(small.special.user) == len(conversation._turns)
    assert sum(read_once) < 12 * 75
    forgotten = [item for item in history.items if item.dropped]
    assert len(forgotten) > 12 and sum(len(item.tokens) for item in forgotten if item.role == "user") == 0
    assert not any(token for item in forgotten for token in item.tokens if isinstance(token, tuple))
    assert history.truncate("a0", 60.0) == "an answer"
    long = HistoryItem("long", "user", list(small.text_tokenizer.encode("x" * 200)))
    history.check_size(long)
    history.add(long)  # a single turn may still fill the slot
    assert len(history.prompt("system", True)) > 200


def test_the_conversation_forgets_whole_turns_as_the_engine_does(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(small.config, "context_length", 90)
    greedy = ReplySampling.from_config(small.config).greedy()
    conversation = small.conversation(sampling=greedy)

    async def test() -> None:
        async with running(small) as engine:
            dialogue = engine.open()
            for turn in range(10):
                list(conversation.ask(f"question {turn}"))
                await dialogue.add_user([f"question {turn}"])
                await read(dialogue.reply(sampling=greedy, item_id=f"a{turn}"))
                reply = dialogue._state.history.find(f"a{turn}").tokens
                assert conversation.session.tokens[-len(reply) :] == reply
            assert any(item.dropped for item in dialogue._state.history.items)

    perform(test)


def test_how_many_turns_are_forgotten() -> None:
    assert turns_to_drop(10, [20, 20, 20], 100) == 0
    assert turns_to_drop(10, [20, 20, 30], 100) == 2
    assert turns_to_drop(10, [300], 100) == 0 and turns_to_drop(10, [1, 300], 100) == 1
    assert context_length({}) > 1 << 20 and context_length({"max_position_embeddings": 512}) == 512
    assert context_length({"max_position_embeddings": 512, "context_length": 100}) == 100
    for wrong in (0, 63, 513, "448", True, 1.5):
        with pytest.raises(ConfigError, match="context_length"):
            context_length({"max_position_embeddings": 512, "context_length": wrong})


@pytest.mark.parametrize("sentences", [1, 60])
def test_a_text_is_read_whole_or_is_an_error(small: Any, script: Script, sentences: int) -> None:
    text = "And so it goes on and on, day after day. " * sentences

    async def test() -> None:
        async with running(small, max_context=160) as engine:
            clauses = small.clauses_to_speak(text)
            script.clauses = [("x", 20)] * len(clauses)
            sound = [delta.waveform async for delta in engine.speak(text)]
            most = len(clauses) * 20 * 0.08
            assert most * 0.95 < torch.cat(sound).shape[0] / 24000 <= most
            script.clauses = [("x", 1000)] * 3
            small.config["reply_sampling"] = {}
            given = 0
            with pytest.raises(BaichuanAudioError, match="could not be read to its end"):
                async for delta in engine.speak(text):
                    given += delta.waveform.shape[0]
            assert given

    perform(test)
