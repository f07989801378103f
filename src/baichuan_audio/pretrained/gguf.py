"""GGUF files of the Llama and Qwen2 architectures: sizes, tensors under Hugging Face's names, and the tokenizer.

Tensors are read and dequantised one at a time, when they are needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, MissingDependencyError

_NAMES = {
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
_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_ARCHITECTURES = ("llama", "qwen2")
_PLAIN_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CONTROL, _USER_DEFINED = 3, 4  # of GGUF's token types


@dataclass(frozen=True)
class GGUFTensor:
    """Position of a tensor in a GGUF file. dtype: as stored; float32 for quantised ones, which are dequantised.

    raw_shape, raw_dtype: of the stored numbers. permuted_heads: as `undo_rotary_permutation` needs; 0 elsewhere.
    """

    file: Path
    kind: Any
    offset: int
    raw_shape: tuple[int, ...]
    raw_dtype: np.dtype[Any]
    shape: tuple[int, ...]
    dtype: torch.dtype
    permuted_heads: int = 0

    def read(self) -> Tensor:
        from gguf import dequantize

        raw = np.fromfile(self.file, self.raw_dtype, int(np.prod(self.raw_shape)), offset=self.offset)
        if raw.size < np.prod(self.raw_shape):
            raise CheckpointError(f"{self.file}: the file ended while a tensor was read; copy it again.")
        values = torch.from_numpy(np.ascontiguousarray(dequantize(raw.reshape(self.raw_shape), self.kind)))
        values = values.to(self.dtype).reshape(self.shape)
        return undo_rotary_permutation(values, self.permuted_heads) if self.permuted_heads else values


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, GGUFTensor], str, str | None]:
    """Config entries, tensors by Hugging Face's names, the text of a `tokenizer.json`, and the chat template.

    Raises CheckpointError for another format or architecture, MissingDependencyError without the package gguf.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "reading GGUF needs the package gguf: pip install 'baichuan-audio[pretrained]'."
        ) from error
    try:
        reader = GGUFReader(path)
    except (ValueError, OSError, IndexError) as error:
        raise CheckpointError(f"{path}: this is no readable GGUF file ({error}).") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kind = fields.get("general.architecture")
    if kind not in _ARCHITECTURES:
        raise CheckpointError(f"{path}: the architecture {kind!r} is not Llama or Qwen2.")
    if int(fields.get("split.count") or 1) > 1:
        raise CheckpointError(f"{path}: this is a part of a model; join its parts by llama-gguf-split --merge.")
    entries = _config(fields, kind, path)
    tensors = {}
    for tensor in reader.tensors:
        name = _hugging_face_name(tensor.name)
        if name is None:
            continue
        heads = 0
        if kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = entries["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        tensors[name] = GGUFTensor(
            path,
            tensor.tensor_type,
            int(tensor.data_offset),
            tuple(tensor.data.shape),
            tensor.data.dtype,
            tuple(int(size) for size in reversed(tensor.shape)),
            _PLAIN_TYPES.get(tensor.tensor_type.name, torch.float32),
            heads,
        )
    if "model.embed_tokens.weight" not in tensors:
        raise CheckpointError(f"{path}: the tensor token_embd.weight is missing.")
    entries["vocab_size"] = tensors["model.embed_tokens.weight"].shape[0]
    return entries, tensors, _tokenizer(fields, path), fields.get("tokenizer.chat_template")


def _config(fields: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
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
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in _NAMES:
        return None
    return f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.{parts[3]}"


def undo_rotary_permutation(weight: Tensor, heads: int) -> Tensor:
    """weight [heads * d, D] with the rows of each head interleaved (0, d/2, 1, d/2 + 1, ...), as GGUF stores Llama's
    query and key for its rotary layout -> the published order, first half and second half of each head."""
    rows = weight.shape[0] // heads
    return weight.view(heads, rows // 2, 2, -1).transpose(1, 2).reshape(weight.shape)


def _tokenizer(fields: Mapping[str, Any], path: Path) -> str:
    """Byte-level BPE of a GGUF file -> the text of a `tokenizer.json`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    if fields.get("tokenizer.ggml.model") != "gpt2":
        raise CheckpointError(
            f"{path}: only byte-level BPE tokenizers are read, not {fields.get('tokenizer.ggml.model')}."
        )
    entries, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocabulary = {token: index for index, token in enumerate(entries)}
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = _pre_tokenizer(str(fields.get("tokenizer.ggml.pre")), path)
    tokenizer.normalizer = normalizers.NFC() if fields.get("tokenizer.ggml.pre") == "qwen2" else None
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(entries, kinds, strict=True):
        if kind == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
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
