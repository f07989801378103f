"""The benchmark itself: what it counts and writes, and that the optimized path is faster than the reference path."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan_audio.acceleration.optimize import joined_copy
from baichuan_audio.bench import stages
from baichuan_audio.bench.models import decode_elements, never_end, on_each_path, random_model
from baichuan_audio.bench.report import markdown
from baichuan_audio.bench.run import Plan, measure
from baichuan_audio.bench.timing import Case, Timing, interleave, startup
from baichuan_audio.cli import main
from baichuan_audio.errors import CheckpointError
from baichuan_audio.generation.session import Session
from baichuan_audio.language_model.sampling import Sampling
from baichuan_audio.layers.precision import fast_bfloat16
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.reference import ReferenceSession

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config.json whose audio head outweighs all else, as the released one's would at nano's width."""
    config: dict[str, Any] = json.loads((Path(__file__).parents[2] / "recipes/bench/mid.json").read_text())
    config |= {"hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
    config["audio_config"]["audio_head_transformer_layers"] = 1
    config["audio_config"] |= {"encoder_layers": 1, "decoder_layers": 1, "d_model": 64, "encoder_ffn_dim": 64}
    config["audio_config"] |= {"decoder_ffn_dim": 64}
    config["audio_config"]["vq_config"]["codebook_sizes"] = [256, 128, 64, 64, 64, 64, 64, 64]
    config["flow_matching_config"] |= {"prenet_in_dim": 64, "prenet_nlayers": 1, "diffusion_steps": 2}
    config["flow_matching_config"] |= {
        "prenet_d_model": 64,
        "prenet_ffn_dim": 64,
        "channels": [32],
        "num_mid_blocks": 1,
    }
    config["mel_vocoder_config"] |= {"dim": 32, "ffn_dim": 32, "num_layers": 1}
    config |= {"vocab_size": 0}
    path = tmp_path_factory.mktemp("shape") / "config.json"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="session")
def drawn(shape: Path) -> BaichuanAudio:
    return random_model(str(shape), torch.float32, CPU)


@pytest.fixture
def random(drawn: BaichuanAudio) -> BaichuanAudio:
    """A copy: measuring changes it."""
    return copy.deepcopy(drawn)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short questions and replies."""
    monkeypatch.setattr(stages, "QUESTION_SECONDS", 1.0)
    monkeypatch.setattr(stages, "FIRST_CLAUSE", (2, 9))


def test_random_weights_have_the_sizes_asked_for(random: BaichuanAudio) -> None:
    assert random.language_model.config.hidden_size == 512
    tensors = random.state_dict().values()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())
    weight = random.language_model.lm_head.weight
    assert 0.01 < float(weight.std()) < 0.03
    with pytest.raises(CheckpointError, match=r"nowhere\.json: this file of the checkpoint is missing"):
        random_model("nowhere.json", torch.float32, CPU)


def test_segments_never_end_early(random: BaichuanAudio) -> None:
    session = never_end(random).start([5, 6, 7], seed=0)
    assert session.write_codes(40, Sampling(50.0)).shape[1] == 40


def test_elements_are_those_of_one_step(random: BaichuanAudio) -> None:
    layers = sum(p.numel() for p in random.language_model.layers.parameters())
    assert decode_elements(random, text=True) == layers + random.language_model.lm_head.weight.numel()
    head = sum(p.numel() for p in random.audio_head.parameters()) - random.audio_head.headnorm.weight.numel()
    assert decode_elements(random, text=False) == layers + head


def test_paths_take_turns_and_the_first_round_is_left_out() -> None:
    done: list[str] = []
    cases = {name: Case(lambda name=name: done.append(name), 4.0) for name in ("one", "two")}  # type: ignore[misc]
    timings = interleave(cases, 3, CPU)
    assert done == ["one", "two"] * 4 and len(timings["one"].wall) == 3
    assert len(interleave(cases, 9, CPU, seconds=0.0)["one"].wall) == 3
    slow, quick = Timing([4.0, 6.0, 80.0]), Timing([2.0, 2.0, 40.0])
    assert quick.times_faster_than(slow) == 2.0 and slow.median == 6.0
    assert slow.spread == (5.0, 43.0)


def test_startup_is_timed_in_a_new_process(checkpoint_dir: Path) -> None:
    seconds = startup(str(checkpoint_dir), "float32", "cpu", 1, repeats=1)
    assert seconds["cpu"] > 0 and seconds["seconds"] > 0


def test_measures_every_stage(random: BaichuanAudio) -> None:
    plan = Plan(repeats=1, units=2, prompt=8, histories=(10, 10_000), audio_seconds=(1.0,))
    progress: list[str] = []
    result = measure(random, "random", plan, ["int8"], progress.append)
    named = {stage["name"]: stage for stage in result["stages"]}
    expected = ["prefill_8", "text_10", "frames_10", "encode_1s", "decode_3.84s", "first_audio", "chat"]
    assert list(named) == expected  # 10,000 positions are more than this model reads
    assert set(named["frames_10"]["paths"]) == {"reference", "optimized", "int8"}
    row = named["frames_10"]["paths"]["int8"]
    assert row["floor"] < named["frames_10"]["paths"]["optimized"]["floor"] and row["rtf"] > 0
    assert (
        result["memory"]["paths"]["int8"]["language model"] < result["memory"]["paths"]["optimized"]["language model"]
    )
    assert 0 < result["parity"]["int8"]["code_error"] < 0.2
    assert all(value > 0 for value in result["ceilings"].values())
    assert [row["steps"] for row in result["flow_steps"]] == [2, 4, 6, 10]
    json.dumps(result)


def test_no_table_of_solver_steps_where_there_are_none(random: BaichuanAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baichuan_audio.bench.run.planned_stages", lambda *_: [])
    random.flow.config = replace(random.flow.config, diffusion_steps=0)
    result = measure(random, "random", Plan(repeats=1), [], lambda _: None)
    assert "flow_steps" not in result and "solver" not in markdown(result)


def test_rows_of_a_decoder_take_their_steps(drawn: BaichuanAudio) -> None:
    """Timed on CUDA only; the same work on a CPU."""
    stage = stages.batch(joined_copy(drawn), 3, 10, 2)
    timings = interleave(stage.cases, 1, CPU)
    assert timings["optimized"].median > 0 and stage.reads["optimized"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_optimized_path_is_faster_than_the_reference(random: BaichuanAudio, dtype: torch.dtype) -> None:
    """CPU time, median of interleaved rounds: other programs slow both paths alike."""
    if dtype is torch.bfloat16 and not fast_bfloat16("cpu"):
        pytest.skip("this processor has no instructions for bfloat16")
    paths = on_each_path(never_end(random.to(dtype)), [])
    assert paths["reference"].session_factory is ReferenceSession and paths["optimized"].session_factory is Session
    stage = stages.frames(paths, 20, 4)
    timings = interleave(stage.cases, 7, CPU)
    assert timings["optimized"].times_faster_than(timings["reference"], cpu=True) > 1.3


def test_the_command_writes_tables_and_a_plot(shape: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "--random-init", str(shape), "--quick", "--repeats", "1", "--device", "cpu"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert "| code frames after 40" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"bench.json", "bench.md", "bench.png"}
    assert main([*command, "--quantize", "int5"]) == 2
