"""The runner of the ablations: finished runs are kept, a table of means and deviations; the guard files are whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from baichuan_audio.data.dialogues import read_dialogues
from baichuan_audio.data.importers import read_manifest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "recipes" / "ablations"))
import runner  # noqa: E402
from studies import STUDIES, Study  # noqa: E402
from workspace import Workspace  # noqa: E402


def test_finished_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    made: list[tuple[str, int]] = []

    def measure(work: Workspace, variant: str, seed: int, recogniser: str) -> runner.Rows:
        made.append((variant, seed))
        return {variant: {"errors, %": seed + 10.0 * (variant == "b")}}

    monkeypatch.setitem(STUDIES, "stages", Study("a against b", ("a", "b"), measure))
    monkeypatch.setattr(sys, "argv", ["run.py", "stages", "--work", str(tmp_path), "--minutes", "0"])
    assert runner.main() == 75 and not made  # no time at all
    work = Workspace(tmp_path, tmp_path, tmp_path)
    results = runner.run_study("stages", work, "")
    assert results is not None and len(made) == 6
    assert runner.run_study("stages", work, "", minutes=0) == results and len(made) == 6
    assert runner.table(results).splitlines()[2:] == ["| a | 2 ± 1 |", "| b | 12 ± 1 |"]


def test_guards_of_nano() -> None:
    guard = ROOT / "examples" / "guard"
    dialogues = list(read_dialogues(guard / "text.jsonl", ("train", "validation", "test")))
    assert len(dialogues) == 96 and {d.language for d in dialogues} == {"en", "zh"}
    assert {d.split for d in dialogues} == {"test"}  # contents that training has not
    recordings = list(read_manifest(guard / "asr.jsonl"))
    assert len(recordings) == 8 and all(r.transcript and r.path.is_file() for r in recordings)


def test_each_recipe_is_of_a_study() -> None:
    names = {path.stem for path in (ROOT / "recipes" / "ablations").glob("*.yaml")}
    text = "".join((ROOT / "recipes" / "ablations" / f"{name}.py").read_text() for name in ("studies", "workspace"))
    assert all(json.dumps(name) in text for name in names)
