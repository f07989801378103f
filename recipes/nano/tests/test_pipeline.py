"""The training of nano as a pipeline: its stages fit together, resume, and stop where one fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nano.pipeline import Pipeline, Processes, StageError, main
from nano.stages import Settings, Stage, stages

ROOT = Path(__file__).parents[3]


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


def test_everything_runs_once_and_after_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = Pipeline(stages(Settings(quick=True)), "work/nano")
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
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "NANO": "quick"}
    run = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.terminate()
    assert run.wait(30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_dry_run_prints_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nano.pipeline.ROOT", tmp_path / "recipes" / "nano")
    monkeypatch.setenv("NANO", "quick")
    work = tmp_path / "work" / "nano_quick"
    (work / "done").mkdir(parents=True)
    (work / "done" / "parts").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "parts: done" and lines[1].startswith("questions: python recipes/nano/make_texts.py questions")
    assert any(line.startswith("model: ") for line in lines)
    assert [path.name for path in work.iterdir()] == ["done"]
    assert main(["--dry-run", "tokeniser"]) == 2 and "did you mean tokenizer" in capsys.readouterr().err


def test_the_scripts_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for script in ("run.py", "make_corpus.py", "make_texts.py", "evaluate.py"):
        run = [sys.executable, str(ROOT / "recipes" / "nano" / script), "--help"]
        subprocess.run(run, cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
        assert script in capfd.readouterr().out
