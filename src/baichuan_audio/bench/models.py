"""Models to measure: as loaded or with random weights, on each path; and how far quantization changes the logits."""

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
_POSITIONS, _FRAMES = 128, 64  # of the comparison of quantized weights


def random_model(config_file: str, dtype: torch.dtype, device: torch.device) -> BaichuanAudio:
    """A model with the sizes of a `config.json` and random weights of `dtype` on `device`.

    Raises CheckpointError when the file cannot be read, ConfigError when no model can be built from it.
    """
    config = read_json(Path(config_file))
    tokenizer = build_text_tokenizer([])
    size = config.get("vocab_size") or 0  # none in a template whose vocabulary size comes from the tokenizer
    config = complete_config(config, tokenizer)
    config["vocab_size"] = max(size, config["vocab_size"])
    vocoder: nn.Module = Vocos.from_config(config) if "mel_vocoder_config" in config else Hift(HiftConfig())
    with shapes_only():
        model = BaichuanAudio(config, TextTokenizer(tokenizer.to_str()), vocoder)
    model.vocoder = nn.Identity()  # not emptied below: it keeps its initial weights
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
        tensor.fill_(1.0 if name.endswith("weight") else 0.0)  # norms and biases
    else:
        tensor.normal_(0.0, _STD, generator=generator)
        tensor.copy_(tensor.bfloat16())  # the precision of a checkpoint, whatever it is loaded as


def never_end(model: BaichuanAudio) -> BaichuanAudio:
    """Suppress the end of an audio segment, so that its frames can be counted; changes and returns the model."""
    end = model.audio_head.codebook_sizes[0]
    with torch.no_grad():
        model.audio_head.heads[0].bias[end] = -1e4  # type: ignore[index,operator]
    return model


def on_each_path(model: BaichuanAudio, quantizations: list[str]) -> dict[str, BaichuanAudio]:
    """`model` on the reference path, on the optimized path, and with each kind of quantized weights."""
    paths = {"reference": reference_copy(model), "optimized": optimize_for_inference(model)}
    return paths | {kind: optimize_for_inference(model, kind) for kind in quantizations}


def decode_elements(model: BaichuanAudio, text: bool) -> int:
    """Number of weights that one decode step reads; `model` as loaded."""
    parts: list[nn.Module] = [model.language_model.layers]
    parts += [model.language_model.lm_head] if text else [model.audio_head.transformer_layers, model.audio_head.heads]
    return sum(math.prod(parameter.shape) for part in parts for parameter in part.parameters())


@torch.inference_mode()
def parity(full: BaichuanAudio, other: BaichuanAudio) -> dict[str, float]:
    """Compare the logits of `other` with those of `full` on one random prompt and frames, teacher-forced.

    *_error: relative L2 error of the logits; *_agreement: share of steps with the same most likely id or code.
    """
    generator = torch.Generator().manual_seed(0)
    device = full.language_model.norm.weight.device
    ids = torch.randint(3, 200, (1, _POSITIONS), generator=generator).to(device)
    hidden, logits = full.language_model(ids)
    other_hidden, other_logits = other.language_model(ids)
    sizes = full.audio_head.codebook_sizes
    codes = torch.stack([torch.randint(0, size, (_FRAMES,), generator=generator) for size in sizes], dim=1).to(device)
    # without the end token, which a benchmark suppresses
    reference = [logit[:, :-1] for logit in full.audio_head.logits(hidden[0, -_FRAMES:], codes)]
    quantized = [logit[:, :-1] for logit in other.audio_head.logits(other_hidden[0, -_FRAMES:], codes)]
    return {
        "text_error": _error([other_logits], [logits]),
        "text_agreement": _agreement([other_logits], [logits]),
        "code_error": _error(quantized, reference),
        "code_agreement": _agreement(quantized, reference),
    }


def _error(quantized: list[Tensor], reference: list[Tensor]) -> float:
    difference = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(quantized, reference, strict=True))
    return float((difference / sum(float(b.float().square().sum()) for b in reference)) ** 0.5)


def _agreement(quantized: list[Tensor], reference: list[Tensor]) -> float:
    same = [(a.argmax(-1) == b.argmax(-1)).float().mean() for a, b in zip(quantized, reference, strict=True)]
    return float(torch.stack(same).mean())
