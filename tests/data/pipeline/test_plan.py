"""The yield of a run before it is made: how sure it is, and a pilot that goes on until it is sure enough."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from baichuan_audio.config import strict
from baichuan_audio.data.pipeline import plan
from baichuan_audio.data.pipeline.engine.source_task import SourceTask
from baichuan_audio.data.pipeline.recipe import PipelineRecipe

SECONDS = 2.0


class Kept:
    """An executor that runs nothing but notes what it was asked for; what "is kept" of a source comes from `shares`."""

    def __init__(self, shares: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.shares, self.ran = shares, list[str]()
        monkeypatch.setattr(plan, "known_seconds", self._known)

    def _known(self, stages: Any, task: SourceTask, work: Path) -> float | None:
        return SECONDS * self.shares[task.source] if task.source in self.ran else None

    def map(self, function: Callable[..., Any], tasks: Sequence[SourceTask]) -> Iterator[tuple[SourceTask, None]]:
        self.ran += [task.source for task in tasks]
        yield from ((task, None) for task in tasks)


@pytest.fixture
def recipe(tmp_path: Path) -> PipelineRecipe:
    """200 sources of one origin."""
    soundfile.write(tmp_path / "a.wav", np.zeros(int(SECONDS * 8000), np.float32), 8000)
    rows = [
        {"id": f"s{number}", "path": "a.wav", "license": "CC0-1.0", "source": "one", "language": "en"}
        for number in range(200)
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return strict(PipelineRecipe, {"sources": str(tmp_path / "manifest.jsonl"), "work": str(tmp_path / "w")}, "test")


def test_a_pilot_goes_on_until_it_is_sure(recipe: PipelineRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    even = Kept({f"s{number}": draw.uniform(0.58, 0.62) for number in range(200)}, monkeypatch)
    sure = plan.plan_yield(recipe, within=0.05, executor=even)
    assert len(even.ran) == 20 and 2 * sure.error <= 0.05 * sure.kept
    plan.plan_yield(recipe, within=0.05, executor=even)
    assert len(even.ran) == 20  # what is known does
    uneven = Kept({f"s{number}": float(number % 3 == 0) for number in range(200)}, monkeypatch)
    sure = plan.plan_yield(recipe, within=0.05, executor=uneven)
    assert 100 < len(uneven.ran) <= 200 and len(set(uneven.ran)) == len(uneven.ran)
    assert sure.known == pytest.approx(len(uneven.ran) * SECONDS / 3600)
    assert sure.kept == pytest.approx(67 * SECONDS / 3600, rel=0.05)


def test_the_error_told_is_that_of_the_estimate(recipe: PipelineRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many draws, the difference between what a pilot of 40 tells and the truth is as large as it says."""
    differences, told = [], []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        shares = {f"s{number}": float(draw.random() < 0.6) for number in range(200)}
        result = plan.plan_yield(recipe, pilot=40, executor=Kept(shares, monkeypatch))
        differences.append(result.kept - SECONDS * sum(shares.values()) / 3600)
        told.append(result.error)
    assert np.sqrt(np.mean(np.square(differences))) == pytest.approx(np.mean(told), rel=0.25)
