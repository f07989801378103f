"""The bundled benchmarks, measured on the shipped model: one item of each set."""

from __future__ import annotations

from pathlib import Path

import pytest

import baichuan_audio
from baichuan_audio.evaluation.judge.api import MatchJudge
from baichuan_audio.evaluation.report.page import write_report
from baichuan_audio.evaluation.results import read_results
from baichuan_audio.evaluation.suites.run import run_suite
from baichuan_audio.evaluation.systems.local import LocalSystem

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "examples" / "evaluation"
MODEL = ROOT / "models" / "nano"


@pytest.fixture(scope="module")
def system() -> LocalSystem:
    return LocalSystem(baichuan_audio.load(MODEL), MODEL)


def test_the_shipped_model_on_the_bundle(system: LocalSystem, tmp_path: Path) -> None:
    problems: list[str] = []
    for suite in ("librispeech", "aishell1", "fleurs", "openaudiobench"):
        output = tmp_path / f"{suite}.jsonl"
        run_suite(
            suite, BUNDLE / suite, system, output, judge=MatchJudge(), limit=1, log=problems.append
        )  # fmt: skip
        _, rows = read_results(output)
        outputs = [row for row in rows if row["kind"] == "output"]
        assert outputs and not [row for row in outputs if "error" in str(row["replies"])]
    write_report(
        sorted(tmp_path.glob("*.jsonl")), tmp_path / "report.html", data={"fleurs": BUNDLE / "fleurs"},
        log=lambda _: None,
    )  # fmt: skip
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('<details class="item') == 9 and "What is the capital of France?" in page
