"""Plans against what training does: parameters, FLOPs by torch's counter, bytes by a tracker, time from a log."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_workspace import make_workspace, recipe
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import baichuan_audio
from baichuan_audio.adapters import AdapterConfig, add_adapters
from baichuan_audio.cli.app import main
from baichuan_audio.cli.train import stage_of
from baichuan_audio.data.mixture.config import MixtureConfig
from baichuan_audio.errors import ConfigError, DataError
from baichuan_audio.training.common.muon import layer_matrices, make_optimizers
from baichuan_audio.training.common.recipe import load_stage_recipe
from baichuan_audio.training.language_model.batch import Batch
from baichuan_audio.training.language_model.losses import losses, target_counts, total_loss
from baichuan_audio.training.language_model.recipe import LanguageModelRecipe
from baichuan_audio.training.language_model.steps import TrainingData
from baichuan_audio.training.language_model.train import learning_modules
from baichuan_audio.training.planning.estimate import Estimate, estimate, measured_step_seconds
from baichuan_audio.training.planning.stages import plan_stage
from baichuan_audio.training.planning.trace import AllocatedBytes
from baichuan_audio.training.stages import STAGES

BASE_7B = Path(__file__).parents[2] / "recipes" / "base-7b"
MIXTURE = MixtureConfig(tasks={"spoken_dialogue": 1.0, "asr": 1.0, "tts": 1.0}, default_voice_is="Ada")
STEPS = 4


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("lm"))


def _attention(query: Any, key: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    batch, heads, rows, width = query
    return 4 * batch * heads * rows * width * key[2]


def _attention_backward(gradient: Any, query: Any, key: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 5 * _attention(query, key) // 2


CPU_ATTENTION = {  # which torch's counter leaves out
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def model_and_batches(trained: LanguageModelRecipe) -> tuple[Any, list[Batch]]:
    """The model and the batches of a recipe's first steps."""
    model = baichuan_audio.load(trained.init_from, dtype=torch.float32)
    batches = [batch for step in range(STEPS) for batch in TrainingData(trained, model).batches(step)]
    return model if trained.adapter is None else add_adapters(model, trained.adapter), batches


def loss_of(model: Any, batch: Batch, trained: LanguageModelRecipe) -> Tensor:
    values = losses(model.language_model, model.audio_head, batch)
    return total_loss(values, target_counts([batch]), trained, len(model.language_model.codebook_sizes))


CASES = {
    "sft": {"stage": "sft"},
    "stage1": {"stage": "stage1", "audio_head_fraction": 1.0, "packing": True},  # steps with as many frames each
    "stage2": {"stage": "stage2", "muon": False},
    "adapter": {"stage": "sft", "adapter": AdapterConfig(rank=4)},
    "packed": {"stage": "sft", "packing": True, "muon": False},
}


@pytest.mark.parametrize("case", CASES)
def test_parameters_flops_and_memory_are_those_of_training(workspace: Path, tmp_path: Path, case: str) -> None:
    trained = recipe(workspace, tmp_path, steps=STEPS, tokens_per_step=600, mixture=MIXTURE, **CASES[case])
    planned = estimate(trained, plan_stage(trained), bfloat16=False)
    assert not [note for note in planned.notes if "cannot be read" in note]
    flops, peak = [], 0
    model, batches = model_and_batches(trained)
    learning = learning_modules(model, trained)
    parameters = [p for module in learning.values() for p in module.parameters()]
    muon = trained.muon and trained.adapter is None
    optimizers = make_optimizers(parameters, layer_matrices(model.language_model) if muon else [], trained.optimizer)
    tracker = AllocatedBytes([*model.parameters(), *model.buffers()])
    for batch in batches:
        with tracker:
            with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
                loss_of(model, batch, trained).backward()
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        flops.append(counter.get_total_flops())
    peak = tracker.peak
    due = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    counts = {name: (total, learns) for name, total, learns in planned.parts}
    assert sum(learns for _, learns in counts.values()) == sum(due.values())
    held = [p for name, p in model.named_parameters() if not name.startswith("vocoder.")]
    assert sum(total for total, _ in counts.values()) == sum(p.numel() for p in held)
    assert planned.flops == pytest.approx(sum(flops) / STEPS, rel=0.03)
    memory = planned.memory
    assert memory.total - memory.weights == pytest.approx(peak, rel=0.1)


def test_a_frozen_backbone_costs_two_thirds(workspace: Path, tmp_path: Path) -> None:
    """Stage 1: 4 N instead of 6 N, for gradients pass through what is frozen."""
    settings = {"mixture": MIXTURE, "muon": False}
    flops = {}
    for stage in ("stage1", "sft"):
        trained = recipe(workspace, tmp_path, stage=stage, **settings)
        flops[stage] = estimate(trained, plan_stage(trained), bfloat16=False)
    frozen = sum(
        p.numel()
        for name, p in plan_stage(recipe(workspace, tmp_path, **settings)).parts["language model"].named_parameters()
        if name.startswith("layers.") and p.ndim == 2
    )
    assert flops["sft"].flops - flops["stage1"].flops >= 2 * frozen * 0.95 * flops["sft"].units


def test_more_gpus_share_the_memory_and_the_time(workspace: Path, tmp_path: Path) -> None:
    trained = recipe(workspace, tmp_path, tokens_per_step=2000, mixture=MIXTURE)
    plan = plan_stage(trained)
    one, four = estimate(trained, plan), estimate(trained, plan, gpus=4)
    assert four.memory.optimizer == one.memory.optimizer // 4 and four.memory.step < one.memory.step
    assert four.days[1] == pytest.approx(one.days[1] / 4, rel=0.1) and four.price[0] == pytest.approx(
        one.price[0], rel=0.1
    )
    with pytest.raises(ConfigError, match="which 5000 GPUs cannot share"):
        estimate(trained, plan, gpus=5000)
    with pytest.raises(ConfigError, match="no figures of the GPU 'h10'"):
        estimate(trained, plan, gpu="h10")


def test_time_is_that_of_a_short_run(workspace: Path, tmp_path: Path) -> None:
    trained = recipe(workspace, tmp_path, mixture=MIXTURE)
    rows = [{"step": step, "elapsed_s": 30 + 2.5 * step, "loss": 1.0} for step in range(1, 21)]
    rows.insert(1, {"step": 1, "elapsed_s": 32, "validation/text": 3.0})
    rows[0]["elapsed_s"] = 0.0  # compiling and the like
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert measured_step_seconds(tmp_path) == 2.5
    planned = estimate(trained, plan_stage(trained), step_seconds=2.5, price=2.0)
    low, high = planned.days
    assert low < 2.5 * trained.steps / 86400 < high and planned.price[1] == pytest.approx(high * 24 * 2.0)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "elapsed_s": 1.0, "loss": 2}\n')
    with pytest.raises(DataError, match="too short to measure; train 20 steps"):
        measured_step_seconds(tmp_path)


def test_the_released_size(capsys: pytest.CaptureFixture[str]) -> None:
    """Against the formulas for 7B: 63.8 GFLOP a frame with loss in stage 2, without attention."""
    arguments = [str(BASE_7B / "lm_stage2.yaml"), "--config", str(BASE_7B / "config.json")]
    assert main(["plan", *arguments, "--gpus", "64", "--gpu", "h100", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    parts = {name: (total, learning) for name, total, learning in planned["parts"]}
    qwen2_5_7b, audio_embeddings, text_ends = 7_615_616_512, 19_464 * 3584, 2 * 152_064 * 3584
    assert parts["language model"] == (qwen2_5_7b + audio_embeddings, qwen2_5_7b + audio_embeddings - text_ends)
    per_position = planned["flops"] / planned["units"] / 1e9
    assert 40 < per_position < 66
    assert 10e9 < planned["memory"]["total"] < 80e9


@pytest.mark.parametrize("stage", ["tokenizer", "flow", "vocoder"])
def test_plans_of_the_audio_stages(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = BASE_7B / f"{stage}.yaml"
    assert main(["plan", str(path), *([] if stage == "vocoder" else ["--config", str(BASE_7B / "config.json")])]) == 0
    lines = capsys.readouterr().out
    for word in ("parameters", "memory on each of 1 x h200", "TFLOP", "days", "dollars", "note: time: 25% to 45%"):
        assert word in lines


@pytest.mark.parametrize("path", sorted(BASE_7B.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_stage_of_a_recipe_is_known_by_its_entries(path: Path) -> None:
    stage = stage_of(str(path), [])
    assert stage == ("lm" if path.stem.startswith("lm_") else path.stem.partition("_")[0])
    assert load_stage_recipe(path, STAGES[stage].recipe)


def test_a_recipe_of_two_stages_needs_its_name(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("output: x\nsteps: 3\ndataset: y\n")
    with pytest.raises(ConfigError, match="say which with --stage"):
        stage_of(str(tmp_path / "r.yaml"), [])


@pytest.mark.parametrize("kind", ["slice", "lora"])
def test_the_script_for_gpus_runs(workspace: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What scripts/gpu_check.sh measures, on a CPU."""
    spec = importlib.util.spec_from_file_location("training_speed", BASE_7B.parents[1] / "scripts/training_speed.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    sizes = ["--device", "cpu", "--rows", "1", "--length", "32", "--steps", "1"]
    script.main([kind, str(workspace / "model" / "config.json"), *sizes])
    result = json.loads(capsys.readouterr().out)
    assert result["positions"] == 32 and result["flops_a_step"] > 0 and result["seconds_a_step"] > 0
    assert (result["learning"] < 100_000) == (kind == "lora")


def test_tensor_parallelism_is_counted(tmp_path: Path) -> None:
    """Layers are split, but for the weights of q, k and v; what is outside of them is computed by every process."""
    sizes = json.loads((BASE_7B / "config.json").read_text())
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]

    def plan(layers: int, tensor: int, gpus: int) -> Estimate:
        config = tmp_path / f"{layers}.json"
        config.write_text(json.dumps(sizes | {"num_hidden_layers": layers}))
        overrides = [f"tensor_parallel={tensor}"]
        trained = load_stage_recipe(BASE_7B / "lm_stage2.yaml", LanguageModelRecipe, overrides)
        return estimate(trained, plan_stage(trained, config), gpus)

    one, two, split = plan(1, 1, 8), plan(2, 1, 8), plan(1, 2, 16)
    assert split.parts == one.parts
    of_layer = two.flops - one.flops
    assert split.flops == pytest.approx(of_layer + 2 * (one.flops - of_layer), rel=1e-6)
    saved = 4 * (width * width + 3 * width * inner) / 2 / 8
    assert one.memory.weights - split.memory.weights == pytest.approx(saved, rel=1e-6)
    assert one.memory.optimizer - split.memory.optimizer == pytest.approx(2 * saved, rel=1e-6)
    assert split.memory.step < one.memory.step
    with pytest.raises(ConfigError, match="2 does not divide 15 GPUs"):
        plan(1, 2, 15)
