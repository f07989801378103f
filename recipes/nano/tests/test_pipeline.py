"""The training of nano as a pipeline: its stages fit together, resume, and stop where one fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from baichuan_audio.data.dialogues import read_dialogues
from baichuan_audio.errors import ConfigError
from baichuan_audio.training.common.recipe import load_stage_recipe
from baichuan_audio.training.language_model.recipe import LanguageModelRecipe
from baichuan_audio.training.stages import STAGES
from nano import commands
from nano.pipeline import Pipeline, Processes, StageError, main
from nano.stages import Settings, Stage, stages

ROOT = Path(__file__).parents[3]
MANY = [Settings(), Settings(paper=True), Settings(rounds=5, whisper="base", speech="a,b")]


class Recorder:
    """Writes a stage's outputs in place of running it; `fails`: the stage that does not succeed."""

    def __init__(self, fails: str = "", seconds: float = 0.0) -> None:
        self.fails, self.seconds, self.stopped = fails, seconds, False
        self.names: list[str] = []
        self.together, self.most = 0, 0
        self._lock = threading.Lock()

    def __call__(self, stage: Stage, log: Path) -> None:
        with self._lock:
            self.names.append(stage.name)
            self.together += 1
            self.most = max(self.most, self.together)
        time.sleep(self.seconds)
        with self._lock:
            self.together -= 1
        if stage.name == self.fails:
            raise StageError(f"{stage.name} failed")
        for path in map(Path, stage.outputs):
            path.mkdir(parents=True, exist_ok=True)

    def stop(self) -> None:
        self.stopped = True


def stage(name: str, *inputs: Path, output: Path) -> Stage:
    return Stage(name, ("-c", "pass"), tuple(map(str, inputs)), (str(output),))


@pytest.mark.parametrize("settings", MANY, ids=["joint", "paper", "five rounds"])
def test_stages_give_commands_that_exist_and_read_what_is_there(
    settings: Settings, parses: Callable[[Stage], list[str]]
) -> None:
    pipeline = Pipeline(stages(settings), settings.work)
    assert len({each.name for each in pipeline.stages}) == len(pipeline.stages)
    made: set[str] = set()
    for each in pipeline.stages:
        assert each.outputs and all(path in made or (ROOT / path).is_file() for path in each.inputs), each.name
        made |= set(each.outputs)
        recipes = [word for word in parses(each) if word.startswith("recipes/")]
        assert all((ROOT / recipe).is_file() for recipe in recipes)
    assert settings.output in made


def test_overrides_fit_the_recipes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    seen = 0
    for each in [*stages(MANY[0]), *stages(MANY[1])]:
        if each.command[2] == "train":
            recipe = load_stage_recipe(each.command[4], STAGES[each.command[3]].recipe, each.command[5:])
            assert recipe.output == each.outputs[0]
        if each.command[2:4] == ("train", "lm"):
            assert isinstance(recipe, LanguageModelRecipe)
            written = {path for path in each.inputs if path.endswith(".jsonl")} - {"work/nano/audio/alignments.jsonl"}
            assert set(recipe.dialogues) == written
            seen += 1
    assert seen == 9 + 10 and not capsys.readouterr().err  # no old names


def test_the_last_round_alone_learns_of_its_own_readings() -> None:
    by_name = {each.name: each for each in stages(Settings(rounds=4))}
    assert {name for name, each in by_name.items() if "mixture.takes=0.4" in each.command} == {"round_4_1", "round_4_2"}
    pipeline = Pipeline(list(by_name.values()), "work")
    assert {"takes", "round_3"} <= {other.name for other in pipeline.waits_for(by_name["round_4_1"])}
    # alignments are written twice; what comes between reads the first ones, what comes later both
    assert [other.name for other in pipeline.waits_for(by_name["tokenizer_first"])] == ["corpus", "align_english"]
    assert [other.name for other in pipeline.waits_for(by_name["tokenizer"])] == [
        "corpus", "align_english", "align_rest",
    ]  # fmt: skip


def test_everything_runs_once_and_after_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = Pipeline(stages(Settings()), "work/nano")
    recorder = Recorder()
    pipeline.run(recorder)
    assert sorted(recorder.names) == sorted(each.name for each in pipeline.stages)
    place = {name: index for index, name in enumerate(recorder.names)}
    for each in pipeline.stages:
        assert all(place[other.name] < place[each.name] for other in pipeline.waits_for(each))
    again = Recorder()
    pipeline.run(again)
    assert again.names == []


def test_two_run_at_a_time_and_a_third_waits(tmp_path: Path) -> None:
    chosen = [stage(name, output=tmp_path / name) for name in "abc"]
    recorder = Recorder(seconds=0.1)
    Pipeline([*chosen, stage("d", tmp_path / "c", output=tmp_path / "d")], tmp_path / "work").run(recorder)
    assert recorder.most == 2 and recorder.names[-1] == "d"


def test_a_failing_stage_stops_the_run_and_is_not_done(tmp_path: Path) -> None:
    chosen = [stage("a", output=tmp_path / "a"), stage("b", tmp_path / "a", output=tmp_path / "b")]
    chosen.append(stage("c", tmp_path / "b", output=tmp_path / "c"))
    pipeline, recorder = Pipeline(chosen, tmp_path / "work"), Recorder(fails="b")
    with pytest.raises(StageError, match="b failed"):
        pipeline.run(recorder)
    assert recorder.names == ["a", "b"] and recorder.stopped
    assert [pipeline.is_done(each) for each in chosen] == [True, False, False]
    recorder = Recorder()
    pipeline.run(recorder)
    assert recorder.names == ["b", "c"]


def test_a_stage_alone_needs_what_it_reads(tmp_path: Path) -> None:
    chosen = [stage("a", output=tmp_path / "a"), stage("b", tmp_path / "a", output=tmp_path / "b")]
    pipeline = Pipeline(chosen, tmp_path / "work")
    with pytest.raises(StageError, match=r"b reads .*a, which is not there"):
        pipeline.run(Recorder(), ["b"])
    recorder = Recorder()
    pipeline.run(recorder, ["a"])
    pipeline.run(recorder, ["b"])
    assert recorder.names == ["a", "b"]


def test_processes_keep_the_output_and_tell_how_it_ended(tmp_path: Path) -> None:
    processes = Processes()
    fine = Stage("fine", ("-c", f"print('hello'); open({str(tmp_path / 'x')!r}, 'w')"), (), (str(tmp_path / "x"),))
    processes(fine, tmp_path / "fine.log")
    assert (tmp_path / "fine.log").read_text() == "hello\n"
    with pytest.raises(StageError, match=r"bad failed with code 3; its output is in .*bad\.log\. It ends: no disk"):
        processes(Stage("bad", ("-c", "print('no disk'); raise SystemExit(3)"), (), ()), tmp_path / "bad.log")
    nothing = Stage("nothing", ("-c", "pass"), (), (str(tmp_path / "never"),))
    with pytest.raises(StageError, match=r"nothing ended without writing .*never"):
        Pipeline([nothing], tmp_path / "work").run(processes)


def test_a_stage_beside_a_failing_one_is_stopped(tmp_path: Path) -> None:
    slow = Stage("slow", ("-c", "import time; time.sleep(60)"), (), (str(tmp_path / "s"),))
    bad = Stage("bad", ("-c", "import time; time.sleep(0.5); raise SystemExit(1)"), (), (str(tmp_path / "b"),))
    start = time.monotonic()
    with pytest.raises(StageError, match="bad failed"):
        Pipeline([slow, bad], tmp_path / "work").run(Processes())
    assert time.monotonic() - start < 20


def test_a_stopped_run_takes_its_stages_with_it(tmp_path: Path) -> None:
    """SIGTERM ends the run and the stage in it, which else went on alone."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "recipes" / "nano")!r})
from nano import pipeline
from nano.stages import Stage
code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
pipeline.stages = lambda settings: [Stage("slow", ("-c", code), (), ("never",))]
pipeline.os.chdir = lambda path: None
sys.exit(pipeline.main([]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "WORK": "work"}
    run = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.terminate()
    assert run.wait(30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ROUNDS": "1"}, "ROUNDS must be a number from 2 to 99, not '1'"),
        ({"ROUNDS": "three"}, "ROUNDS must be a number"),
        ({"STAGES": "both"}, "STAGES must be joint or paper"),
    ],
)
def test_variables_without_a_meaning_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.from_environment(environment)


def test_variables_change_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="WHISPER needs faster-whisper"):
        Settings.from_environment({"WHISPER": "base"})
    made = Settings.from_environment({"WORK": "w", "OUTPUT": "m", "SPEECH": "", "ROUNDS": "4", "STAGES": "paper"})
    assert made == Settings("w", "m", "", "", 4, True)
    first = stages(made)[0]
    assert first.command[-3:] == ("recordings=[]", "--output", "w")
    assert not any("recordings" in word for word in stages(Settings())[0].command)


def test_a_dry_run_prints_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORK", str(tmp_path / "work"))
    (tmp_path / "work" / "done").mkdir(parents=True)
    (tmp_path / "work" / "done" / "corpus").touch()
    assert main(["--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "corpus: done" and lines[1].startswith("start: python -m baichuan_audio.cli checkpoint init")
    assert lines[-1].startswith("evaluation: ") and [path.name for path in (tmp_path / "work").iterdir()] == ["done"]
    assert main(["--dry-run", "tokeniser"]) == 2 and "did you mean tokenizer" in capsys.readouterr().err
    (tmp_path / "work" / "rounds").write_text("4\n")
    assert main(["--dry-run"]) == 2 and "begun with ROUNDS=4" in capsys.readouterr().err


def test_a_dialogue_file_has_both_splits(tmp_path: Path) -> None:
    path = tmp_path / "texts" / "few.jsonl"
    assert commands.make_dialogues([str(path), "--seed", "3", "--count", "30", "--sums", "5"]) == 0
    assert [len(read_dialogues(path, (split,))) for split in ("train", "validation", "test")] == [35, 3, 0]
    skills = [dialogue.skill for dialogue in read_dialogues(path)]
    assert skills[-5:] == ["sums"] * 5 and "sums" not in skills[:-5]


def test_the_scripts_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for script in ("run.py", "make_corpus.py", "make_dialogues.py", "evaluate.py"):
        run = [sys.executable, str(ROOT / "recipes" / "nano" / script), "--help"]
        subprocess.run(run, cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
        assert script in capfd.readouterr().out
