"""Adapters over both APIs: the name of a model chooses one, as on servers of many LoRAs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from fake_engine import FakeEngine
from http_tools import Serving, serving
from websockets.asyncio.client import connect

import baichuan_audio
from baichuan_audio.adapters import AdapterConfig, adapter_parameters, add_adapters, merge_adapters, save_adapters
from baichuan_audio.cli.app import build_parser
from baichuan_audio.cli.serve import adapter_files, load_with_adapters
from baichuan_audio.errors import ConfigError

QUESTION: Any = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    engine = FakeEngine()
    engine.adapters = ("cheerful", "brief")
    with serving(engine, model_name="base") as running:
        yield running


def test_models_are_the_base_and_its_adapters(server: Serving) -> None:
    models = server.http.get("/v1/models").json()["data"]
    assert [(model["id"], model["parent"]) for model in models] == [
        ("base", None), ("cheerful", "base"), ("brief", "base"),
    ]  # fmt: skip
    assert server.client.models.retrieve("brief").id == "brief"
    with pytest.raises(openai.NotFoundError, match="base and cheerful and brief"):
        server.client.models.retrieve("other")


@pytest.mark.parametrize(("name", "adapter"), [("base", None), ("brief", "brief")])
def test_every_endpoint_takes_the_adapter_of_that_name(server: Serving, name: str, adapter: str | None) -> None:
    completion = server.client.chat.completions.create(model=name, messages=QUESTION)
    assert completion.model == name and server.engine.dialogues[-1].adapter == adapter
    chunks = list(server.client.chat.completions.create(model=name, messages=QUESTION, stream=True))
    assert {chunk.model for chunk in chunks} == {name}
    wav = server.client.audio.speech.create(model=name, input="Hello.", voice="Ada", response_format="wav").read()
    assert server.engine.adapted[-1] == adapter
    server.client.audio.transcriptions.create(model=name, file=("a.wav", wav))
    assert server.engine.adapted[-1] == adapter


def test_realtime_takes_it_from_the_address(server: Serving) -> None:
    async def model_of(name: str) -> str:
        async with connect(f"ws://127.0.0.1:{server.port}/v1/realtime?model={name}") as socket:
            return str(json.loads(await asyncio.wait_for(socket.recv(), 10))["session"]["model"])

    assert asyncio.run(model_of("cheerful")) == "cheerful" and server.engine.dialogues[-1].adapter == "cheerful"
    assert asyncio.run(model_of("base")) == "base" and server.engine.dialogues[-1].adapter is None
    secret = server.http.post("/v1/realtime/client_secrets", json={"session": {"model": "brief"}}).json()
    assert secret["session"]["model"] == "brief"


def test_an_unknown_name_is_refused_where_there_are_adapters(server: Serving) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'briefly'; there are base, cheerful, brief"):
        server.client.chat.completions.create(model="briefly", messages=QUESTION)
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        server.client.audio.speech.create(model="gpt", input="Hello.", voice="Ada")


def test_options(tmp_path: Any) -> None:
    (tmp_path / "a").write_bytes(b"")

    def files(*options: str) -> Any:
        words = ["serve", "m", *(word for option in options for word in ("--adapter", option))]
        return adapter_files(build_parser().parse_args(words), "m")

    assert files(f"one={tmp_path / 'a'}") == {"one": tmp_path / "a"}
    for option, message in (
        ("one", "must be NAME=FILE"),
        ("one=none", "no file none"),
        (f"m={tmp_path / 'a'}", "taken"),
    ):
        with pytest.raises(ConfigError, match=message):
            files(option)


def test_the_server_loads_them_by_name(tiny_dir: Path, tmp_path: Path) -> None:
    plain = baichuan_audio.load(tiny_dir, dtype=torch.float32)
    adapted = add_adapters(plain, AdapterConfig(rank=2, targets=("language_model.layers.*",)))
    with torch.no_grad():
        for name, parameter in adapter_parameters(adapted).items():
            if name.endswith("lora_B"):
                parameter.fill_(0.01)
    save_adapters(adapted, tmp_path / "a.safetensors")
    words = ["serve", str(tiny_dir), "--device", "cpu", "--adapter", f"one={tmp_path / 'a.safetensors'}"]
    arguments = build_parser().parse_args(words)
    arguments.model = arguments.directory
    model, adapters = load_with_adapters(arguments, "base")
    assert list(adapters) == ["one"]
    ids = torch.arange(20, 30)[None]
    with torch.inference_mode():
        base, one, due = (each.language_model(ids)[0] for each in (model, adapters["one"], merge_adapters(adapted)))
    torch.testing.assert_close(one, due, rtol=1e-3, atol=1e-3)
    assert float((one - base).norm() / base.norm()) > 1e-2
    assert adapters["one"].tokenizer.encoder.conv1.weight is model.tokenizer.encoder.conv1.weight
