"""Live suites through a real Realtime server, in real time, without a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")

from fake_engine import FakeEngine
from page_tools import LiveServer

from baichuan_audio.cli import main
from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.evaluation.live import big_bench_audio, full_duplex
from baichuan_audio.evaluation.live.realtime import LiveClient
from baichuan_audio.evaluation.live.run import run_live
from baichuan_audio.evaluation.live.serving import serving
from baichuan_audio.evaluation.live.summary import short_answer_matches
from baichuan_audio.evaluation.results import EvaluationError, read_results

EXAMPLES = Path(__file__).parents[2] / "examples"
BUNDLE = EXAMPLES / "evaluation"
RATE = 16_000


def question() -> np.ndarray:
    """The beginning of a spoken question, 0.8 s."""
    samples, rate = soundfile.read(EXAMPLES / "en-sum-2.wav", dtype="float32")
    samples = samples[: int(0.8 * rate)]
    return soxr.resample(samples, rate, RATE).astype(np.float32)


def write(folder: Path, samples: np.ndarray, name: str, annotation: Any) -> None:
    folder.mkdir(parents=True)
    soundfile.write(folder / "input.wav", samples, RATE)
    (folder / name).write_text(json.dumps(annotation))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A turn, a turn with a long pause in it, and an interruption: two to five seconds each.

    Silences leave a second and more for a busy machine to answer in.
    """
    root, asked, silence = tmp_path_factory.mktemp("fdb"), question(), np.zeros(int(1.8 * RATE), np.float32)
    length, later = len(asked) / RATE, (len(asked) + len(silence)) / RATE
    turn = [{"timestamp": [length, length + 0.4]}]
    write(root / "v1_0" / "own_turn_taking" / "1", np.concatenate([asked, silence]), "turn_taking.json", turn)
    pause = [{"timestamp": [length, later]}]
    write(root / "v1_0" / "own_pause_handling" / "1", np.concatenate([asked, silence, asked]), "pause.json", pause)
    times = [{"context": "a", "interrupt": "b", "timestamp": [later, later + length]}]
    parts = [asked, silence, asked, silence]
    write(root / "v1_0" / "own_user_interruption" / "1", np.concatenate(parts), "interrupt.json", times)
    return root


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """Answers every turn with twenty words of four seconds."""
    server = LiveServer(FakeEngine(answer="The answer is no, said the dog, and it is four. " * 2))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def system(server: LiveServer) -> LiveClient:
    return LiveClient(f"ws://127.0.0.1:{server.port}/v1/realtime")


def in_real_time(data: Path, system: LiveClient, output: Path, lines: list[str]) -> Any:
    """The figures of a run within the second that the recordings leave; a machine that cannot is too busy for this."""
    for _ in range(3):
        output.unlink(missing_ok=True)
        sets = run_live(full_duplex.NAME, data, system, output, sessions=3, log=lines.append)["sets"]
        if max(row["lag_s"] for row in read_results(output)[1]) < 0.3:
            return sets
    pytest.skip("this machine is too busy to send sound in real time")


def test_full_duplex_bench(data: Path, system: LiveClient, tmp_path: Path) -> None:
    lines: list[str] = []
    output = tmp_path / "results.jsonl"
    sets = in_real_time(data, system, output, lines)
    assert lines[0].startswith("3 recordings, 11 s") and "3 at once in real time" in lines[0]
    turn = sets["v1_0/own_turn_taking"]
    assert turn["failed"] == 0 and turn["taken_over"]["value"] == 100
    assert turn["response_s"]["p50"] > 0.3  # turn detection waits for half a second of silence
    pause = sets["v1_0/own_pause_handling"]
    assert pause["false_alarms"]["value"] == 100  # half a second of silence ends a turn, and the pause has 1.8 s
    interruption = sets["v1_0/own_user_interruption"]
    assert interruption["model_was_speaking"] == 1 and interruption["interruption_success"]["value"] == 100
    assert interruption["stop_s"]["p50"] > 0
    _, rows = read_results(output)
    by_task = {row["task"]: row for row in rows}
    sound, rate = soundfile.read(output.parent / by_task["turn_taking"]["audio"])
    assert rate == 24_000 and len(sound) / rate == pytest.approx(by_task["turn_taking"]["seconds"], abs=0.01)
    assert by_task["user_interruption"]["cuts"] and by_task["turn_taking"]["server_errors"] == []
    # A run that is complete asks nobody, and gives the same figures from the rows.
    offline = LiveClient(system.url)
    again = run_live(full_duplex.NAME, data, offline, output, log=lines.append)["sets"]
    assert again == sets and lines[-1].startswith("0 recordings")
    with pytest.raises(EvaluationError, match=r"system\.turn_detection"):
        run_live(full_duplex.NAME, data, LiveClient(system.url, silence_ms=300), output, log=lines.append)


def test_big_bench_audio(tmp_path: Path) -> None:
    server = LiveServer(FakeEngine(answer="The answer is no."))
    system = LiveClient(f"ws://127.0.0.1:{server.port}/v1/realtime")
    (tmp_path / "data").mkdir()
    soundfile.write(tmp_path / "data" / "question_0.wav", question(), RATE)
    rows = [
        {"category": "web_of_lies", "official_answer": "No", "file_name": "data\\question_0.wav", "id": 0},
        {"category": "object_counting", "official_answer": "4", "file_name": "data/question_1.mp3", "id": 1},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines: list[str] = []
    output = tmp_path / "results.jsonl"
    try:
        figures = run_live(big_bench_audio.NAME, tmp_path, system, output, log=lines.append)
    finally:
        server.stop()
    assert "1 left out, a recording that is missing: line 2" in lines[0] and "2 rows, 1000 were published" in lines[1]
    lies = figures["sets"]["web_of_lies"]
    assert lies["correct"]["value"] == 100 and lies["items"] == 1 and lies["not_judged"] == 0
    assert lies["response_s"]["p50"] > 0.3
    _, written = read_results(output)
    assert written[0]["words"] and written[1]["model"] == "match"


@pytest.mark.parametrize(
    ("answer", "official", "right"),
    [
        ("No, he does not.", "No", True),
        ("Yes. Or no?", "No", False),
        ("The argument is invalid.", "invalid", True),
        ("The argument is invalid.", "valid", False),
        ("You have six fruits.", "6", True),
        ("You have 16 fruits.", "6", False),
        ("", "Yes", False),
    ],
)
def test_short_answers_without_a_judge(answer: str, official: str, right: bool) -> None:
    assert short_answer_matches(answer, official) is right


def test_trouble(system: LiveClient, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no live suite 'x'"):
        run_live("x", data, system, tmp_path / "r.jsonl")
    with pytest.raises(DataError, match=r"metadata\.jsonl: this file is missing"):
        big_bench_audio.load(tmp_path)
    with pytest.raises(EvaluationError, match="is no Realtime address"):
        LiveClient("http://127.0.0.1:8000")
    arguments = ["eval", "live", full_duplex.NAME, "--data", str(data), "--output", str(tmp_path), "--limit", "1"]
    assert main([*arguments, "--system", "ws://127.0.0.1:9/v1/realtime"]) == 2
    assert "127.0.0.1:9/v1/realtime does not answer" in capsys.readouterr().err


def test_command(server: LiveServer, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "live", full_duplex.NAME, "--data", str(data), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--system", f"ws://127.0.0.1:{server.port}/v1/realtime"]) == 0
    assert "full_duplex_bench v1_0/own_turn_taking taken_over: " in capsys.readouterr().out
    assert "v1_0/own_turn_taking" in json.loads((tmp_path / "out" / f"{full_duplex.NAME}.json").read_text())["sets"]
    assert main(["eval", "compare", *[str(tmp_path / "out" / f"{full_duplex.NAME}.jsonl")] * 2]) == 2
    assert "are not compared one by one" in capsys.readouterr().err


def test_a_full_server_is_waited_for(data: Path, tmp_path: Path) -> None:
    """Two sessions at a server with one place: one begins when the other has ended."""
    server = LiveServer(FakeEngine(max_sessions=1))
    turn = data / "v1_0" / "own_turn_taking" / "1"
    for number in ("1", "2"):
        shutil.copytree(turn, tmp_path / "v1_0" / "own_turn_taking" / number)
    client = LiveClient(f"ws://127.0.0.1:{server.port}/v1/realtime")
    try:
        sets = run_live(full_duplex.NAME, tmp_path, client, tmp_path / "r.jsonl", sessions=2, log=lambda _: None)
    finally:
        server.stop()
    assert sets["sets"]["v1_0/own_turn_taking"]["failed"] == 0


def test_our_server_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell script in Python's place: it greets as the server does and waits, or fails."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "m: talk to it at http://127.0.0.1:123/ ; programs"\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with serving(tmp_path, 2) as url:
        assert url == "ws://127.0.0.1:123/v1/realtime"
    program.write_text("#!/bin/sh\necho 'there is no checkpoint.' >&2\n")
    with pytest.raises(EvaluationError, match=r"did not start: there is no checkpoint\."), serving(tmp_path, 2):
        pass


def test_a_session_that_the_server_refuses_is_the_item_s_failure(
    server: LiveServer, data: Path, tmp_path: Path
) -> None:
    system = LiveClient(f"ws://127.0.0.1:{server.port}/v1/realtime", voice="nobody")
    sets = run_live(full_duplex.NAME, data, system, tmp_path / "r.jsonl", log=lambda _: None)["sets"]
    assert sets["v1_0/own_turn_taking"]["failed"] == 1 and sets["v1_0/own_turn_taking"]["taken_over"]["value"] == 0
    assert sets["v1_0/own_pause_handling"]["taken_over"]["value"] == 100  # what is not wanted


def test_the_bundle_is_whole() -> None:
    benchmark = full_duplex.load(BUNDLE / "full_duplex_bench")
    assert benchmark.problems == [] and {item.task for item in benchmark.items} == {
        *full_duplex.V1_TASKS,
        *full_duplex.OVERLAPS,
    }
    questions = big_bench_audio.load(BUNDLE / "big_bench_audio")
    assert {item.subset for item in questions.items} == set(big_bench_audio.CATEGORIES)
    assert len(questions.problems) == 1  # fewer than published
    size = sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file())
    assert size < 6e6
