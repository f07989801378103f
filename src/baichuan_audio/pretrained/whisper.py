"""Whisper checkpoints -> the audio tokenizer's encoder, and a decoder that reads its features (arXiv 2212.04356).

Two layouts are read: a Hugging Face directory (`config.json`, safetensors) and a CTranslate2 one (`config.json`,
`model.bin`), which packs query, key and value of self-attention and key and value of cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..safetensors_io import find_tensors, read_json
from .ctranslate2 import read_variables

MODEL_BIN = "model.bin"


@dataclass(frozen=True)
class PretrainedWhisper:
    """encoder: entries of `audio_config` that describe it (`d_model`, `encoder_layers` ...). tensors: as stored, under
    Hugging Face's names without `model.`: `encoder.*` are the audio tokenizer's own, `decoder.*` the text decoder's."""

    encoder: dict[str, int]
    tensors: dict[str, Tensor]

    def encoder_state(self) -> dict[str, Tensor]:
        """The state of an `AudioEncoder` of these sizes, without its position table."""
        names = (name for name in self.tensors if name.startswith("encoder.") and "embed_positions" not in name)
        return {name.removeprefix("encoder."): self.tensors[name] for name in names}


def read_whisper(path: str | Path, decoder: bool = True) -> PretrainedWhisper:
    """Read a Whisper model of either layout, with or without its text decoder, in the type of the file.

    Raises CheckpointError where it is none or incomplete.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: expected a directory with a Whisper model.")
    if (path / MODEL_BIN).is_file():
        tensors, heads = _from_ctranslate2(path / MODEL_BIN)
        if not decoder:
            tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    else:
        tensors = {
            name: stored.read()
            for name, stored in ((full.removeprefix("model."), stored) for full, stored in find_tensors(path).items())
            if decoder or name.startswith("encoder.")
        }
        heads = int(read_json(path / "config.json").get("encoder_attention_heads", 0))
    try:
        first, layer = tensors["encoder.conv1.weight"], tensors["encoder.layers.0.fc1.weight"]
    except KeyError as error:
        raise CheckpointError(f"{path}: this is no Whisper model; the tensor {error} is missing.") from error
    sizes = {
        "d_model": first.shape[0],
        "num_mel_bins": first.shape[1],
        "encoder_layers": 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layers.")),
        "encoder_attention_heads": heads or first.shape[0] // 64,
        "encoder_ffn_dim": layer.shape[0],
    }
    return PretrainedWhisper(sizes, tensors)


def _from_ctranslate2(file: Path) -> tuple[dict[str, Tensor], int]:
    variables = read_variables(file)
    tensors: dict[str, Tensor] = {}
    try:
        for name, tensor in _renamed(variables):
            tensors[name] = torch.from_numpy(tensor.copy())
        return tensors, int(variables["encoder/num_heads"])
    except KeyError as error:
        raise CheckpointError(f"{file}: the variable {error} is missing; is this a Whisper model?") from error


def _renamed(variables: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """CTranslate2's names -> Hugging Face's."""
    for number in (1, 2):
        for kind in ("weight", "bias"):
            yield f"encoder.conv{number}.{kind}", variables[f"encoder/conv{number}/{kind}"]
    yield "decoder.embed_tokens.weight", variables["decoder/embeddings/weight"]
    yield "proj_out.weight", variables["decoder/projection/weight"]
    for part in ("encoder", "decoder"):
        yield f"{part}.embed_positions.weight", variables[f"{part}/position_encodings/encodings"]
        yield from _norm(variables, f"{part}/layer_norm", f"{part}.layer_norm")
        layers = {name.split("/")[1] for name in variables if name.startswith(f"{part}/layer_")} - {"layer_norm"}
        for layer in range(len(layers)):
            source, target = f"{part}/layer_{layer}", f"{part}.layers.{layer}"
            yield from _attention(variables, f"{source}/self_attention", f"{target}.self_attn", ("q", "k", "v"), 0)
            yield from _norm(variables, f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm")
            if part == "decoder":
                cross = f"{source}/attention"
                yield from _attention(variables, cross, f"{target}.encoder_attn", ("q",), 0, output=False)
                yield from _attention(variables, cross, f"{target}.encoder_attn", ("k", "v"), 1)
                yield from _norm(variables, f"{cross}/layer_norm", f"{target}.encoder_attn_layer_norm")
            for number in (0, 1):
                for kind in ("weight", "bias"):
                    yield f"{target}.fc{number + 1}.{kind}", variables[f"{source}/ffn/linear_{number}/{kind}"]
            yield from _norm(variables, f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")


def _norm(variables: dict[str, np.ndarray], source: str, target: str) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{target}.weight", variables[f"{source}/gamma"]
    yield f"{target}.bias", variables[f"{source}/beta"]


def _attention(
    variables: dict[str, np.ndarray], source: str, target: str, parts: tuple[str, ...], number: int, output: bool = True
) -> Iterator[tuple[str, np.ndarray]]:
    """The packed product `linear_<number>` apart, and the output product after it; keys have no bias."""
    weights = np.split(variables[f"{source}/linear_{number}/weight"], len(parts))
    biases = np.split(variables[f"{source}/linear_{number}/bias"], len(parts))
    for part, weight, bias in zip(parts, weights, biases, strict=True):
        yield f"{target}.{part}_proj.weight", weight
        if part != "k":
            yield f"{target}.{part}_proj.bias", bias
    if output:
        for kind in ("weight", "bias"):
            yield f"{target}.out_proj.{kind}", variables[f"{source}/linear_{number + 1}/{kind}"]
