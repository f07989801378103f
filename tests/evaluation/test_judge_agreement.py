"""How far a judge can be trusted: against marks of people, in repeats, with other orders and lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baichuan_audio.cli import main
from baichuan_audio.errors import DataError
from baichuan_audio.evaluation.judge.agreement import cohen_kappa, measure_agreement, read_marks
from baichuan_audio.evaluation.judge.api import ApiJudge, MatchJudge

from .conftest import OpenAIServer, completion

MARKS = Path(__file__).parents[2] / "examples" / "evaluation" / "judge" / "marks.jsonl"


def test_the_bundled_marks() -> None:
    rows = [json.loads(line) for line in MARKS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 60 and {row["marked_by"] for row in rows} == {"a maintainer"}
    assert len({row["id"] for row in rows}) == len(rows)
    right = sum(row["right"] for row in rows)
    assert 0.3 < right / len(rows) < 0.7
    assert len(read_marks(MARKS)) == len(rows)


def test_the_offline_match_against_people() -> None:
    """It cannot see a denial and knows no synonyms: written answers were chosen to show that."""
    figures = measure_agreement([MatchJudge()], read_marks(MARKS))
    assert figures["not_judged"] == 0 and figures["unparsed"] == 0
    assert 0.2 < figures["kappa"] < 0.8
    assert figures["order"]["changed"] == 0 and figures["length"]["made_wrong"] == 0
    wrong = {entry["answer"]: entry["judge"] for entry in figures["disagreements"]}
    assert wrong["The capital of France is not Paris but Lyon."] is True and wrong["Tokio"] is False


def judged(body: Any) -> tuple[str, str]:
    """The answer in a judge's prompt, and the first reference."""
    prompt = body["messages"][0]["content"]
    answer = prompt.rpartition("<answer>\n")[2].rpartition("\n</answer>")[0]
    reference = prompt.partition("Reference answers:\n")[2].partition("\n")[0]
    return answer, reference.partition(";")[0]


def test_flips_order_and_length_are_found(openai_server: OpenAIServer, tmp_path: Path) -> None:
    """A judge that reads the first reference alone, dislikes long answers, and changes its mind about one answer."""
    marks = tmp_path / "marks.jsonl"
    rows = [
        {"answer": "Paris", "right": True},
        {"answer": "France", "right": True},
        {"answer": "Rome", "right": False},
        {"answer": "Lyon", "right": False},
    ]
    shared = {"set": "web_questions", "question": "where is it?", "references": ["Paris", "France"], "language": "en"}
    lines = [json.dumps({"id": str(number), **shared, **row}) for number, row in enumerate(rows)]
    marks.write_text("\n".join(lines) + "\n")
    calls = 0

    def answer(_: str, body: Any) -> tuple[int, Any]:
        nonlocal calls
        calls += 1
        text, first = judged(body)
        right = text == first or (text == "Lyon" and calls % 2 == 0)
        return 200, completion(json.dumps({"analysis": "", "judgment": "correct" if right else "incorrect"}))

    openai_server.answer = answer

    def judges() -> list[ApiJudge]:
        cache = tmp_path / "cache.jsonl"
        return [ApiJudge(openai_server.base_url, "judge", cache, repeat=repeat) for repeat in range(3)]

    figures = measure_agreement(judges(), read_marks(marks))
    assert figures["repeats"] == 3 and figures["flips"] == 0  # every fourth call is about Lyon
    assert figures["kappa"] == pytest.approx(0.0) and figures["precision"] == 0.5 and figures["recall"] == 0.5
    assert figures["order"] == {"changed": 2, "answers": 4}  # "Paris" and "France"
    assert figures["length"] == {"made_right": 0, "made_wrong": 2, "answers": 4}
    made = calls
    assert measure_agreement(judges(), read_marks(marks)) == figures and calls == made  # all of it is kept
    openai_server.answer = lambda path, body: (200, completion("I cannot tell."))
    unsure = measure_agreement([ApiJudge(openai_server.base_url, "x", tmp_path / "x.jsonl")], read_marks(marks))
    assert unsure["unparsed"] == 4 and unsure["recall"] == 0 and unsure["precision"] is None


def test_verdicts_that_flip(openai_server: OpenAIServer, tmp_path: Path) -> None:
    verdicts = iter(["the score is [Correct]", "the score is [Incorrect]", "the score is [Correct]"])
    openai_server.answer = lambda path, body: (200, completion(next(verdicts, "the score is [Correct]")))
    marks = tmp_path / "marks.jsonl"
    row = {"id": "a", "set": "llama_questions", "question": "q", "references": ["b"], "language": "en"}
    marks.write_text(json.dumps({**row, "answer": "c", "right": True}) + "\n")
    cache = tmp_path / "cache.jsonl"
    judges = [ApiJudge(openai_server.base_url, "judge", cache, repeat=repeat) for repeat in range(3)]
    assert measure_agreement(judges, read_marks(marks))["flips"] == 1


def test_command(openai_server: OpenAIServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "judge", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repeats"] == 1
    marks = tmp_path / "marks.jsonl"
    marks.write_text(MARKS.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    options = ["--judge-url", openai_server.base_url, "--judge-cache", str(tmp_path / "c.jsonl"), "--repeats", "2"]
    assert main(["eval", "judge", str(marks), *options]) == 0
    printed = capsys.readouterr()
    assert "1 answers, judged 2 times: kappa with people" in printed.out and "judging takes 1 calls" in printed.err
    marks.write_text('{"id": 1}\n')
    assert main(["eval", "judge", str(marks)]) == 2
    assert "line 1, is no object with id, set, question" in capsys.readouterr().err
    with pytest.raises(DataError, match="cannot be read"):
        read_marks(tmp_path / "none.jsonl")


def test_agreement_beyond_chance() -> None:
    # By hand: agreement 0.7; chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; (0.7 - 0.5) / 0.5 = 0.4.
    first, second = list("yyyyynnnnn"), list("yyyynyynnn")
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa(["y"], ["y"]) == 1
    with pytest.raises(ValueError, match="as many labels"):
        cohen_kappa(["y"], [])
