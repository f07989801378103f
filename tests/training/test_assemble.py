"""Parts of several runs make one checkpoint, rounded as it is stored."""

import json
from pathlib import Path

import pytest
import torch

import baichuan_audio
from baichuan_audio.errors import TrainingError
from baichuan_audio.training.assemble import assemble, average, deepen, start
from baichuan_audio.training.checkpointing import save_training_state

TEMPLATE = Path(__file__).parents[2] / "recipes" / "nano" / "config.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano's config.json with the smallest sizes that make sense."""
    config = json.loads(TEMPLATE.read_text())
    config |= {"hidden_size": 128, "num_hidden_layers": 1, "intermediate_size": 64}
    audio = {"d_model": 32, "encoder_layers": 1, "encoder_ffn_dim": 32, "decoder_layers": 1, "decoder_ffn_dim": 32}
    config["audio_config"] |= audio | {"vq_config": {"codebook_sizes": [16, 8]}}
    flow = {"prenet_in_dim": 32, "prenet_d_model": 32, "prenet_ffn_dim": 32, "prenet_nlayers": 1, "channels": [16]}
    config["flow_matching_config"] |= flow | {"num_mid_blocks": 1, "num_heads": 2, "attention_head_dim": 8}
    config["mel_vocoder_config"] |= {"dim": 32, "ffn_dim": 32, "num_layers": 1}
    path = tmp_path_factory.mktemp("template") / "config.json"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def base(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    rows = [{"turns": [{"user": "What is hot?", "user_clip": None}, {"assistant": "热的。", "segments": []}]}]
    (folder / "dialogues.jsonl").write_text("\n".join(map(json.dumps, rows)))
    start(template, folder / "dialogues.jsonl", folder / "model")
    return folder / "model"


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
    assert next(made.vocoder.parameters()).dtype == torch.float32


def test_without_a_template_the_base_is_kept(base: Path, tmp_path: Path) -> None:
    assemble(base, tmp_path / "made")
    made, own = (baichuan_audio.load(path).state_dict() for path in (tmp_path / "made", base))
    assert all(torch.equal(value, made[name]) for name, value in own.items())


def test_a_broken_template_or_list_is_named(base: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(TrainingError, match=r"broken\.json"):
        assemble(base, tmp_path / "made", tmp_path / "broken.json")
    with pytest.raises(TrainingError, match="list of dialogues"):
        start(TEMPLATE, tmp_path / "nothing.jsonl", tmp_path / "made")


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


def test_a_deepened_model_computes_the_same_and_its_new_layers_can_learn(base: Path, tmp_path: Path) -> None:
    deep = deepen(base, tmp_path / "deep", 3)
    small = baichuan_audio.load(base)
    loaded = baichuan_audio.load(tmp_path / "deep")
    assert loaded.config == small.config | {"num_hidden_layers": 3} and len(loaded.language_model.layers) == 3
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(loaded.language_model(ids)[1], small.language_model(ids)[1])
    for name in ("tokenizer.", "flow.", "vocoder.", "audio_head."):
        kept = {key: value for key, value in small.state_dict().items() if key.startswith(name)}
        assert kept and all(torch.equal(loaded.state_dict()[key], value) for key, value in kept.items())

    deep.requires_grad_(True).language_model(ids)[1].logsumexp(-1).sum().backward()
    assert all(layer.self_attn.o_proj.weight.grad.abs().sum() > 0 for layer in deep.language_model.layers)
    assemble(base, tmp_path / "half", dtype=torch.bfloat16)
    halves = deepen(tmp_path / "half", tmp_path / "deep_half", 2).language_model
    assert halves.lm_head.weight.dtype == halves.layers[1].mlp.up_proj.weight.dtype == torch.bfloat16
    with pytest.raises(TrainingError, match="1 layers already"):
        deepen(base, tmp_path / "nothing", 1)
    assert not (tmp_path / "nothing").exists()
