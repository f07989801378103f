"""A run on shards with everything that is measured while it trains: held-out losses, guards, samples read back."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_workspace import log_of
from shard_workspace import shards_of_every_kind

import baichuan_audio
from baichuan_audio.data.pipeline.backends.asr import Hypothesis
from baichuan_audio.errors import DataError, MissingDependencyError
from baichuan_audio.training.common.recipe import load_stage_recipe
from baichuan_audio.training.language_model import samples, validation
from baichuan_audio.training.language_model.recipe import LanguageModelRecipe
from baichuan_audio.training.language_model.train import train
from conftest import CHECKPOINT, EXAMPLES

SHORT = {
    "max_segments": 1, "max_segment_frames": 50, "max_segment_tokens": 4, "max_text_tokens": 6, "stop_runaways": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a checkpoint with short replies, files of the guards and a recipe."""
    root = tmp_path_factory.mktemp("shards")
    shards_of_every_kind(root / "codes")
    shutil.copytree(CHECKPOINT, root / "model")
    config = json.loads((root / "model" / "config.json").read_text()) | {"reply_sampling": SHORT}
    config["flow_matching_config"]["diffusion_steps"] = 1
    (root / "model" / "config.json").write_text(json.dumps(config))
    shutil.copy(EXAMPLES / "en-day.wav", root / "day.wav")
    row = {"path": "day.wav", "language": "en", "speaker": None, "transcript": "what day is it", "license": "CC0"}
    (root / "asr.jsonl").write_text(json.dumps(row | {"source": "tests"}) + "\n")
    (root / "text.txt").write_text("The sky is blue.\n\nWater is wet.\n")
    messages = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    (root / "text.jsonl").write_text(json.dumps({"id": "a", "language": "en", "messages": messages}) + "\n")
    (root / "recipe.yaml").write_text(
        f"""
stage: sft
init_from: {root}/model
output: {root}/run
dataset:
  - path: {root}/codes
    hours: 2
    kinds: {{audio: 0.5}}
steps: 4
tokens_per_step: 120
packs_per_step: 2
validation_sequences: 16
log_every: 1
sample_every: 4
checkpoint_every: 2
threads: 1
text_guard: {root}/text.txt
asr_guard: {root}/asr.jsonl
read_back: [pocketsphinx]
muon: false
optimizer: {{learning_rate: 0.003, warmup_steps: 1, schedule: constant}}
"""
    )
    return root


@pytest.fixture(autouse=True)
def plain_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures and TensorBoard files, whose libraries take longer to import than the test."""
    for library in ("torch.utils.tensorboard", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, library, None)


def recipe(root: Path, *overrides: str) -> LanguageModelRecipe:
    return load_stage_recipe(root / "recipe.yaml", LanguageModelRecipe, overrides)


def test_a_run_on_shards(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log; resumed, it equals the unbroken one."""

    class Reader:
        def __call__(self, waveform: np.ndarray, language: str) -> Hypothesis | None:
            assert waveform.dtype == np.float32 and waveform.ndim == 1
            return Hypothesis("one two")

    class Encoder:
        window_s = 0.25

        def __call__(self, windows: Any) -> np.ndarray:
            return np.eye(2, dtype=np.float32)[[0, *[1] * (len(windows) - 1)]]

    monkeypatch.setattr(samples, "load_backend", lambda kind, name: Reader() if kind == "asr" else Encoder())
    reply = "One two three.", torch.linspace(-1, 1, 36_000).sin()  # random weights say nothing
    monkeypatch.setattr(samples.LanguageModelSamples, "_reply", lambda self, question: reply)
    train(recipe(root))
    rows = log_of(root / "run")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert all(row["code_7_accuracy"] >= 0 and row["tokens"] > 60 for row in steps)
    worst = [name for row in steps for name in row["worst_samples"]]  # type: ignore[attr-defined]
    assert len(worst) > 8 and all(name.startswith("codes/") for name in worst)
    measured = {name: value for row in rows if "loss" not in row for name, value in row.items()}
    for name in ("validation/text", "validation/text_accuracy", "validation/code_7", "validation/asr/text",
                 "validation/tts/code_0_accuracy", "validation/itts/text", "validation/sft/code_3", "guard/text",
                 "guard/text_accuracy", "guard/asr_error"):  # fmt: skip
        assert np.isfinite(measured[name]), name
    assert measured["samples/speaker_similarity"] == 0.0 and measured["samples/asr_error"] == pytest.approx(1 / 3)
    texts = sorted((root / "run" / "samples").glob("*.txt"))
    assert [path.name for path in texts] == ["00000004-answer-en-2.txt", "00000004-answer-en.txt"]
    assert texts[0].read_text().startswith("Hi?\n") and "(understood: one two)" in texts[0].read_text()

    other = [f"output={root}/other", "text_guard=null", "asr_guard=null", "sample_every=100", "read_back=[]"]
    monkeypatch.setattr(samples.LanguageModelSamples, "log", lambda *arguments: None)
    train(recipe(root, *other, "steps=2"))
    train(recipe(root, *other))
    resumed = [row for row in log_of(root / "other") if "loss" in row]
    assert [(row["loss"], row["worst_samples"]) for row in resumed] == [
        (row["loss"], row["worst_samples"]) for row in steps
    ]
    one, two = (baichuan_audio.load(root / name / "model").state_dict() for name in ("run", "other"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_recipe_of_the_docs_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(stage: sft.*?)```", page, flags=re.DOTALL)
    (tmp_path / "lm.yaml").write_text(block, encoding="utf-8")
    settings = load_stage_recipe(tmp_path / "lm.yaml", LanguageModelRecipe)
    assert [entry.path for entry in settings.shards] == ["work/data/crawled/codes", "work/data/text/codes"]
    assert settings.shards[0].kinds == {"audio": 0.5, "intlv": 0.0} and settings.shards[1].weight == 2.0


def test_guards_name_what_they_need(root: Path, model: baichuan_audio.BaichuanAudio, tmp_path: Path) -> None:
    lines, replies = (validation.text_guard(str(root / name), model, "cpu") for name in ("text.txt", "text.jsonl"))
    assert len(lines[0].names) == 2 and len(replies[0].names) == 1
    assert [len(batch.text) for batch in replies] == [len(model.text_tokenizer.encode("Hello.")) + 1]
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no text"):
        validation.text_guard(str(tmp_path / "none.txt"), model, "cpu")
    (tmp_path / "none.jsonl").write_text((root / "asr.jsonl").read_text().replace('"what day is it"', "null"))
    with pytest.raises(DataError, match="no recording has a transcript"):
        validation.asr_guard(str(tmp_path / "none.jsonl"), model)
    shutil.copy(root / "day.wav", tmp_path / "day.wav")


def test_samples_are_read_back_where_a_recogniser_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(kind: str, name: str) -> Any:
        raise MissingDependencyError(f"{name} is not installed.")

    monkeypatch.setattr(samples, "load_backend", missing)
    assert list(samples._installed(("whisper:base",))) == [] and samples._similarity(np.zeros(80_000, np.float32)) == []
    assert "not read back by whisper:base" in capsys.readouterr().err
