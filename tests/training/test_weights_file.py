"""`checkpoint export`: what a training run has learnt in one file, and the stages that read it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from baichuan_audio.cli import main
from baichuan_audio.errors import CheckpointError, TrainingError
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.safetensors_io import find_tensors, read_header
from baichuan_audio.training.common.assemble import assemble
from baichuan_audio.training.common.checkpointing import load_part, module_weights, save_training_state


@pytest.fixture(scope="module")
def trained(model: BaichuanAudio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output whose tokenizer is not the golden one's, with the head of a text loss."""
    output = tmp_path_factory.mktemp("tokenizer")
    tokenizer, head = copy.deepcopy(model.tokenizer), nn.Linear(256, 128)
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter.mul_(1.01)
    learning = nn.ModuleDict({"projection": head})
    save_training_state(output, 7, {"tokenizer": tokenizer, "embedding_ctc": learning, "phonetic_head": head}, {})
    return output


@pytest.fixture(scope="module")
def file(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "tokenizer.safetensors"
    assert main(["checkpoint", "export", str(trained), str(path)]) == 0
    return path


def test_a_stage_reads_what_the_run_had_learnt(trained: Path, file: Path, model: BaichuanAudio) -> None:
    for module in ("tokenizer", "embedding_ctc"):
        before, after = module_weights(trained, module), module_weights(file, module)
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            if name.endswith("embed_avg"):  # computed from entries and sizes, which do not fit in the golden checkpoint
                continue
            step = tensor.float().abs().amax() / 127 if tensor.ndim > 1 else 0.0
            assert after[name].dtype == tensor.dtype or name.endswith(".embed"), name
            assert (after[name].float() - tensor.float()).abs().amax() <= step, name
            assert "positional_embedding" not in name or torch.equal(after[name], tensor), name
    part = copy.deepcopy(model.tokenizer)
    load_part(part, "tokenizer", file)
    assert torch.equal(part.encoder.conv1.bias, module_weights(trained, "tokenizer")["encoder.conv1.bias"])
    with pytest.raises(TrainingError, match="holds no flow"):
        module_weights(file, "flow")


def test_a_checkpoint_is_put_together_from_it(file: Path, checkpoint_dir: Path, tmp_path: Path) -> None:
    made = assemble(checkpoint_dir, tmp_path / "model", tokenizer=str(file)).state_dict()
    for name, tensor in module_weights(file, "tokenizer").items():
        torch.testing.assert_close(made[f"tokenizer.{name}"], tensor.float(), rtol=0, atol=0)


def test_its_names_are_the_released_ones(file: Path, checkpoint_dir: Path) -> None:
    names = {name for name in read_header(file) if not name.endswith(".scale")}
    assert "embedding_ctc.projection.weight" in names and not any("phonetic" in name for name in names)
    of_model = {name for name in names if not name.startswith("embedding_ctc.")}
    assert of_model < find_tensors(checkpoint_dir).keys()


def test_what_cannot_be_exported_is_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_training_state(tmp_path / "vocoder", 1, {"vocoder": nn.Linear(2, 2)}, {})
    for output, told in (("vocoder", "no later stage reads it"), ("nothing", "train that stage first")):
        assert main(["checkpoint", "export", str(tmp_path / output), str(tmp_path / "out.safetensors")]) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        module_weights(tmp_path / "damaged.safetensors", "tokenizer")
    (tmp_path / "folder.safetensors").mkdir()
    assert main(["checkpoint", "export", str(trained), str(tmp_path / "folder.safetensors")]) == 2
