"""Parts of several runs make one checkpoint, rounded as it is stored."""

from pathlib import Path

import pytest
import torch

import baichuan_audio
from baichuan_audio.errors import CheckpointError, TrainingError
from baichuan_audio.training.common.assemble import assemble
from baichuan_audio.training.common.checkpointing import save_training_state


def test_parts_come_from_where_they_were_trained(base: Path, template: Path, tmp_path: Path) -> None:
    trained = baichuan_audio.load(base).tokenizer
    torch.nn.init.constant_(trained.encoder.conv1.weight, 1.01)
    save_training_state(tmp_path / "run", 5, {"tokenizer": trained}, {})
    assemble(base, tmp_path / "made", template, tokenizer=str(tmp_path / "run"), flow=str(base), dtype=torch.bfloat16)
    made, own = baichuan_audio.load(tmp_path / "made"), baichuan_audio.load(base)
    assert made.config["torch_dtype"] == "bfloat16" and made.tokenizer.encoder.conv1.weight.dtype == torch.bfloat16
    assert bool((made.tokenizer.encoder.conv1.weight == torch.tensor(1.01).bfloat16()).all())
    for part in ("language_model", "audio_head", "flow"):
        for name, value in getattr(own, part).state_dict().items():
            assert torch.equal(getattr(made, part).state_dict()[name], value.bfloat16()), name
    for name, value in own.vocoder.state_dict().items():  # stored in half the bytes, read as float32
        assert torch.equal(made.vocoder.state_dict()[name], value.bfloat16().float()), name
    assert (tmp_path / "made" / "vocoder.safetensors").stat().st_size < 0.6 * (
        base / "vocoder.safetensors"
    ).stat().st_size


def test_without_a_template_the_base_is_kept(base: Path, tmp_path: Path) -> None:
    assemble(base, tmp_path / "made")
    made, own = (baichuan_audio.load(path).state_dict() for path in (tmp_path / "made", base))
    assert all(torch.equal(value, made[name]) for name, value in own.items())


def test_a_broken_template_is_named(base: Path, tmp_path: Path) -> None:
    for broken, what in (("{", "not valid JSON"), ("[1]", "should hold one JSON object"), ("{}", "no audio_config")):
        (tmp_path / "broken.json").write_text(broken)
        with pytest.raises((CheckpointError, TrainingError), match=rf"broken\.json.*{what}"):
            assemble(base, tmp_path / "made", tmp_path / "broken.json")
