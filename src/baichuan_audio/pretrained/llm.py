"""Llama and Qwen2 checkpoints -> the backbone's tensors and config entries (docs/model.md, 4).

Two layouts are read: a Hugging Face directory (`config.json`, safetensors) and a GGUF file. The backbone packs query,
key and value into one product with a bias; where the source has no bias, as Llama, it is zero. Tensors are read one
at a time when they are needed, in the type of the file.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..safetensors_io import TensorSource, find_tensors, read_json

ARCHITECTURES = {"llama": "llama", "LlamaForCausalLM": "llama", "qwen2": "qwen2", "Qwen2ForCausalLM": "qwen2"}
_LAYER = "model.layers.{layer}."
_PASSED_ON = (
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)


@dataclass(frozen=True)
class PretrainedLLM:
    """config: entries of `config.json` as the backbone reads them. tensors: by the backbone's own names.

    tokenizer: the text of `tokenizer.json`. chat_template: Jinja, where the source has one.
    """

    config: dict[str, Any]
    tensors: Mapping[str, TensorSource]
    tokenizer: str
    chat_template: str | None = None


def read_llm(path: str | Path) -> PretrainedLLM:
    """Read a GGUF file or a Hugging Face directory of the Llama or Qwen2 architecture.

    Raises CheckpointError where it is neither, of another architecture, or incomplete.
    """
    path = Path(path)
    if path.is_dir():
        return _read_directory(path)
    if path.suffix == ".gguf" and path.is_file():
        from .gguf import read_gguf

        config, tensors, tokenizer, template = read_gguf(path)
        layers = config["num_hidden_layers"]
        return PretrainedLLM(config, dict(backbone_tensors(tensors, layers, str(path))), tokenizer, template)
    raise CheckpointError(f"{path}: expected a .gguf file or a directory with config.json and safetensors.")


@dataclass(frozen=True)
class StackedTensor:
    """Tensors that are read as one of `dtype`, stacked along the first axis; an integer stands for zeros [n]."""

    parts: tuple[TensorSource | int, ...]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        shapes = [(part,) if isinstance(part, int) else part.shape for part in self.parts]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def read(self) -> Tensor:
        parts = (
            torch.zeros(part, dtype=self.dtype) if isinstance(part, int) else part.read().to(self.dtype)
            for part in self.parts
        )
        return torch.cat(list(parts))


def backbone_tensors(source: Mapping[str, TensorSource], layers: int, where: str) -> Iterator[tuple[str, TensorSource]]:
    """Hugging Face names -> the backbone's: W_pack [q + k + v, D] with its bias, and the rest unchanged.

    An output layer that is tied to the embeddings is read from them. Raises CheckpointError for a missing tensor.
    """

    def get(name: str) -> TensorSource:
        if name not in source:
            raise CheckpointError(f"{where}: the tensor {name} is missing.")
        return source[name]

    yield "embed_tokens.weight", get("model.embed_tokens.weight")
    yield "norm.weight", get("model.norm.weight")
    yield "lm_head.weight", get("lm_head.weight" if "lm_head.weight" in source else "model.embed_tokens.weight")
    for layer in range(layers):
        prefix = _LAYER.format(layer=layer)
        parts = [get(f"{prefix}self_attn.{name}_proj.weight") for name in "qkv"]
        biases = [
            source.get(f"{prefix}self_attn.{name}_proj.bias", part.shape[0])
            for name, part in zip("qkv", parts, strict=True)
        ]
        weight = _stacked(parts)
        yield f"layers.{layer}.self_attn.W_pack.weight", weight
        yield f"layers.{layer}.self_attn.W_pack.bias", _stacked(biases, weight.dtype)
        for name in _PASSED_ON:
            yield f"layers.{layer}.{name}", get(prefix + name)


def _stacked(parts: Sequence[TensorSource | int], otherwise: torch.dtype = torch.float32) -> StackedTensor:
    """In the type that holds all of them, `otherwise` where all are zeros."""
    types = [part.dtype for part in parts if not isinstance(part, int)] or [otherwise]
    return StackedTensor(tuple(parts), functools.reduce(torch.promote_types, types))


def _read_directory(path: Path) -> PretrainedLLM:
    config = read_json(path / "config.json")
    architecture = (config.get("architectures") or [config.get("model_type")])[0]
    if architecture not in ARCHITECTURES:
        raise CheckpointError(f"{path}: the architecture {architecture!r} is not Llama or Qwen2.")
    if config.get("rope_scaling"):
        raise CheckpointError(f"{path}: rope_scaling is not supported.")
    entries = {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "intermediate_size": config["intermediate_size"],
        "rms_norm_eps": config["rms_norm_eps"],
        "rope_theta": float(config.get("rope_theta") or 1e4),
        "max_position_embeddings": config["max_position_embeddings"],
    }
    tokenizer = path / "tokenizer.json"
    if not tokenizer.is_file():
        raise CheckpointError(f"{path}: tokenizer.json is missing.")
    settings = path / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    tensors = dict(backbone_tensors(find_tensors(path), entries["num_hidden_layers"], str(path)))
    return PretrainedLLM(entries, tensors, tokenizer.read_text(encoding="utf-8"), template)
