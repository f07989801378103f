"""A Qwen2 model and a Whisper model, as their makers publish them, with random weights and the workspace's sizes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lm_workspace import TEXTS
from safetensors.torch import save_file

import baichuan_audio
from baichuan_audio.language_model.build_tokenizer import CONTROL_TOKENS, build_text_tokenizer

WIDTH, HEADS, GROUPS, INNER = 128, 2, 1, 96
SPARE = 3
"""Rows of the tables beyond the tokenizer's ids, as Qwen2.5 has."""


def make_published(workspace: Path, root: Path) -> tuple[Path, Path]:
    """The folders of the two."""
    draw = torch.Generator().manual_seed(0)

    def values(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=draw) * 0.05).bfloat16()

    llm, whisper = root / "llm", root / "whisper"
    llm.mkdir()
    tokenizer = json.loads(build_text_tokenizer(TEXTS).to_str())
    kept = [token for token in tokenizer["added_tokens"] if token["content"] == CONTROL_TOKENS[0]]
    tokenizer["added_tokens"] = kept
    (llm / "tokenizer.json").write_text(json.dumps(tokenizer))
    rows = kept[0]["id"] + 1 + SPARE
    config = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": rows, "hidden_size": WIDTH, "num_hidden_layers": 1,
              "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "intermediate_size": INNER,
              "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 512}  # fmt: skip
    (llm / "config.json").write_text(json.dumps(config))
    group = WIDTH // HEADS * GROUPS
    shapes = {"q_proj": (WIDTH, WIDTH), "k_proj": (group, WIDTH), "v_proj": (group, WIDTH), "o_proj": (WIDTH, WIDTH)}
    layer = "model.layers.0."
    tensors = {f"{layer}self_attn.{name}.weight": values(*shape) for name, shape in shapes.items()}
    tensors |= {f"{layer}self_attn.{name}.bias": values(shapes[name][0]) for name in ("q_proj", "k_proj", "v_proj")}
    for name, shape in (("gate_proj", (INNER, WIDTH)), ("up_proj", (INNER, WIDTH)), ("down_proj", (WIDTH, INNER))):
        tensors[f"{layer}mlp.{name}.weight"] = values(*shape)
    norms = (f"{layer}input_layernorm", f"{layer}post_attention_layernorm", "model.norm")
    tensors |= {f"{name}.weight": values(WIDTH) for name in norms}
    tensors |= {name: values(rows, WIDTH) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    save_file(tensors, llm / "model.safetensors")
    whisper.mkdir()
    config = json.loads((workspace / "model/config.json").read_text())
    heads = config["audio_config"]["encoder_attention_heads"]
    (whisper / "config.json").write_text(json.dumps({"encoder_attention_heads": heads}))
    state = baichuan_audio.load(workspace / "model").tokenizer.encoder.state_dict()
    encoder = {f"model.encoder.{n}": values(*t.shape) for n, t in state.items() if n != "positional_embedding"}
    save_file(encoder | {"model.decoder.layer_norm.weight": values(16)}, whisper / "model.safetensors")
    return llm, whisper
