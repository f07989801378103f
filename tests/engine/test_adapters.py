"""Adapters on the engine: rows of several in one batch answer as the merged model answers alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.acceleration.optimize import joined_copy
from baichuan_audio.adapters import AdapterConfig, adapter_parameters, add_adapters, merged_with, save_adapters
from baichuan_audio.engine import Engine, EngineConfig, batch
from baichuan_audio.engine.batch import DecoderBatch
from baichuan_audio.errors import PromptError
from baichuan_audio.generation.reply import ReplySampling

from .conftest import noise, perform, read

NAMES = (None, "first", "second")


@pytest.fixture(scope="module")
def models(small: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Any]:
    """The base, and two sets of adapters merged with it."""
    folder: Path = tmp_path_factory.mktemp("adapters")
    merged: dict[str | None, Any] = {None: small}
    for seed, name in enumerate(("first", "second")):
        adapted = add_adapters(small, AdapterConfig(rank=2), seed)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in adapter_parameters(adapted).items():
                if key.endswith("lora_B"):
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.05)
        save_adapters(adapted, folder / f"{name}.safetensors")
        merged[name] = merged_with(small, folder / f"{name}.safetensors")
    return merged


def alone(model: Any, turns: list[str], sampling: ReplySampling) -> list[Any]:
    conversation = model.conversation(sampling=sampling, vad=False)
    for turn in turns:
        list(conversation.ask(turn))
    return list(conversation.session.tokens)


@pytest.mark.parametrize("kind", ["batch", "fast", "decoder"])
def test_rows_of_several_adapters_equal_each_alone(
    models: dict[str | None, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All dialogues begin alike, so keys and values of another adapter would be taken if that were possible."""
    if kind == "decoder":
        monkeypatch.setattr(batch, "batch_for", DecoderBatch)
    prepare = {"batch": lambda model: model, "fast": optimize_for_inference, "decoder": joined_copy}[kind]
    sampling = ReplySampling.from_config(models[None].config).greedy()
    turns = ["Hello there.", "And you?"]
    expected = {name: alone(model, turns, sampling) for name, model in models.items()}
    assert len({tuple(map(str, tokens)) for tokens in expected.values()}) == 3  # the replies differ
    adapters = {name: prepare(model) for name, model in models.items() if name is not None}

    async def test() -> None:
        engine = Engine(prepare(models[None]), EngineConfig(max_context=400, max_sessions=6, threads=1), adapters)
        engine.start()
        assert engine.adapters == NAMES[1:]

        async def hold(number: int) -> None:
            dialogue = engine.open(adapter=NAMES[number % 3])
            assert dialogue.adapter == NAMES[number % 3]
            for turn in turns:
                await dialogue.add_user([turn])
                await read(dialogue.reply(sampling=sampling))
            written = dialogue._state.history.prompt(models[None].system_text(), True)
            due = expected[NAMES[number % 3]]
            assert written[: len(due)] == due
            await dialogue.close()

        try:
            for _ in range(2):  # in slots that other adapters had before
                await asyncio.gather(*map(hold, range(5)))
                await hold(2)
        finally:
            await engine.stop()

    perform(test)


def test_other_calls_take_adapters_and_refuse_unknown_ones(models: dict[str | None, Any]) -> None:
    async def test() -> None:
        engine = Engine(
            models[None], EngineConfig(max_context=400, max_sessions=2, threads=1), {"first": models["first"]}
        )
        engine.start()
        try:
            audio = noise()
            plain, adapted = (engine.transcribe(audio.waveform, audio.sample_rate, False, n) for n in NAMES[:2])
            assert [delta.text async for delta in plain] != [delta.text async for delta in adapted]
            with pytest.raises(PromptError, match="there is no adapter 'third'; there are first"):
                engine.open(adapter="third")
            with pytest.raises(PromptError, match="there is no adapter"):
                _ = [delta async for delta in engine.speak("Hello.", adapter="third")]
            assert engine.stats().slots_free == 2
        finally:
            await engine.stop()

    perform(test)
