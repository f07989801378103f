"""`baichuan-audio eval`: what it prints and writes, and what it says to wrong requests."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from baichuan_audio.cli import common, evaluation, main
from baichuan_audio.cli.app import build_parser, current_names
from baichuan_audio.evaluation.results import read_results
from baichuan_audio.evaluation.suites.registry import SUITES

from .conftest import OpenAIServer, completion
from .layouts import librispeech, openaudiobench


def ask(*arguments: str | Path) -> int:
    return main(["eval", *map(str, arguments)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the data of two suites."""
    for name, build in (("LibriSpeech", librispeech), ("openaudiobench", openaudiobench)):
        (tmp_path / "data" / name).mkdir(parents=True)
        build(tmp_path / "data" / name)
    return tmp_path / "data"


def test_run_may_be_left_out() -> None:
    assert current_names(["eval", "fleurs", "--limit", "2"]) == ["eval", "run", "fleurs", "--limit", "2"]
    for words in (["eval", "compare", "a", "b"], ["eval", "list"], ["eval", "--help"], ["eval"]):
        assert current_names(words) == words
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    group = next(a for a in commands.choices["eval"]._actions if isinstance(a, argparse._SubParsersAction))
    assert set(group.choices) == set(evaluation.COMMANDS)


def test_list_and_power(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(SUITES) and listed["s2sbench"]["settings"] == ["t2t_loss", "s2t_loss"]
    assert ask("list") == 0 and "kespeech: character error rate of each sub-dialect" in capsys.readouterr().out
    assert ask("power", "--points", "2", "30", "--discordant", "0.2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 points, differing on 20 % of the items: 3923 items" and "impossible" in lines[1]


def test_a_checkpoint_is_measured_recorded_and_compared(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert ask("librispeech", "openaudiobench", "--data", data, "--output", first, "--settings", "t2t", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"librispeech", "openaudiobench"}
    assert figures == {name: json.loads((first / f"{name}.json").read_text(encoding="utf-8")) for name in figures}
    assert read_results(first / "librispeech.jsonl")[0]["system"]["kind"] == "local"
    assert figures["librispeech"]["sets"]["test-clean"]["error_rate"]["value"] > 0

    assert ask("openaudiobench", "--data", data, "--system", first, "--output", second, "--settings", "t2t") == 0
    printed = capsys.readouterr()
    assert re.search(
        r"^openaudiobench llama_questions t2t strict: \S+ \[\S+, \S+\], 3 items$", printed.out, re.MULTILINE
    )
    assert f"every item in {second / 'openaudiobench.jsonl'}." in printed.out
    assert "openaudiobench: 8 items in" in printed.err
    assert read_results(second / "openaudiobench.jsonl")[0]["system"]["kind"] == "recorded"

    assert ask("compare", first, second) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("+0.00" in line and "McNemar p 1" in line for line in lines)
    assert ask("compare", first / "librispeech.jsonl", first / "librispeech.jsonl", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["figure"] == "test-clean asr" and row["difference"] == 0 and row["items"] == 2
    assert ask("compare", first / "librispeech.jsonl", first / "openaudiobench.jsonl") == 2
    assert "differ in suite" in capsys.readouterr().err


def test_a_server_a_judge_and_its_cost(
    openai_server: OpenAIServer, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = completion('the score is [Correct] [5] [[5]] {"judgment": "correct"}')
    openai_server.answer = lambda path, body: (200, judged)
    common: list[Any] = ["openaudiobench", "--data", data, "--system", openai_server.base_url, "--batch", "4"]
    common += ["--judge-url", openai_server.base_url, "--prices", "1000", "1000", "--output", tmp_path / "out"]
    assert ask(*common, "--max-cost", "0.5") == 2
    errors = capsys.readouterr().err
    assert "judging takes 8 calls" in errors and "above the limit of 0.50" in errors
    asked = len(openai_server.requests)
    assert asked == 8  # replies alone
    assert ask(*common) == 0
    assert len(openai_server.requests) == asked + 8
    assert "judging takes 8 calls" in capsys.readouterr().err
    assert (tmp_path / "out" / "judge-cache.jsonl").is_file()


def test_training_data_are_compared(tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("good morning\n")
    options = ["--data", data, "--output", tmp_path / "out", "--training", tmp_path / "texts.txt", "--json"]
    assert ask("librispeech", *options) == 0
    figures = json.loads(capsys.readouterr().out)["librispeech"]
    assert figures["contamination"]["sets"]["test-clean"]["any_text"] == 1


def test_progress_says_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 100.0, 200.0, 300.0, 301.0])
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock))
    with common.Bar("fleurs") as bar:
        bar.update("items", 4, 10)
        bar.update("items", 5, 10)
        bar.update("items", 6, 10)
        bar.update("items", 9, 10)
        bar.update("items", 10, 10)  # a second later: not told where there is no terminal
    assert capsys.readouterr().err.splitlines() == [
        "fleurs [##########          ] 5 of 10 items, 8 min left",
        "fleurs [############        ] 6 of 10 items, 7 min left",
        "fleurs [##################  ] 9 of 10 items, 60 s left",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mmlu"], r"there is no suite 'mmlu'; there are openaudiobench,"),
        (["librispeech", "--data", "nowhere"], r"nowhere: there is no such folder of data\."),
        (["librispeech", "fleurs"], r"there is no folder 'fleurs' in it"),
        (["librispeech", "--settings", "s2t", "--system", "http://x"], r"no setting 's2t' in librispeech, but asr\."),
        (["openaudiobench", "--strict", "--system", "http://x/v1"], r"rows, 202 were published"),
        (["openaudiobench", "--settings", "s2s_text", "s2s_asr", "--system", "http://x/v1"], r"name a recogniser"),
        (["librispeech", "--system", "missing.jsonl"], r"missing\.jsonl: there is no result file"),
    ],
)
def test_wrong_requests(
    arguments: list[str], sentence: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [] if "--data" in arguments else ["--data", data]
    assert ask(*arguments, *options, "--output", tmp_path / "out") == 2
    errors = capsys.readouterr().err.splitlines()[-1]
    assert errors.startswith("baichuan-audio: ") and re.search(sentence, errors), errors


def test_suites_that_need_a_checkpoint_say_so(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from .layouts import s2sbench

    (data / "s2sbench").mkdir()
    s2sbench(data / "s2sbench")
    assert ask("s2sbench", "--data", data, "--system", "http://x/v1", "--output", tmp_path / "out") == 2
    assert "gives no likelihoods; name a checkpoint" in capsys.readouterr().err
