"""The smallest model with nano's parts, shared by what puts models together and makes them larger."""

import json
from pathlib import Path

import pytest

from baichuan_audio.training.common.assemble import start

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
    rows = [{"messages": [{"role": "user", "content": "What is hot?"}, {"role": "assistant", "content": "热的。"}]}]
    (folder / "dialogues.jsonl").write_text("\n".join(map(json.dumps, rows)))
    start(template, folder / "dialogues.jsonl", folder / "model")
    return folder / "model"
