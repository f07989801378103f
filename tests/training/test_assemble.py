"""Parts of several runs make one checkpoint, rounded as it is stored."""

import json
from pathlib import Path

import pytest
import torch

import baichuan_audio
from baichuan_audio.errors import CheckpointError, DataError, TrainingError
from baichuan_audio.training.common.assemble import assemble, average, start
from baichuan_audio.training.common.checkpointing import save_training_state

TEMPLATE = Path(__file__).parents[2] / "recipes" / "nano" / "config.json"


def test_the_text_tokenizer_knows_the_characters_of_the_dialogues(base: Path) -> None:
    tokenizer = baichuan_audio.load(base).text_tokenizer
    assert len(tokenizer.encode("热的。")) == 3
    assert len(tokenizer.encode("冷")) > 1  # unknown: its bytes


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


def test_a_broken_template_or_list_is_named(base: Path, tmp_path: Path) -> None:
    for broken, what in (("{", "not valid JSON"), ("[1]", "should hold one JSON object"), ("{}", "no audio_config")):
        (tmp_path / "broken.json").write_text(broken)
        with pytest.raises((CheckpointError, TrainingError), match=rf"broken\.json.*{what}"):
            assemble(base, tmp_path / "made", tmp_path / "broken.json")
    with pytest.raises(DataError, match=r"nothing\.jsonl cannot be read"):
        start(TEMPLATE, tmp_path / "nothing.jsonl", tmp_path / "made")
    (tmp_path / "rows.jsonl").write_text('{"id": "a"}')
    with pytest.raises(DataError, match=r"rows\.jsonl: a row is no dialogue"):
        start(TEMPLATE, tmp_path / "rows.jsonl", tmp_path / "made")


def test_the_mean_of_two_runs_lies_between_them(base: Path, template: Path, tmp_path: Path) -> None:
    other = baichuan_audio.load(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.5)
    baichuan_audio.save(other, tmp_path / "other")
    average([base, tmp_path / "other"], tmp_path / "mean")
    mean, own = baichuan_audio.load(tmp_path / "mean"), baichuan_audio.load(base)
    assert mean.config == own.config | {"torch_dtype": "float32"}
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(mean.get_parameter(name), parameter + 0.25)

    with pytest.raises(TrainingError, match="two checkpoints"):
        average([base], tmp_path / "nothing")
    sizes = json.loads(template.read_text()) | {"intermediate_size": 32}
    (tmp_path / "narrower.json").write_text(json.dumps(sizes))
    start(tmp_path / "narrower.json", base.parent / "dialogues.jsonl", tmp_path / "narrower")
    with pytest.raises(TrainingError, match="different sizes"):
        average([base, tmp_path / "narrower"], tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
