"""A whole evaluation: rows, resuming, refusing, order, official beside strict figures, and the cost of speech."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.evaluation.judge.api import JudgeCost, MatchJudge, Verdict
from baichuan_audio.evaluation.results import EvaluationError, ResultFile, read_results
from baichuan_audio.evaluation.suites import ask
from baichuan_audio.evaluation.suites.items import Item
from baichuan_audio.evaluation.suites.run import ordered_map, run_suite
from baichuan_audio.evaluation.suites.summary import summarize
from baichuan_audio.evaluation.systems.recorded import RecordedSystem

from .conftest import ScriptedRecogniser, ScriptedSystem

REPLIES = {
    "What is the capital of France?": "It is Paris.",
    "How many legs has a spider?": "A spider has eight legs.",
    "Who coached the Panthers?": "dom capers did",
    "Which town is Bohemia's capital?": "Prague",
    "一年有几个月？": "一年有十二个月。",
}


class ScriptedJudge:
    """Writes what it was given for the answer, else that it is correct."""

    parses_official = True

    def __init__(self, verdicts: dict[str, str] | None = None) -> None:
        self.verdicts, self.asked = verdicts or {}, list[tuple[str, str]]()

    def provenance(self) -> dict[str, Any]:
        return {"kind": "scripted"}

    def judges(self, item: Item) -> bool:
        return True

    def estimate(self, asked: Any) -> JudgeCost:
        return JudgeCost(len(asked), 0, 0, 0, 0.0, True)

    def judge(self, item: Item, answer: str) -> Verdict:
        self.asked.append((item.id, answer))
        return Verdict(self.verdicts.get(answer, "the score is [Correct]"), "scripted-1")


def evaluate(data: Path, output: Path, system: Any = None, **options: Any) -> dict[str, Any]:
    options = {"judge": MatchJudge(), "recogniser": ScriptedRecogniser(), "log": lambda _: None} | options
    return run_suite("openaudiobench", data, system or ScriptedSystem(REPLIES), output, **options)


def test_three_settings_and_the_speech_tax(benchmark_dir: Path, tmp_path: Path) -> None:
    figures = evaluate(benchmark_dir, tmp_path / "r.jsonl")
    llama = figures["sets"]["llama_questions"]
    assert llama["items"] == {"published": 300, "left_out": 0, "evaluated": 3}
    strict = {setting: value["strict"]["value"] for setting, value in llama["settings"].items()}
    assert strict == {
        "s2t": pytest.approx(200 / 3),
        "s2s_text": pytest.approx(200 / 3),
        "s2s_asr": pytest.approx(100 / 3),
    }
    tax = {(row["from"], row["to"]): row for row in llama["speech_tax"]}
    assert tax["s2t", "s2s_text"]["difference"]["value"] == 0 and tax["s2t", "s2s_text"]["mcnemar_p"] == 1
    assert tax["s2s_text", "s2s_asr"]["difference"]["value"] == pytest.approx(-100 / 3)
    assert tax["s2t", "s2s_asr"]["difference"]["items"] == 3
    # Nothing offline can judge an open request, and no reply to it is counted.
    alpaca = figures["sets"]["alpaca_eval"]["settings"]["s2t"]
    assert (alpaca["strict"], alpaca["official"], alpaca["not_judged"]) == (None, None, 1)
    # The recogniser always writes "paris": on English questions, and on replies.
    english = figures["recogniser"]["known_speech"]["en"]["error_rate"]
    assert english["value"] > 80 and english["items"] == 6
    assert set(figures["recogniser"]["replies"]) == {"en", "zh"}


def test_official_and_strict_figures_by_hand(benchmark_dir: Path, tmp_path: Path) -> None:
    """Four-level arithmetic: of three verdicts one cannot be parsed; of another set one reply failed."""
    answers = {
        "What is the capital of France?": "one",
        "How many legs has a spider?": "two",
        "Which planet is the largest, and why?": "three",
        "小明有3个苹果，又买了4个，一共几个？": "四",
        "Who coached the Panthers?": "five",
        "Write a limerick, please.": "six",
    }
    verdicts = {
        "one": "the score is [Correct]",
        "two": "I think it is right.",
        "three": "the score is [Incorrect]",
        "四": "先[1]后[4]",
        "five": "{'judgment': 'correct'}",
        "six": "[[7]]",
    }
    system = ScriptedSystem(answers, failing=("一年有几个月？",))
    figures = evaluate(
        benchmark_dir, tmp_path / "r.jsonl", system, judge=ScriptedJudge(verdicts), recogniser=None, settings=["s2t"]
    )
    sets = {name: value["settings"]["s2t"] for name, value in figures["sets"].items()}
    assert sets["llama_questions"]["official"] == {"value": 50.0, "counted": 2, "left_out": 1}
    assert sets["llama_questions"]["strict"]["value"] == pytest.approx(100 / 3)
    assert sets["llama_questions"]["strict"]["items"] == 3
    assert sets["llama_questions"]["unparsed"] == ["llama_questions/1.wav"]
    assert sets["reasoning_qa"]["official"] == {"value": 80.0, "counted": 1, "left_out": 1}
    assert sets["reasoning_qa"]["strict"]["value"] == 0 and sets["reasoning_qa"]["failed"] == ["reasoning_qa/1.wav"]
    assert sets["web_questions"]["official"]["value"] == 100 and sets["web_questions"]["strict"]["value"] == 0
    assert sets["alpaca_eval"]["official"]["value"] == 70 and sets["alpaca_eval"]["strict"]["value"] == 70
    assert figures["judge_models"] == ["scripted-1"]


def test_everything_failed_is_zero_not_missing(benchmark_dir: Path, tmp_path: Path) -> None:
    system = ScriptedSystem(failing=("Who coached the Panthers?",))
    figures = evaluate(benchmark_dir, tmp_path / "r.jsonl", system)
    web = figures["sets"]["web_questions"]["settings"]
    assert [web[setting]["strict"]["value"] for setting in web] == [0, 0, 0]
    assert web["s2s_asr"]["failed"] == ["web_questions/0.wav"]


@pytest.mark.parametrize("stop_at", range(0, 16, 3))
def test_stopped_and_started_again_gives_the_same_file(benchmark_dir: Path, tmp_path: Path, stop_at: int) -> None:
    evaluate(benchmark_dir, tmp_path / "whole" / "r.jsonl")
    output = tmp_path / "broken" / "r.jsonl"
    stopped = ScriptedSystem(REPLIES, stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        evaluate(benchmark_dir, output, stopped)
    going_on = ScriptedSystem(REPLIES)
    evaluate(benchmark_dir, output, going_on)
    assert output.read_bytes() == (tmp_path / "whole" / "r.jsonl").read_bytes()
    repeated = {item for item, _ in stopped.asked} & {item for item, _ in going_on.asked}
    assert len(repeated) <= 1  # at most the item under way


def test_cut_at_any_byte_gives_the_same_file(benchmark_dir: Path, tmp_path: Path) -> None:
    """As after a power cut: what is behind the last line break is written again."""
    output = tmp_path / "r.jsonl"
    evaluate(benchmark_dir, output)
    whole = output.read_bytes()
    for length in range(0, len(whole), len(whole) // 20):
        output.write_bytes(whole[:length])
        evaluate(benchmark_dir, output)
        assert output.read_bytes() == whole, length


def test_finished_asks_nobody(benchmark_dir: Path, tmp_path: Path) -> None:
    evaluate(benchmark_dir, tmp_path / "r.jsonl")
    again = ScriptedSystem(REPLIES)
    evaluate(benchmark_dir, tmp_path / "r.jsonl", again)
    assert again.asked == []


def test_changed_inputs_are_refused_by_name(benchmark_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.jsonl"
    evaluate(benchmark_dir, output)
    with pytest.raises(EvaluationError, match=r"other inputs \(system\.name\); name another output"):
        evaluate(benchmark_dir, output, ScriptedSystem(REPLIES, name="another"))
    with pytest.raises(EvaluationError, match=r"recogniser\.text"):
        evaluate(benchmark_dir, output, recogniser=ScriptedRecogniser("prague"))
    with pytest.raises(EvaluationError, match=r"judge\.kind"):
        evaluate(benchmark_dir, output, judge=ScriptedJudge())
    with pytest.raises(EvaluationError, match=r"data\.digest.*limit"):
        evaluate(benchmark_dir, output, limit=1)
    recording = benchmark_dir / "eval_datas" / "web_questions" / "audios" / "0.wav"
    recording.write_bytes(recording.read_bytes()[:-2] + b"\1\1")
    with pytest.raises(EvaluationError, match=r"\(data\.digest\)"):
        evaluate(benchmark_dir, output)


def test_company_and_order_change_nothing(benchmark_dir: Path, tmp_path: Path) -> None:
    evaluate(benchmark_dir, tmp_path / "one" / "r.jsonl")
    evaluate(benchmark_dir, tmp_path / "eight" / "r.jsonl", workers=8)
    assert (tmp_path / "one" / "r.jsonl").read_bytes() == (tmp_path / "eight" / "r.jsonl").read_bytes()
    evaluate(benchmark_dir, tmp_path / "first" / "r.jsonl", limit=1)
    _, rows = read_results(tmp_path / "one" / "r.jsonl")
    _, fewer = read_results(tmp_path / "first" / "r.jsonl")
    assert len(fewer) < len(rows) and all(row in rows for row in fewer)


def test_ordered_map_keeps_order_and_ends_at_an_error() -> None:
    assert list(ordered_map(lambda number: number * 2, range(50), 7)) == list(range(0, 100, 2))
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda number: 1 // (number - 20), range(50), 4))


def test_what_came_before_an_error_is_not_lost() -> None:
    def entries() -> Any:
        yield from range(3)
        raise KeyboardInterrupt

    results = ordered_map(lambda entry: entry + 1, entries(), 2)
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_the_system_replies_while_its_last_reply_is_read_back(benchmark_dir: Path, tmp_path: Path) -> None:
    """The recogniser waits for the system's second reply, which would never come if one waited for the other."""
    second = threading.Event()

    class System(ScriptedSystem):
        def answer(self, *arguments: Any, **named: Any) -> Any:
            reply = super().answer(*arguments, **named)
            if len(self.asked) == 2:
                second.set()
            return reply

    class Recogniser(ScriptedRecogniser):
        def transcribe(self, *arguments: Any) -> str:
            assert second.wait(20)
            return super().transcribe(*arguments)

    options: dict[str, Any] = {"settings": ["s2s_text", "s2s_asr"]}
    evaluate(benchmark_dir, tmp_path / "overlapping.jsonl", System(REPLIES), recogniser=Recogniser(), **options)
    evaluate(benchmark_dir, tmp_path / "plain.jsonl", **options)
    assert (tmp_path / "overlapping.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes().replace(
        b"plain.audio", b"overlapping.audio"
    )


def test_time_of_models_at_once_counts_once_as_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 6.0, 9.0])  # system 0 to 6, recogniser 2 to 9
    monkeypatch.setattr(ask.time, "monotonic", lambda: next(now))
    clock = ask.Clock()
    first, other = clock.timed("system"), clock.timed("recogniser")
    first.__enter__()
    other.__enter__()
    first.__exit__(None, None, None)
    other.__exit__(None, None, None)
    assert clock.busy == 9 and clock.shares(10.0) == {
        "wall_s": 10.0, "system_s": 6.0, "system_percent": 60.0, "recogniser_s": 7.0, "recogniser_percent": 70.0,
        "harness_s": 1.0, "harness_percent": 10.0,
    }  # fmt: skip


def test_recorded_replies_are_judged_anew_without_the_model(benchmark_dir: Path, tmp_path: Path) -> None:
    system = ScriptedSystem(REPLIES, failing=("Who coached the Panthers?",))
    first = evaluate(benchmark_dir, tmp_path / "a" / "r.jsonl", system)
    again = evaluate(benchmark_dir, tmp_path / "b" / "r.jsonl", RecordedSystem(tmp_path / "a" / "r.jsonl"))
    assert again["sets"] == first["sets"] and again["recogniser"] == first["recogniser"]
    assert again["provenance"]["system"]["system"] == system.provenance()
    with pytest.raises(EvaluationError, match=r"holds no reply 't2t' to reasoning_qa/0\.wav; run the model on it\."):
        evaluate(benchmark_dir, tmp_path / "c.jsonl", RecordedSystem(tmp_path / "a" / "r.jsonl"), settings=["t2t"])


def test_figures_come_from_the_file_alone(benchmark_dir: Path, tmp_path: Path) -> None:
    figures = evaluate(benchmark_dir, tmp_path / "r.jsonl")
    shares = figures.pop("time")
    assert summarize(tmp_path / "r.jsonl") == figures
    assert {"wall_s", "system_s", "recogniser_percent", "judge_s", "harness_percent"} <= set(shares)
    json.dumps(figures, allow_nan=False)


def test_provenance_names_everything(benchmark_dir: Path, tmp_path: Path) -> None:
    header = evaluate(benchmark_dir, tmp_path / "r.jsonl")["provenance"]
    assert len(header["data"]["digest"]) == 32 and header["data"]["items"] == 8
    assert header["system"] and header["judge"]["version"] and header["recogniser"]
    assert set(header["normalizers"]) == {"whisper-en", "characters-zh"}
    assert {"baichuan-audio", "torch", "jiwer", "whisper_normalizer"} <= set(header["versions"])
    assert str(tmp_path) not in json.dumps(header)


def test_wrong_requests(benchmark_dir: Path, tmp_path: Path) -> None:
    for options, sentence in (
        ({"settings": ["s2s_text"]}, "measured together"),
        ({"settings": ["x"]}, "no setting 'x'"),
        ({"recogniser": None, "settings": ["s2s_text", "s2s_asr"]}, "name a recogniser"),
        ({"judge": None}, "needs a judge"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            evaluate(benchmark_dir, tmp_path / "r.jsonl", **options)
    with pytest.raises(ConfigError, match="no suite 'mmlu'"):
        run_suite("mmlu", benchmark_dir, ScriptedSystem(), tmp_path / "r.jsonl")
    with pytest.raises(DataError):
        evaluate(benchmark_dir, tmp_path / "r.jsonl", strict=True)
    (tmp_path / "notes.jsonl").write_text("hello\n")
    with pytest.raises(EvaluationError, match="line 1 is no row of a result file; name another output"):
        evaluate(benchmark_dir, tmp_path / "notes.jsonl")
    assert (tmp_path / "notes.jsonl").read_text() == "hello\n"


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    with ResultFile(tmp_path / "r.jsonl", {"suite": "x"}), pytest.raises(EvaluationError, match="is writing this file"):
        ResultFile(tmp_path / "r.jsonl", {"suite": "x"})
    with ResultFile(tmp_path / "r.jsonl", {"suite": "x"}) as results:
        results.append({"kind": "output", "id": "a"})
        results.append({"kind": "output", "id": "a", "more": 1})  # a row that is there stays
    assert read_results(tmp_path / "r.jsonl")[1] == [{"kind": "output", "id": "a"}]


def test_a_reply_without_sound_is_a_failure(benchmark_dir: Path, tmp_path: Path) -> None:
    class Silent(ScriptedSystem):
        def answer(self, item: Item, spoken: bool, typed: bool = False) -> Any:
            return replace(super().answer(item, spoken, typed), waveform=None)

    figures = evaluate(benchmark_dir, tmp_path / "r.jsonl", Silent(REPLIES))
    settings = figures["sets"]["llama_questions"]["settings"]
    assert settings["s2t"]["failed"] == [] and len(settings["s2s_text"]["failed"]) == 3
