"""Checkpoints whose large matrices are stored in 8 bits, a scale a row; `load` reads them like others (docs/api.md)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .adapters.files import read_adapters, write_adapters
from .adapters.model import adapted_stacks
from .assembled import BaseModel
from .checkpoint import IGNORED, VOCOS_FILE, checkpoint_directory, module_name, replace_checkpoint, write_weights
from .config import strict
from .errors import CheckpointError
from .safetensors_io import SCALE, SCALED_DTYPES, ScaledRows, TensorSource, find_tensors, quantize_rows, read_json

MIN_NUMBERS = 1 << 14
"""A matrix of fewer numbers stays as it is: together they take little."""
KEPT = ("codebook.", "positional_embedding")
"""Parts of the names of tables that stay as they are: a codebook that moves gives other codes."""
COMPUTED = ".codebook.embed_avg"
"""What training alone needs, and `checkpoint.own_tensors` computes where it is left out."""
_COPIED = re.compile(r"config\.json|tokenizer(_config)?\.json|hift\.pt")


def compress(source: str | Path, output: str | Path) -> None:
    """Write the checkpoint `source` (a directory or hub id) to the directory `output`, its large matrices in 8 bits.

    The adapters of a checkpoint on top of a published model are compressed too; what they build on stays as it is.
    A Vocos is stored in 16 bits, a HiFT stays. Raises CheckpointError where `source` is no checkpoint or has no large
    matrix, or `output` cannot be written; ConfigError for an impossible `base_model`.
    """
    directory = checkpoint_directory(source)
    config = directory / "config.json"
    base = read_json(config).get("base_model")
    file = None if base is None else strict(BaseModel, base, f"{config}: base_model").adapters
    adapters = None if file is None else read_adapters(directory / file)
    stored = find_tensors(directory)
    names = {module: name for name in stored if (module := module_name(name)) is not None}
    exact = {names[module] for module in adapted_stacks(names, adapters.changes if adapters else ())}
    tensors = dict(_compressed(stored, exact))
    if not any(name.endswith(SCALE) for name in tensors):
        raise CheckpointError(f"{directory}: there is nothing to compress, no matrix has {MIN_NUMBERS} numbers.")

    def write(aside: Path) -> None:
        for path in directory.iterdir():
            if _COPIED.fullmatch(path.name):
                shutil.copyfile(path, aside / path.name)
            elif path.name == VOCOS_FILE:
                _halve(path, aside / VOCOS_FILE)
        write_weights(tensors, aside)
        if adapters is not None and file is not None:
            write_adapters(aside / file, adapters.config, adapters.changes, adapters.base, compress=in_8_bits)

    replace_checkpoint(Path(output), write)


def _halve(source: Path, output: Path) -> None:
    """A safetensors file with its float32 tensors in float16."""
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    halves = {name: tensor.half() if tensor.dtype == torch.float32 else tensor for name, tensor in tensors.items()}
    save_file(halves, output, metadata)


def _compressed(stored: Mapping[str, TensorSource], exact: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors to store, read one at a time; those named in `exact` stay, and so do those in 8 bits already."""
    for name, tensor in stored.items():
        if name.startswith(IGNORED) or name.endswith(COMPUTED):
            continue
        if isinstance(tensor, ScaledRows):
            yield from ((name, tensor.values.read()), (name + SCALE, tensor.scale.read()))
        elif name in exact or any(part in name for part in KEPT):
            yield name, tensor.read()
        else:
            yield from in_8_bits({name: tensor.read()}).items()


def in_8_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are stored: of each large matrix int8 values and the scale of each row."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        result[name] = tensor
        if tensor.ndim > 1 and tensor.numel() >= MIN_NUMBERS and tensor.dtype in SCALED_DTYPES:
            values, scale = quantize_rows(tensor)
            if torch.isfinite(127 * scale).all():  # else it would not be read as it was
                result |= {name: values, name + SCALE: scale}
    return result
