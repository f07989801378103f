"""Full-Duplex-Bench: its layout, what is told of broken data, and the rules by which an output is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from baichuan_audio.errors import DataError
from baichuan_audio.evaluation.live.full_duplex import load, score, takes_over

from .conftest import RATE, tone


def sample(root: Path, folder: str, number: int = 1, **annotations: Any) -> Path:
    """One sample with JSON files named by the keywords."""
    path = root / folder / str(number)
    path.mkdir(parents=True)
    soundfile.write(path / "input.wav", tone(), RATE)
    for name, content in annotations.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    sample(tmp_path, "v1_0/candor_pause_handling", 10, pause=[{"text": "[PAUSE]", "timestamp": [1.0, 1.7]}])
    sample(tmp_path, "v1_0/candor_pause_handling", 2, pause=[{"text": "[PAUSE]", "timestamp": [0.5, 1.0]}])
    sample(tmp_path, "v1_0/candor_turn_taking", turn_taking=[{"timestamp": [2.0, 2.4]}], transcription={"text": "hi"})
    sample(tmp_path, "v1_0/icc_backchannel", transcription={"text": "a story"})
    interrupt = [{"context": "one", "interrupt": "two", "timestamp": [3.0, 4.5]}]
    sample(tmp_path, "v1_0/synthetic_user_interruption", interrupt=interrupt)
    metadata = {"context_text": "one", "current_turn_text": "two", "timestamps": [3, 4]}
    sample(tmp_path, "v1.5/talking_to_other", metadata=metadata)
    return tmp_path


def test_the_published_layout(data: Path) -> None:
    benchmark = load(data)
    assert benchmark.problems == []
    found = {item.id: (item.task, item.window, item.text) for item in benchmark.items}
    assert found == {
        "v1_0/candor_pause_handling/2": ("pause_handling", (0.5, 1.0), ""),
        "v1_0/candor_pause_handling/10": ("pause_handling", (1.0, 1.7), ""),
        "v1_0/candor_turn_taking/1": ("turn_taking", (2.0, 2.4), "hi"),
        "v1_0/icc_backchannel/1": ("backchannel", None, "a story"),
        "v1_0/synthetic_user_interruption/1": ("user_interruption", (3.0, 4.5), "one | two"),
        "v1_5/talking_to_other/1": ("talking_to_other", (3.0, 4.0), "one | two"),
    }
    assert next(iter(found)).endswith("/2")  # by number


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("pause.json", None, "no pause.json"),
        ("pause.json", b"{", "a pause.json that is no JSON"),
        ("pause.json", b"[]", "a pause.json without an entry"),
        ("pause.json", b'[{"timestamp": [1]}]', "no timestamp of two numbers"),
        ("pause.json", b'[{"timestamp": [2, 1]}]', "a timestamp that does not run forward"),
        ("pause.json", b"version https://git-lfs", "Git LFS pointer"),
        ("input.wav", None, "a recording that is missing"),
        ("input.wav", b"RIFF", "a recording that is no audio file"),
    ],
)
def test_broken_samples_are_told(data: Path, name: str, content: bytes | None, sentence: str) -> None:
    path = data / "v1_0" / "candor_pause_handling" / "10" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    benchmark = load(data)
    assert len(benchmark.items) == 5 and len(benchmark.problems) == 1
    assert sentence in benchmark.problems[0] and benchmark.problems[0].endswith(": 10.")
    with pytest.raises(DataError, match="candor_pause_handling"):
        load(data, strict=True)


def test_folders_without_a_task(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load(tmp_path / "missing")
    with pytest.raises(DataError, match="no task below"):
        load(tmp_path)
    (tmp_path / "v1_0" / "candor_singing").mkdir(parents=True)
    with pytest.raises(DataError, match="no task of Full-Duplex-Bench v1_0"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("speech_s", "words", "taken"),
    [(0.0, 0, False), (0.9, 3, False), (0.9, 4, True), (1.0, 1, True), (5.0, 12, True)],
)
def test_the_published_rule_of_taking_over(speech_s: float, words: int, taken: bool) -> None:
    assert takes_over(speech_s, words) is taken


def row(task: str, window: Any, segments: Any, words: Any = (), cuts: Any = ()) -> dict[str, Any]:
    return {"task": task, "window": window, "segments": segments, "words": words, "cuts": cuts, "seconds": 10.0}


def test_pauses() -> None:
    quiet = score(row("pause_handling", (1.0, 2.0), []))
    assert quiet == {"taken_over": False, "false_alarm": False}
    blip = score(row("pause_handling", (1.0, 2.0), [(1.9, 2.1)], [(1.9, "The cap")]))
    assert blip == {"taken_over": False, "false_alarm": True}
    assert score(row("pause_handling", (1.0, 2.0), [(1.9, 3.1)], [(1.9, "a")]))["taken_over"]


def test_turns() -> None:
    assert score(row("turn_taking", (2.0, 2.4), [(2.75, 4.0)], [(2.7, "Yes, it is.")])) == {
        "taken_over": True,
        "response_s": 0.75,
    }
    early = score(row("turn_taking", (2.0, 2.4), [(1.5, 4.0)], [(1.5, "Yes, it is.")]))
    assert early["response_s"] == 0.0  # as published
    assert score(row("turn_taking", (2.0, 2.4), [(2.5, 2.9)], [(2.5, "Hm")])) == {
        "taken_over": False,
        "response_s": None,
    }


def test_backchannels() -> None:
    short = score(row("backchannel", None, [(2.0, 2.4), (5.0, 5.5)], [(2.0, "Mm"), (5.0, "I see")]))
    assert short == {"taken_over": False, "backchannels_per_s": 0.2}
    assert score(row("backchannel", None, [(2.0, 2.8)], [(2.0, "well I think so")]))["taken_over"]
    assert score(row("backchannel", None, [(2.0, 3.2)], [(2.0, "Mm")]))["taken_over"]


def test_interruptions() -> None:
    words = [(2.0, "One, two"), (5.2, "Paris it is")]
    stopped = score(row("user_interruption", (3.0, 4.5), [(2.0, 3.2), (5.25, 7.0)], words, [[3.2, 2.0]]))
    assert stopped == {
        "speaking": True,
        "stopped": True,
        "stop_s": pytest.approx(0.2),
        "taken_over": True,
        "response_s": pytest.approx(0.75),
    }
    ignored = score(row("user_interruption", (3.0, 4.5), [(2.0, 6.0)], [(2.0, "One")]))
    assert ignored["speaking"] and not ignored["stopped"] and not ignored["taken_over"]
    between_words = score(row("user_interruption", (3.0, 4.5), [(2.0, 2.8)], [(2.0, "One")], [[3.2, 1.0]]))
    assert between_words["speaking"] and between_words["stopped"]
    silent = score(row("user_interruption", (3.0, 4.5), [(5.0, 6.5)], [(5.0, "Paris")]))
    assert not silent["speaking"] and not silent["stopped"] and silent["taken_over"]
