"""The benchmark of concurrent dialogues: what a listener measures, and one run against the real server."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi", reason="the server's libraries are not installed: pip install 'baichuan-audio[server]'")

from fake_engine import FakeEngine
from page_tools import LiveServer

from baichuan_audio.bench.server import serve
from baichuan_audio.bench.server.listener import RATE, SILENCE_MS, Player
from baichuan_audio.bench.server.memory import resident_memory
from baichuan_audio.bench.server.serve import QUESTION_SECONDS, hold_dialogues, read_speech
from baichuan_audio.bench.server.server_process import ServerProcess
from baichuan_audio.cli import main
from baichuan_audio.errors import AudioError, BaichuanAudioError

EXAMPLE = Path(__file__).parents[2] / "examples/en-sum-2.wav"


def test_a_player_knows_when_it_ran_dry():
    player = Player(10.0)
    for seconds, now in ((1.0, 10.5), (0.5, 10.8), (1.0, 13.0)):
        player.receive(seconds, now)
    assert player.first == 0.5 and player.audio == 2.5 and player.last == 13.0
    assert player.silence == pytest.approx(13.0 - 12.0)


def test_speech_is_read_without_the_silence_around(tmp_path: Path):
    tone = 0.3 * np.sin(np.arange(RATE) * 0.1)
    faint = 0.001 * tone
    soundfile.write(tmp_path / "tone.wav", np.concatenate([faint, tone, faint]), RATE)
    assert len(read_speech(tmp_path / "tone.wav")) / 2 == pytest.approx(RATE, abs=RATE // 100)
    soundfile.write(tmp_path / "silence.wav", 0 * tone, RATE)
    with pytest.raises(AudioError, match="the recording is silent"):
        read_speech(tmp_path / "silence.wav")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serve, "REPLY_TOKENS", 12)


async def test_what_listeners_measure():
    """A server with an engine that takes at least 20 ms for a tenth of a second of sound."""
    engine = FakeEngine(delay=0.02, answer="word " * 2000)
    server = LiveServer(engine)
    try:
        there = ServerProcess(server.port)
        row = await hold_dialogues(there, read_speech(EXAMPLE), 2, 1)
    finally:
        server.stop()
    questions = [dialogue.items[0][2][0] for dialogue in engine.dialogues[-2:]]
    assert [len(sound.waveform) / sound.sample_rate for sound in questions] == pytest.approx(
        [QUESTION_SECONDS] * 2, abs=0.1
    )
    assert row["sessions"] == row["replies"] == 2
    seconds = 12 * 0.2  # a word each
    assert 0.02 <= row["first_audio_p50"] <= row["first_audio_p95"] < seconds
    assert row["rtf_p50"] >= 3 * 12 * 0.02 / seconds
    assert row["audio_per_second"] > 0 and row["underruns"] <= 2
    assert 0 <= row["cancel_p50"] <= row["cancel_p95"]
    assert row["barge_in_p50"] > 0.05  # speech has to last so long to be told from a click
    assert row["endpoint_p50"] > 0.3 and SILENCE_MS == 500


def test_soak_holds_dialogues_with_a_running_server(tmp_path: Path, capsys):
    (tmp_path / "question.wav").write_bytes(EXAMPLE.read_bytes())
    server = LiveServer(FakeEngine(answer="two words"))
    options = ["--minutes", "0.01", "--dialogues", "1", "--questions", str(tmp_path)]
    try:
        url = f"http://127.0.0.1:{server.port}"
        assert main(["bench", "soak", "--url", url, *options, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["replies"] == 1 and result["failures"] == [] and result["first_audio_p50"] > 0
        assert main(["bench", "soak", "--url", url, *options, "--longest-reply", "0.1"]) == 1
        assert "1 failures" in capsys.readouterr().out
    finally:
        server.stop()
    assert main(["bench", "soak", "--url", url, *options]) == 2
    assert "no server answers there" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_holds_conversations(tiny_dir: Path, tmp_path: Path, capsys):
    options = ["--sessions", "2", "--turns", "1", "--speech", str(EXAMPLE), "--device", "cpu", "--threads", "1"]
    output = tmp_path / "out"
    assert main(["bench", "serve", "--model", str(tiny_dir), *options, "--output", str(output)]) == 0
    assert "| end of turn detected" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {"serve.json", "serve.md", "serve.png"}
    (row,) = json.loads((output / "serve.json").read_text())["sweep"]
    assert row["sessions"] == row["replies"] == 2 and row["batch"] > 0 and row["peak"] > 10_000_000
    assert all(row[name] > 0 for name in ("first_audio_p50", "rtf_p95", "barge_in_p50", "endpoint_p95"))
    with pytest.raises(SystemExit):
        main(["bench", "serve", "--sessions", "0"])
    assert main(["bench", "serve", "--model", str(tmp_path), *options]) == 2
    assert "the server did not start" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process's memory")
def test_the_command_measures_memory(tiny_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stored as it is, and with random weights of the same sizes; memory grows from stage to stage."""
    options = ["--sessions", "2", "--speech", str(EXAMPLE), "--device", "cpu", "--threads", "1", "--json"]
    for source in (["--model", str(tiny_dir)], ["--random-init", str(tiny_dir / "config.json")]):
        assert main(["bench", "memory", *source, *options]) == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        stages = list(row["stages"].items())
        assert [name for name, _ in stages] == ["imports", "ready", "first reply", "2 dialogues"]
        for (_, earlier), (_, later) in itertools.pairwise(stages):
            assert 0.8 * earlier["resident"] < later["resident"] <= row["peak"]
            assert 0 < later["private"] < later["resident"]


def test_memory_of_a_process_that_there_is_not() -> None:
    with pytest.raises(BaichuanAudioError, match="the memory of a process cannot be read here"):
        resident_memory(-1)
