"""Adapter files: safetensors with a JSON header that says what they are of and which base they belong to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import module_name, released_name
from ..config import strict
from ..errors import CheckpointError, ConfigError
from ..model import BaichuanAudio
from ..safetensors_io import TensorSource, read_header, with_scales, write_tensors
from .layers import AdapterConfig, WeightChange, merged_weight, refuse_zero
from .model import (
    adaptable_layers,
    adapted_layers,
    base_fingerprint,
    fingerprint,
    insert_adapters,
    merge_adapters,
    refuse_unfit,
    weight_name,
)

_HEADER = "baichuan_audio_adapters"
_VERSION = 1


@dataclass(frozen=True)
class StoredAdapters:
    """What an adapter file holds: the change of each layer by the layer's name, float32 on the CPU."""

    path: Path
    config: AdapterConfig
    base: str
    """The fingerprint of the base."""
    changes: dict[str, WeightChange]

    def refuse_foreign(self, base: str) -> None:
        """Raise CheckpointError unless the fingerprint is that of the base these were trained on."""
        if base != self.base:
            raise CheckpointError(
                f"{self.path}: these adapters belong to another base (fingerprint {_short(self.base)}, not "
                f"{_short(base)}); use them with the model they were trained on."
            )


def _short(text: str) -> str:
    return text.removeprefix("sha256:")[:12]


def save_adapters(model: BaichuanAudio, path: str | os.PathLike[str]) -> None:
    """Write the adapters of `model` to a safetensors file. The file is whole or not there.

    Raises ConfigError where there are none, CheckpointError where the file cannot be written.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ConfigError("the model has no adapters to save.")
    changes = {name: layer.change for name, layer in layers.items()}
    write_adapters(path, next(iter(layers.values())).config, changes, base_fingerprint(model))


def write_adapters(
    path: str | os.PathLike[str],
    config: AdapterConfig,
    changes: Mapping[str, WeightChange],
    base: str,
    compress: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> None:
    """Write the changes of layers, by name, of the base with this fingerprint. The file is whole or not there.

    compress: gives the tensors of the file as they are stored.
    """
    target = Path(path)
    tensors = {
        f"{name}.{part}": tensor.detach().float().cpu().contiguous()
        for name, change in changes.items()
        for part, tensor in vars(change).items()
        if tensor is not None
    }
    header = {"version": _VERSION, **asdict(config), "base_fingerprint": base}
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(compress(tensors), aside, metadata={"format": "pt", _HEADER: json.dumps(header)})
        aside.replace(target)
    except OSError as error:
        raise CheckpointError(f"{target}: the adapters could not be written ({error}).") from error
    finally:
        aside.unlink(missing_ok=True)


def read_adapters(path: str | os.PathLike[str]) -> StoredAdapters:
    """Read an adapter file. Raises CheckpointError where it is none, is damaged, or holds a change of nothing."""
    path = Path(path)
    stored = with_scales(read_header(path))
    header = _header(path)
    base = header.pop("base_fingerprint", None)
    if header.pop("version", None) != _VERSION or not isinstance(base, str):
        raise CheckpointError(f"{path}: these adapters are of another version of the format; update this program.")
    try:
        config = strict(AdapterConfig, header, str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        layer, _, part = name.rpartition(".")
        tensors.setdefault(layer, {})[part] = tensor.read().float()
    changes = {layer: _change(path, layer, parts, config) for layer, parts in sorted(tensors.items())}
    if not changes:
        raise CheckpointError(f"{path}: there are no adapters in this file.")
    refuse_zero(changes, str(path))
    return StoredAdapters(path, config, base, changes)


def _header(path: Path) -> dict[str, object]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: the header of this file is damaged; copy it again.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: this is no file of adapters, its header has no '{_HEADER}'.")
    return header


def _change(path: Path, layer: str, parts: dict[str, Tensor], config: AdapterConfig) -> WeightChange:
    due = {"lora_A", "lora_B"} | ({"magnitude"} if config.method == "dora" else set())
    if parts.keys() != due:
        raise CheckpointError(f"{path}: {layer} should have {', '.join(sorted(due))}, not {', '.join(sorted(parts))}.")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in parts.values()):
        raise CheckpointError(f"{path}: the adapter of {layer} holds numbers that are not finite; train it again.")
    change = WeightChange(parts["lora_A"], parts["lora_B"], parts.get("magnitude"))
    rows, outputs = change.lora_A.shape[:1], change.lora_B.shape[:1]
    if rows != (config.rank,) or change.lora_B.shape != (*outputs, config.rank):
        raise CheckpointError(f"{path}: the adapter of {layer} is not of rank {config.rank}, as its header says.")
    return change


def load_adapters(model: BaichuanAudio, path: str | os.PathLike[str]) -> BaichuanAudio:
    """A copy of `model`, over the same tensors, with the adapters of a file; not merged, to be trained on or compared.

    Raises CheckpointError for a damaged file, adapters of another base, or ones that change nothing.
    """
    stored = read_adapters(path)
    refuse_unfit(model)
    known = set(adaptable_layers(model))
    _refuse_unknown(stored, known)
    stored.refuse_foreign(base_fingerprint(model, stored.changes))
    adapted = insert_adapters(model, list(stored.changes), stored.config)
    with torch.no_grad():
        for name, layer in adapted_layers(adapted).items():
            _check_shape(stored, name, tuple(layer.base.weight.shape))
            for part, parameter in layer.named_parameters(recurse=False):
                parameter.copy_(getattr(stored.changes[name], part))
    return adapted


def merged_with(model: BaichuanAudio, path: str | os.PathLike[str]) -> BaichuanAudio:
    """A copy of `model` with the adapters of a file merged; all other tensors are shared. Raises as `load_adapters`."""
    return merge_adapters(load_adapters(model, path))


def _refuse_unknown(stored: StoredAdapters, known: set[str]) -> None:
    for layer in stored.changes:
        if layer not in known:
            raise CheckpointError(f"{stored.path}: the model has no layer {layer}; these adapters are of another one.")


def _check_shape(stored: StoredAdapters, layer: str, shape: tuple[int, ...]) -> None:
    change = stored.changes[layer]
    due = (change.lora_B.shape[0], change.lora_A.shape[1])
    if shape != due:
        raise CheckpointError(f"{stored.path}: the adapter of {layer} is for {list(due)}, the layer is {list(shape)}.")


# ---------------------------------------------------------------------------------- merged while a checkpoint is read


@dataclass(frozen=True)
class MergedTensor:
    """A stored weight with the change of its adapter; made when it is read, from the type it is stored in."""

    source: TensorSource
    change: WeightChange
    scale: float
    layer: str
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def read(self) -> Tensor:
        return merged_weight(self.source.read(), self.change, self.scale, self.layer, self.dtype)


def adapted_tensors(
    stored: Mapping[str, TensorSource], paths: Sequence[str | os.PathLike[str]], dtype: torch.dtype | None = None
) -> dict[str, TensorSource]:
    """The tensors of a checkpoint by their released names, those that files of adapters change merged with them.

    paths: each of adapters of this checkpoint; what several change is changed in their order. dtype: what they will be
    converted to; None keeps the stored type. Raises CheckpointError as `load_adapters` does.
    """
    names = {module: released for released in stored if (module := module_name(released)) is not None}
    result: dict[str, TensorSource] = dict(stored)
    for adapters in map(read_adapters, paths):
        weights = {layer: weight_name(layer) for layer in adapters.changes}
        _refuse_unknown(adapters, {layer for layer, name in weights.items() if name in names})
        adapters.refuse_foreign(fingerprint(names, lambda name: stored[names[name]].read(), adapters.changes))
        for layer, change in adapters.changes.items():
            name = released_name(weights[layer])
            _check_shape(adapters, layer, stored[name].shape)
            kept = dtype or stored[name].dtype
            result[name] = MergedTensor(result[name], change, adapters.config.scale, layer, kept)
    return result
