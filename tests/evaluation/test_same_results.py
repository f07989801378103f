"""The same figures however they are made: one at a time, eight at once, through the server, killed on the way."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile
import soxr

from baichuan_audio.audio.reading import read_audio
from baichuan_audio.evaluation.judge.api import MatchJudge
from baichuan_audio.evaluation.results import read_results
from baichuan_audio.evaluation.suites.run import run_suite
from baichuan_audio.evaluation.systems.base import Reply, System
from baichuan_audio.evaluation.systems.batched import BatchedSystem
from baichuan_audio.evaluation.systems.local import LocalSystem
from baichuan_audio.evaluation.systems.realtime import RealtimeSystem
from baichuan_audio.evaluation.systems.server import ServerSystem

from .conftest import ScriptedRecogniser, ScriptedSystem, write_benchmark

SPEECH = Path(__file__).parents[1] / "fixtures" / "speech" / "LJ001-0008.opus"


@pytest.fixture(scope="module")
def spoken_questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small OpenAudioBench with parts of a real sentence as its recordings."""
    root = write_benchmark(tmp_path_factory.mktemp("spoken") / "OpenAudioBench")
    waveform, rate = read_audio(SPEECH)
    speech = soxr.resample(waveform, rate, 16_000)
    for number, path in enumerate(sorted(root.glob("eval_datas/*/audios/*.wav"))):
        soundfile.write(path, speech[800 * number : 800 * number + 16_000], 16_000)
    return root


def outputs(data: Path, system: System, path: Path, workers: int) -> bytes:
    run_suite(
        "openaudiobench", data, system, path, judge=MatchJudge(), settings=["t2t", "s2t"], workers=workers,
        log=lambda _: None,
    )  # fmt: skip
    return path.read_bytes()


@contextmanager
def served(model: Any) -> Iterator[str]:
    """The real server with this model; its address without a scheme."""
    tools = pytest.importorskip("page_tools")
    from baichuan_audio.engine import Engine, EngineConfig

    server = tools.LiveServer(Engine(model, EngineConfig(threads=1)))
    yield f"127.0.0.1:{server.port}"
    server.stop()


def test_one_eight_and_the_server_reply_the_same(tiny_dir: Path, spoken_questions: Path, tmp_path: Path) -> None:
    import torch

    import baichuan_audio

    model = baichuan_audio.load(tiny_dir, dtype=torch.float32)
    two_turns = _item(spoken_questions, "trivia_qa/0.wav"), _item(spoken_questions, "web_questions/0.wav")

    def second(system: System, typed: bool) -> Reply:
        return system.answer(two_turns[1], False, typed, earlier=(two_turns[0], "It is so."))

    second_turns = [second(LocalSystem(model, tiny_dir, seed=4), typed) for typed in (False, True)]
    alone = LocalSystem(model, tiny_dir, seed=4).answer(two_turns[1], False, True)
    assert second_turns[1] != alone  # the first turn matters
    one = outputs(spoken_questions, LocalSystem(model, tiny_dir, seed=4), tmp_path / "one.jsonl", 1)
    with BatchedSystem(model, tiny_dir, batch=8, seed=4) as system:
        assert outputs(spoken_questions, system, tmp_path / "eight.jsonl", 8) == one
        assert [second(system, typed) for typed in (False, True)] == second_turns
    with served(model) as address:
        system = ServerSystem(f"http://{address}/v1", "any", seed=4)
        outputs(spoken_questions, system, tmp_path / "server.jsonl", 3)
        assert [second(system, typed) for typed in (False, True)] == second_turns
        realtime = RealtimeSystem(f"ws://{address}/v1/realtime", "any")
        question = read_results(tmp_path / "one.jsonl")[1][0]
        reply = realtime.answer(_item(spoken_questions, question["id"]), spoken=True)
        assert reply.text and reply.waveform is not None and len(reply.waveform) > 0
        assert realtime.answer(_item(spoken_questions, question["id"]), spoken=False, typed=True).text
        assert second(realtime, False).text and second(realtime, True).text
    rows = read_results(tmp_path / "server.jsonl")[1]
    assert rows == read_results(tmp_path / "one.jsonl")[1]
    texts = {row["replies"][kind]["text"] for row in rows if row["kind"] == "output" for kind in ("t2t", "s2t")}
    assert len(texts) > 4  # different replies to different questions


def _item(data: Path, name: str) -> Any:
    from baichuan_audio.evaluation.suites.openaudiobench import load

    return next(item for item in load(data).items if item.id == name)


class KilledSystem(ScriptedSystem):
    """Kills its own process at the call `dies_at`."""

    dies_at = 0

    def answer(self, *arguments: Any, **named: Any) -> Any:
        if len(self.asked) == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(*arguments, **named)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_twenty_points_gives_the_same_file(
    benchmark_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process is killed at a call drawn with a fixed seed, until one gets to the end."""

    monkeypatch.setattr("baichuan_audio.evaluation.suites.run.READERS", 2)

    def run(system: ScriptedSystem, output: Path) -> None:
        run_suite(
            "openaudiobench", benchmark_dir, system, output, judge=MatchJudge(), recogniser=ScriptedRecogniser(),
            log=lambda _: None,
        )  # fmt: skip

    run(ScriptedSystem(), tmp_path / "whole" / "r.jsonl")
    whole, draw, kills = (tmp_path / "whole" / "r.jsonl").read_bytes(), random.Random(0), 0
    for attempt in range(20):
        if kills >= 20:
            break
        output = tmp_path / f"killed{attempt}" / "r.jsonl"
        for _ in range(40):
            system = KilledSystem()
            system.dies_at = draw.randint(0, 16)  # items are asked while up to four others are read back
            child = os.fork()
            if child == 0:
                run(system, output)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            if os.WIFSIGNALED(status):
                kills += 1
                continue
            assert status == 0
            break
        assert output.read_bytes() == whole
        sounds = {path.name: path.read_bytes() for path in (tmp_path / "whole").rglob("*.wav")}
        assert {path.name: path.read_bytes() for path in output.parent.rglob("*.wav")} == sounds
    assert kills >= 20


def test_likelihoods_equal_the_plain_computation(model: Any, checkpoint_dir: Path, tmp_path: Path) -> None:
    """The mean over the tokens of a choice of -log p, from logits of the whole sequence."""
    import torch

    from baichuan_audio.evaluation.suites.items import Item
    from baichuan_audio.evaluation.systems.local import CONTEXT_PROMPTS

    item = Item(
        "s/1", "s", SPEECH, "It rained.", ("right",), "right", "en", choices=(" He got wet.", " She flew away.")
    )
    system = LocalSystem(model, checkpoint_dir)
    codes = model.tokenizer.encode(model.load_audio(str(SPEECH)), model.tokenizer.config.sampling_rate)
    for spoken in (False, True):
        before = model.prompt_builder().text(CONTEXT_PROMPTS["en"])
        before = before.audio(codes) if spoken else before.text(item.question)
        for choice, loss in zip(item.choices, system.losses(item, spoken), strict=True):
            whole = before.copy().text(choice).build()
            with torch.no_grad():
                _, logits = model.language_model(whole.ids[None], whole.codes if spoken else None)
            log_p = logits[0].float().log_softmax(-1)
            tokens = range(len(before), len(whole.ids))
            expected = -sum(float(log_p[at - 1, whole.ids[at]]) for at in tokens) / len(tokens)
            assert loss == pytest.approx(expected, abs=1e-5)


def test_a_recording_encoded_and_decoded(model: Any, checkpoint_dir: Path) -> None:
    from baichuan_audio.evaluation.suites.items import Item

    item = Item("s/1", "s", SPEECH, "", (), "", "en", span=(0.5, 1.5))
    result = LocalSystem(model, checkpoint_dir).reconstruct(item)
    assert result.codes.shape[0] == len(result.sizes) == 8 and abs(result.codes.shape[1] - 12.5) <= 1
    assert len(result.original) == result.sample_rate == 24_000
    # whole frames of 80 ms, and of the mel
    assert abs(len(result.decoded) - 24_000) <= 2 * 1920 and abs(len(result.vocoder) - 24_000) <= 480


def test_results_are_in_json_without_times(benchmark_dir: Path, tmp_path: Path) -> None:
    run_suite(
        "openaudiobench", benchmark_dir, ScriptedSystem(), tmp_path / "r.jsonl", judge=MatchJudge(), settings=["s2t"]
    )
    lines = (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()
    assert not {"time", "seconds", "date"} & {key for line in lines for key in json.loads(line)}
