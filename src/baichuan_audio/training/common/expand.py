"""Function-preserving expansion: a larger model that computes the same as a smaller one, to be trained further.

New layers are copies whose output projections are zero (Gong et al. 2019, "Efficient training of BERT by progressively
stacking"; Chen et al. 2016, "Net2Net", arXiv 1511.05641); new feed-forward units are random with zero output weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoint import load, save
from ...errors import TrainingError
from ...model import BaichuanAudio

State = dict[str, Tensor]
_BACKBONE, _ENCODER, _DECODER = "language_model.layers.", "tokenizer.encoder.layers.", "tokenizer.decoder.layers."
_OUTPUTS = ("self_attn.o_proj.", "mlp.down_proj.", "self_attn.out_proj.", "fc2.")
"""Output projections into the residual stream."""


@dataclass(frozen=True)
class Sizes:
    """New sizes; None: unchanged."""

    layers: int | None = None
    """Layers of the language model."""
    intermediate_size: int | None = None
    """Feed-forward units in each of them."""
    encoder_layers: int | None = None
    decoder_layers: int | None = None
    """Layers of the audio tokenizer's encoder and decoder."""


def expand(checkpoint: str | Path, output: str | Path, sizes: Sizes) -> BaichuanAudio:
    """Write the model of `checkpoint` with those sizes, computing the same, to `output`.

    Raises CheckpointError where it cannot be read, TrainingError where it has as much already.
    """
    small = load(checkpoint)
    config, state = copy.deepcopy(small.config), dict(small.state_dict())
    stacks = ((_BACKBONE, sizes.layers), (_ENCODER, sizes.encoder_layers), (_DECODER, sizes.decoder_layers))
    sections = (config, config["audio_config"], config["audio_config"])
    names = ("num_hidden_layers", "encoder_layers", "decoder_layers")
    for (prefix, size), section, name in zip(stacks, sections, names, strict=True):
        if size is not None:
            state = _deeper(state, prefix, _enlarge(section, name, size), size)
    if sizes.intermediate_size is not None:
        _enlarge(config, "intermediate_size", sizes.intermediate_size)
        state = _wider(state, sizes.intermediate_size)
    large = BaichuanAudio(config, small.text_tokenizer, small.vocoder)
    large.load_state_dict(state, assign=True)  # in the types they have
    save(large, output)
    return large


def _enlarge(config: dict[str, Any], name: str, size: int) -> int:
    """Set an entry to a larger size; returns the smaller one."""
    before = int(config[name])
    if size <= before:
        raise TrainingError(f"{name} is {before} already; ask for more than that.")
    config[name] = size
    return before


def _deeper(state: Mapping[str, Tensor], prefix: str, count: int, new_count: int) -> State:
    """`new_count` layers instead of `count`: the new ones evenly among the old, each a copy of the one below it."""
    result = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    for index in range(new_count):
        origin = index * count // new_count
        copied = index > 0 and (index - 1) * count // new_count == origin
        for name, tensor in _under(state, f"{prefix}{origin}."):
            zero = copied and name.startswith(_OUTPUTS)
            result[f"{prefix}{index}.{name}"] = torch.zeros_like(tensor) if zero else tensor.clone()
    return result


def _under(state: Mapping[str, Tensor], prefix: str) -> Iterable[tuple[str, Tensor]]:
    return ((name.removeprefix(prefix), tensor) for name, tensor in state.items() if name.startswith(prefix))


def _wider(state: Mapping[str, Tensor], units: int) -> State:
    """Feed-forwards of the language model with `units` units each."""
    result = dict(state)
    generator = torch.Generator().manual_seed(units)
    for name, tensor in state.items():
        if not name.startswith(_BACKBONE):
            continue
        if name.endswith(("mlp.gate_proj.weight", "mlp.up_proj.weight")):
            drawn = torch.randn(units - len(tensor), tensor.shape[1], generator=generator) * tensor.float().std()
            result[name] = torch.cat([tensor, drawn.to(tensor)])
        elif name.endswith("mlp.down_proj.weight"):
            result[name] = torch.cat([tensor, tensor.new_zeros(len(tensor), units - tensor.shape[1])], dim=1)
    return result
