"""The smallest model with nano's parts."""

import json
import sys
from pathlib import Path

import pytest
from lm_workspace import random_model

from baichuan_audio.language_model.build_tokenizer import build_text_tokenizer

TEMPLATE = Path(__file__).parents[2] / "models" / "nano" / "config.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano's config.json with the smallest sizes that make sense."""
    config = json.loads(TEMPLATE.read_text())
    config |= {"torch_dtype": "float32", "hidden_size": 128, "num_hidden_layers": 1, "intermediate_size": 64}
    audio = {"d_model": 32, "encoder_layers": 1, "encoder_ffn_dim": 32, "decoder_layers": 1, "decoder_ffn_dim": 32}
    # A template has no ids of control tokens: they are those of the text tokenizer.
    config["audio_config"] = {k: value for k, value in config["audio_config"].items() if not k.endswith("_token_id")}
    config["audio_config"] |= audio | {"vq_config": {"codebook_sizes": [16, 8]}}
    flow = {"prenet_in_dim": 32, "prenet_d_model": 32, "prenet_ffn_dim": 32, "prenet_nlayers": 1, "channels": [16]}
    config["flow_matching_config"] |= flow | {"num_mid_blocks": 1, "num_heads": 2, "attention_head_dim": 8}
    config["mel_vocoder_config"] |= {"dim": 32, "ffn_dim": 32, "num_layers": 1}
    path = tmp_path_factory.mktemp("template") / "config.json"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def base(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    random_model(json.loads(template.read_text()), build_text_tokenizer(["热的。"]), folder)
    return folder


@pytest.fixture
def plain_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training log without pictures, TensorBoard and progress bar, whose libraries every process would import."""
    for library in ("torch.utils.tensorboard", "matplotlib.figure", "tqdm"):
        monkeypatch.setitem(sys.modules, library, None)
