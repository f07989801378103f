"""The recipes of the released size: each with its own entries, on tiny models and data, for two steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lm_workspace import log_of, make_workspace
from published_models import make_published

import baichuan_audio
from baichuan_audio.adapters import read_adapters
from baichuan_audio.cli.app import main
from baichuan_audio.cli.train import stage_of

RECIPES = Path(__file__).parents[2] / "recipes" / "base-7b"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny workspace, with the first checkpoint of a run that starts with Qwen2.5 and Whisper."""
    root = make_workspace(tmp_path_factory.mktemp("base"))
    llm, whisper = make_published(root, root)
    arguments = ["checkpoint", "init", str(root / "template.json"), str(root / "init"), "--llm", str(llm)]
    assert main([*arguments, "--encoder", str(whisper), "--dtype", "float32"]) == 0
    return root


def overrides(root: Path, name: str, output: Path) -> list[str]:
    """What makes a recipe small: paths, sizes and two steps; every other entry is the recipe's."""
    model, corpus, dialogues = root / "model", root / "corpus", root / "corpus" / "dialogues.jsonl"
    common = {"output": output, "dataset": corpus, "device": "cpu", "threads": 1, "steps": 2, "log_every": 1,
              "sample_every": 2, "checkpoint_every": 2}  # fmt: skip
    if name.startswith("lm_"):
        common |= {"init_from": root / "init" if name == "lm_stage1" else model, "codes": root / "codes",
                   "dialogues": f"[{dialogues}]", "tokens_per_step": 300, "validation_sequences": 2}  # fmt: skip
        if name in ("lm_stage1", "lm_stage2", "lm_sft"):
            common["packs_per_step"] = 1
        if name == "lm_stage1":
            common["codebook_source"] = model
        if name == "lm_voice":
            common |= {"voices": "[someone]", "mixture.default_voice_is": "someone"}
    elif name == "tokenizer":
        common |= {"config": model / "config.json", "encoder": root / "whisper", "text_model": root / "init",
                   "batch_seconds": 2, "crop_seconds": 1, "quantize_start_step": 1}  # fmt: skip
    elif name.startswith("flow"):
        common |= {"config": model / "config.json", "tokenizer": model, "init_from": model, "codes": root / "codes",
                   "vocoder": model / "vocoder.safetensors", "crop_seconds": 0.24, "batch_seconds": 0.5}  # fmt: skip
    else:
        common |= {"batch_size": 1, "crop_frames": 12, "hift.base_channels": 16, "source_weights": "{}",
                   "fft_sizes": "[256]", "adversarial_start_step": 1, "discriminators.period_channels": 2,
                   "discriminators.periods": "[2]", "discriminators.fft_sizes": "[256]",
                   "discriminators.fft_channels": 2}  # fmt: skip
    return [f"{key}={value}" for key, value in common.items()]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_recipe_trains(workspace: Path, tmp_path: Path, path: Path) -> None:
    arguments = overrides(workspace, path.stem, tmp_path)
    assert main(["train", stage_of(str(path), arguments), str(path), *arguments]) == 0
    assert [row["step"] for row in log_of(tmp_path) if "loss" in row] == [1, 2]
    if path.stem in ("lm_lora", "lm_voice"):
        assert read_adapters(tmp_path / "adapters.safetensors").changes
    elif path.stem.startswith("lm_"):
        assert baichuan_audio.load(tmp_path / "model")


def test_a_new_language_trains_by_its_code(workspace: Path, tmp_path: Path) -> None:
    """The entries of docs/training.md, "A new language", on clips and dialogues of `de` beside English ones."""
    corpus = tmp_path / "corpus"
    shutil.copytree(workspace / "corpus", corpus)
    for name in ("clips.jsonl", "dialogues.jsonl"):
        text = (corpus / name).read_text(encoding="utf-8")
        (corpus / name).write_text(text.replace('"language": "en"', '"language": "de"'), encoding="utf-8")
    arguments = overrides(workspace, "lm_stage2", tmp_path / "out")
    arguments += [f"dataset={corpus}", f"dialogues=[{corpus / 'dialogues.jsonl'}]"]
    tasks = "mixture.tasks={asr: 0.4, tts: 0.4, spoken_dialogue: 0.2}"
    path = str(RECIPES / "lm_stage2.yaml")
    assert main(["train", "lm", path, *arguments, tasks]) == 2  # the recipe does not name it: there is nothing to draw
    arguments += ["languages=[en, zh, de]", "mixture.languages={en: 0.3, zh: 0.7, de: 2.0}"]
    assert main(["train", "lm", path, *arguments, tasks]) == 0
    assert len([row for row in log_of(tmp_path / "out") if "loss" in row]) == 2


def test_a_new_voice_is_assembled_from_its_two_parts(workspace: Path, tmp_path: Path) -> None:
    """The commands of docs/training.md, "A new voice", after the two recipes."""
    for name in ("flow_voice", "lm_voice"):
        path, arguments = RECIPES / f"{name}.yaml", overrides(workspace, name, tmp_path / name)
        assert main(["train", stage_of(str(path), arguments), str(path), *arguments]) == 0
    base, file = str(workspace / "model"), str(tmp_path / "lm_voice" / "adapters.safetensors")
    assert main(["checkpoint", "merge", base, str(tmp_path / "merged"), file, "--voice", "someone"]) == 0
    flow = ["--flow", str(tmp_path / "flow_voice")]
    assert main(["checkpoint", "assemble", str(tmp_path / "merged"), str(tmp_path / "voice"), *flow]) == 0
    model = baichuan_audio.load(tmp_path / "voice")
    assert model.voices == ("邻家女声", "Ada", "someone")
    old = baichuan_audio.load(base).flow.state_dict()
    assert any(not tensor.equal(old[name]) for name, tensor in model.flow.state_dict().items())
