"""Models to measure: as loaded or with random weights, never ending a segment early, on each path."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ..acceleration import optimize_for_inference
from ..language_model.build_tokenizer import build_text_tokenizer
from ..language_model.text_tokenizer import TextTokenizer
from ..layers.shapes import shapes_only
from ..model import BaichuanAudio
from ..reference import reference_copy
from ..safetensors_io import read_json
from ..training.common.initialise import complete_config
from ..vocoder.hift import Hift, HiftConfig
from ..vocoder.vocos import Vocos

_STD = 0.02


def random_model(config_file: str, dtype: torch.dtype, device: torch.device) -> BaichuanAudio:
    """A model with the sizes of a `config.json` and random weights, made where and as it shall be measured.

    Raises CheckpointError when the file cannot be read, ConfigError when no model can be built from it.
    """
    config = read_json(Path(config_file))
    tokenizer = build_text_tokenizer([])
    if not config.get("vocab_size"):  # a template that takes it from its tokenizer
        config = complete_config(config, tokenizer)
    vocoder: nn.Module = Vocos.from_config(config) if "mel_vocoder_config" in config else Hift(HiftConfig())
    with shapes_only():
        model = BaichuanAudio(config, TextTokenizer(tokenizer.to_str()), vocoder)
    model.vocoder = nn.Identity()  # stays as it was made
    model = model.to(dtype).to_empty(device=device)
    model.vocoder = vocoder.to(device)
    generator = torch.Generator(device).manual_seed(0)
    for name, tensor in model.state_dict().items():
        if not name.startswith("vocoder."):
            _fill(name, tensor, generator)
    return model.eval().requires_grad_(False)


def _fill(name: str, tensor: Tensor, generator: torch.Generator) -> None:
    if not tensor.is_floating_point():
        tensor.zero_()
    elif tensor.ndim < 2:
        tensor.fill_(1.0 if name.endswith("weight") else 0.0)  # of norms, and biases
    else:
        tensor.normal_(0.0, _STD, generator=generator)
        tensor.copy_(tensor.bfloat16())  # what a checkpoint holds, whatever it is loaded as


def never_end(model: BaichuanAudio) -> BaichuanAudio:
    """Let no audio segment end before its frames are counted; changes the model."""
    end = model.audio_head.codebook_sizes[0]
    with torch.no_grad():
        model.audio_head.heads[0].bias[end] = -1e4  # type: ignore[index,operator]
    return model


def on_each_path(model: BaichuanAudio, quantizations: list[str]) -> dict[str, BaichuanAudio]:
    """`model` on the reference path, on the fast one, and with each kind of quantised weights."""
    paths = {"obvious": reference_copy(model), "fast": optimize_for_inference(model)}
    return paths | {kind: optimize_for_inference(model, kind) for kind in quantizations}


def decode_elements(model: BaichuanAudio, text: bool) -> int:
    """Weights (their number) that one decode step reads, of a model as loaded."""
    parts: list[nn.Module] = [model.language_model.layers]
    parts += [model.language_model.lm_head] if text else [model.audio_head.transformer_layers, model.audio_head.heads]
    return sum(math.prod(parameter.shape) for part in parts for parameter in part.parameters())
