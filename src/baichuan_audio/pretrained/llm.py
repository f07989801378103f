"""Llama and Qwen2 checkpoints -> the backbone's tensors and config entries (docs/model.md, 4).

Two layouts are read: a Hugging Face directory (`config.json`, safetensors) and a GGUF file. The backbone packs query,
key and value into one product with a bias; where the source has no bias, as Llama, it is zero.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, MissingDependencyError
from ..safetensors_io import find_tensors, read_json

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
_GGUF_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_GGUF_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class PretrainedLLM:
    """config: entries of `config.json` as the backbone reads them. tensors: by the backbone's own names, float32.

    tokenizer: the text of `tokenizer.json`. chat_template: Jinja, where the source has one.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
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
        return _read_gguf(path)
    raise CheckpointError(f"{path}: expected a .gguf file or a directory with config.json and safetensors.")


def backbone_tensors(source: Mapping[str, Tensor], layers: int, where: str) -> Iterator[tuple[str, Tensor]]:
    """Hugging Face names -> the backbone's: W_pack [q + k + v, D] with its bias, and the rest unchanged.

    An output layer that is tied to the embeddings becomes a copy. Raises CheckpointError for a missing tensor.
    """

    def get(name: str) -> Tensor:
        if name not in source:
            raise CheckpointError(f"{where}: the tensor {name} is missing.")
        return source[name].float()

    yield "embed_tokens.weight", get("model.embed_tokens.weight")
    yield "norm.weight", get("model.norm.weight")
    yield "lm_head.weight", get("lm_head.weight" if "lm_head.weight" in source else "model.embed_tokens.weight").clone()
    for layer in range(layers):
        prefix = _LAYER.format(layer=layer)
        parts = [get(f"{prefix}self_attn.{name}_proj.weight") for name in "qkv"]
        biases = [source.get(f"{prefix}self_attn.{name}_proj.bias") for name in "qkv"]
        yield f"layers.{layer}.self_attn.W_pack.weight", torch.cat(parts)
        filled = [
            part.new_zeros(part.shape[0]) if bias is None else bias.float()
            for part, bias in zip(parts, biases, strict=True)
        ]
        yield f"layers.{layer}.self_attn.W_pack.bias", torch.cat(filled)
        for name in _PASSED_ON:
            yield f"layers.{layer}.{name}", get(prefix + name)


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
    stored = find_tensors(path)
    source = {name: tensor.read() for name, tensor in stored.items()}
    tokenizer = path / "tokenizer.json"
    if not tokenizer.is_file():
        raise CheckpointError(f"{path}: tokenizer.json is missing.")
    settings = path / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    tensors = dict(backbone_tensors(source, entries["num_hidden_layers"], str(path)))
    return PretrainedLLM(entries, tensors, tokenizer.read_text(encoding="utf-8"), template)


def _read_gguf(path: Path) -> PretrainedLLM:
    try:
        from gguf import GGUFReader, dequantize
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "reading GGUF needs the package gguf: pip install 'baichuan-audio[pretrained]'."
        ) from error
    try:
        reader = GGUFReader(path)
    except (ValueError, OSError, IndexError) as error:
        raise CheckpointError(f"{path}: this is no readable GGUF file ({error}).") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kind = ARCHITECTURES.get(fields.get("general.architecture", ""))
    if kind is None:
        raise CheckpointError(f"{path}: the architecture {fields.get('general.architecture')!r} is not Llama or Qwen2.")
    entries = _gguf_config(fields, kind, path)
    source = {}
    for tensor in reader.tensors:
        name = _hugging_face_name(tensor.name)
        if name is None:
            continue
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = entries["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            values = undo_rotary_permutation(values, heads)
        source[name] = values
    entries["vocab_size"] = source["model.embed_tokens.weight"].shape[0]
    tensors = dict(backbone_tensors(source, entries["num_hidden_layers"], str(path)))
    return PretrainedLLM(entries, tensors, _gguf_tokenizer(fields, path), fields.get("tokenizer.chat_template"))


def _gguf_config(fields: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
    names = {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "intermediate_size": "feed_forward_length",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
        "max_position_embeddings": "context_length",
    }
    try:
        return {ours: fields[f"{kind}.{theirs}"] for ours, theirs in names.items()}
    except KeyError as error:
        raise CheckpointError(f"{path}: the entry {error} is missing.") from error


def _hugging_face_name(name: str) -> str | None:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; None for what the backbone does not have."""
    if name in _GGUF_TOP:
        return _GGUF_TOP[name]
    parts = name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in _GGUF_NAMES:
        return None
    return f"model.layers.{parts[1]}.{_GGUF_NAMES[parts[2]]}.{parts[3]}"


def undo_rotary_permutation(weight: Tensor, heads: int) -> Tensor:
    """weight [heads * d, D] with the rows of each head interleaved (0, d/2, 1, d/2 + 1, ...), as GGUF stores Llama's
    query and key for its rotary layout -> the published order, first half and second half of each head."""
    rows = weight.shape[0] // heads
    return weight.view(heads, rows // 2, 2, -1).transpose(1, 2).reshape(weight.shape)


def _gguf_tokenizer(fields: Mapping[str, Any], path: Path) -> str:
    """Byte-level BPE of a GGUF file -> the text of a `tokenizer.json`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    if fields.get("tokenizer.ggml.model") != "gpt2":
        raise CheckpointError(
            f"{path}: only byte-level BPE tokenizers are read, not {fields.get('tokenizer.ggml.model')}."
        )
    entries, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocabulary = {token: index for index, token in enumerate(entries)}
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = _pre_tokenizer(str(fields.get("tokenizer.ggml.pre")), path)
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # of GGUF's token types
    tokenizer.add_special_tokens(
        [AddedToken(entries[i], special=True, normalized=False) for i, kind in enumerate(kinds) if kind == control]
    )
    return str(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False))


def _pre_tokenizer(kind: str, path: Path) -> Any:
    """How text is cut before merging, by GGUF's name for it (the models' published tokenizer.json)."""
    from tokenizers import Regex, pre_tokenizers

    if kind == "smollm":
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if kind == "qwen2":
        words = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+"
        )
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    raise CheckpointError(f"{path}: the tokenizer's pre-tokenizer {kind!r} is not known here; use the published files.")
