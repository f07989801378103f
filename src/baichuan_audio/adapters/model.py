"""Adapters in a whole model. A model is never changed: what comes back is a new one over the same tensors."""

from __future__ import annotations

import copy
import fnmatch
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..language_model.audio_head import DepthAttention
from ..model import BaichuanAudio
from .layers import AdaptedDepthAttention, AdaptedLinear, AdapterConfig, linear_over, merged_weight, refuse_zero

_PARTS = ("language_model", "audio_head")
_PACKED = ".in_proj"
"""How the packed projection of a `DepthAttention` is named among the layers; it is a parameter there."""
_STACKS = {
    "language_model.layers.": ("language_model.layers.", "language_model.norm."),
    "language_model.lm_head": ("language_model.lm_head.",),
    "audio_head.": ("audio_head.",),
}
"""Layers that begin so -> parameters that their adapters were trained with."""
_SAMPLED = 4096  # numbers of each tensor that the fingerprint looks at


def adaptable_layers(model: BaichuanAudio) -> list[str]:
    """The names of all layers that can have an adapter: the products of backbone, text output and audio head."""
    names = []
    for part in _PARTS:
        for name, module in model.get_submodule(part).named_modules(prefix=part):
            if isinstance(module, nn.Linear):
                names.append(name)
            elif isinstance(module, DepthAttention):
                names.append(name + _PACKED)
    return names


def weight_name(layer: str) -> str:
    """The name of the parameter that a layer's adapter changes."""
    return f"{layer}_weight" if layer.endswith(_PACKED) else f"{layer}.weight"


def add_adapters(model: BaichuanAudio, config: AdapterConfig, seed: int = 0) -> BaichuanAudio:
    """A copy of `model`, over the same tensors, whose target layers have fresh adapters; it computes the same.

    seed: of the first weights. Raises ConfigError for a pattern that matches no layer, or a model that cannot have any.
    """
    refuse_unfit(model)
    layers = adaptable_layers(model)
    for pattern in config.targets:
        if not fnmatch.filter(layers, pattern):
            raise ConfigError(f"adapters: no layer matches '{pattern}'; layers are called like {layers[0]}.")
    chosen = [name for name in layers if any(fnmatch.fnmatchcase(name, pattern) for pattern in config.targets)]
    return insert_adapters(model, chosen, config, torch.Generator().manual_seed(seed))


def insert_adapters(
    model: BaichuanAudio, layers: Sequence[str], config: AdapterConfig, generator: torch.Generator | None = None
) -> BaichuanAudio:
    """`add_adapters` for layers by name; without a generator A is zero too, to be loaded."""
    adapted = _copy_over_same_tensors(model)
    for layer in layers:
        path, _, leaf = layer.rpartition(".")
        owner = adapted.get_submodule(path)
        if layer.endswith(_PACKED):
            above, _, leaf = path.rpartition(".")
            made: nn.Module = AdaptedDepthAttention(cast(DepthAttention, owner), config, generator)
            owner = adapted.get_submodule(above)
        else:
            made = AdaptedLinear(cast(nn.Linear, getattr(owner, leaf)), config, generator)
        setattr(owner, leaf, made)
    return adapted


def refuse_unfit(model: BaichuanAudio) -> None:
    """Raise ConfigError where no adapters can be added."""
    if model.inference_only:
        raise ConfigError("this model was rearranged for inference; add adapters to the one that load() gave.")
    if has_adapters(model):
        raise ConfigError("this model has adapters already; merge or remove them first.")


def _copy_over_same_tensors(model: BaichuanAudio) -> BaichuanAudio:
    """A second model of the same parts whose modules can be exchanged; tensors and text tokenizer are shared."""
    shared = [*itertools.chain(model.parameters(), model.buffers()), model.text_tokenizer]
    return copy.deepcopy(model, {id(item): item for item in shared})


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """The adapted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def has_adapters(model: nn.Module) -> bool:
    """Whether any layer has an adapter that is not merged."""
    return bool(adapted_layers(model))


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of all adapters by name, which are those to train."""
    return {
        f"{layer}.{name}": parameter
        for layer, module in adapted_layers(model).items()
        for name, parameter in module.named_parameters(recurse=False)
    }


def train_only_adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Freeze everything but the adapters; returns their parameters by name. Raises ConfigError where there are none."""
    parameters = adapter_parameters(model)
    if not parameters:
        raise ConfigError("the model has no adapters to train; add_adapters makes some.")
    model.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return parameters


def merge_adapters(model: BaichuanAudio) -> BaichuanAudio:
    """A copy of `model` with plain layers of the changed weights: the released layout, to be saved or optimized.

    Raises ConfigError without adapters, CheckpointError where an adapter changes nothing.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ConfigError("the model has no adapters to merge.")
    refuse_zero({name: layer.change for name, layer in layers.items()})
    return _with_plain_layers(model, merged=True)


def remove_adapters(model: BaichuanAudio) -> BaichuanAudio:
    """A copy of `model` without its adapters: the base they were added to."""
    return _with_plain_layers(model, merged=False)


@torch.no_grad()
def _with_plain_layers(model: BaichuanAudio, merged: bool) -> BaichuanAudio:
    plain = _copy_over_same_tensors(model)
    for layer, adapted in adapted_layers(plain).items():
        weight = cast(nn.Parameter, adapted.base.weight)
        if merged:
            new = merged_weight(weight, adapted.change, adapted.config.scale, layer)
            weight = nn.Parameter(new, requires_grad=False)
        path, _, leaf = layer.rpartition(".")
        owner = plain.get_submodule(path)
        if isinstance(owner, AdaptedDepthAttention) and layer.endswith(_PACKED):
            above, _, leaf = path.rpartition(".")
            setattr(plain.get_submodule(above), leaf, owner.plain(weight))
        else:
            setattr(owner, leaf, linear_over(weight, cast("nn.Parameter | None", adapted.base.bias)))
    return plain


def base_fingerprint(model: BaichuanAudio, layers: Iterable[str] | None = None) -> str:
    """Of the tensors that the adapters of these layers (None: the adapted ones) build on; see `fingerprint`."""
    state = (remove_adapters(model) if has_adapters(model) else model).state_dict()
    return fingerprint(state, state.__getitem__, adapted_layers(model) if layers is None else layers)


def adapted_stacks(names: Iterable[str], layers: Iterable[str]) -> list[str]:
    """Those of the tensors `names` that adapters of these layers build on: the whole stacks that they belong to."""
    layers = set(layers)
    prefixes = tuple(
        part for start, parts in _STACKS.items() if any(name.startswith(start) for name in layers) for part in parts
    )
    return [name for name in names if name.startswith(prefixes)]


def fingerprint(names: Iterable[str], read: Callable[[str], Tensor], layers: Iterable[str]) -> str:
    """A hash that tells one base from another: over names, shapes and a sample of each tensor that counts.

    names: of all tensors, as the model calls them; `read` gives one. layers: those with adapters; the whole stack that
    they belong to counts. The sample is taken in bfloat16, so that a model in float32 and the same one in bfloat16 have
    one fingerprint.
    """
    digest = hashlib.sha256()
    for name in sorted(adapted_stacks(names, layers)):
        tensor = read(name).detach()
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        step = tensor.numel() // _SAMPLED | 1  # odd: not the same columns of every row
        sample = tensor.reshape(-1)[::step].to(torch.bfloat16).cpu().contiguous()
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return "sha256:" + digest.hexdigest()
