"""A larger model that computes what a smaller one does, so that training goes on instead of beginning again.

New layers are copies that write nothing back yet (Gong et al. 2019, "Efficient training of BERT by progressively
stacking"; Chen et al. 2016, "Net2Net", arXiv 1511.05641); new feed-forward units are drawn at random and not listened
to yet.
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
_WRITES = ("self_attn.o_proj.", "mlp.down_proj.", "self_attn.out_proj.", "fc2.")
"""What in a layer writes into the residual stream."""


@dataclass(frozen=True)
class Sizes:
    """What a model shall have more of; None: as much as it has."""

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
    places = (config, config["audio_config"], config["audio_config"])
    names = ("num_hidden_layers", "encoder_layers", "decoder_layers")
    for (prefix, wanted), place, name in zip(stacks, places, names, strict=True):
        if wanted is not None:
            state = _deeper(state, prefix, _more(place, name, wanted), wanted)
    if sizes.intermediate_size is not None:
        _more(config, "intermediate_size", sizes.intermediate_size)
        state = _wider(state, sizes.intermediate_size)
    large = BaichuanAudio(config, small.text_tokenizer, small.vocoder)
    large.load_state_dict(state, assign=True)  # in the types they have
    save(large, output)
    return large


def _more(config: dict[str, Any], name: str, wanted: int) -> int:
    """Set an entry to a larger number; returns the smaller one."""
    had = int(config[name])
    if wanted <= had:
        raise TrainingError(f"{name} is {had} already; ask for more than that.")
    config[name] = wanted
    return had


def _deeper(state: Mapping[str, Tensor], prefix: str, count: int, wanted: int) -> State:
    """`wanted` layers instead of `count`: the new ones lie evenly among the old, each a copy of the one below it."""
    result = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    for place in range(wanted):
        origin = place * count // wanted
        copied = place > 0 and (place - 1) * count // wanted == origin
        for name, tensor in _under(state, f"{prefix}{origin}."):
            silent = copied and name.startswith(_WRITES)
            result[f"{prefix}{place}.{name}"] = torch.zeros_like(tensor) if silent else tensor.clone()
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
