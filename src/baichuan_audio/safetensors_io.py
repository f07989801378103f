"""Safetensors files read one tensor at a time, single or sharded.

The library's own reader maps the whole file, and every page it touches counts as memory of the process. Here each
tensor is read directly into its final memory, so that loading needs no more than the weights and the one tensor that
is being converted. The format: eight bytes with the header's length, the header in JSON, the raw tensors.

A weight NAME of type int8 is stored in 8 bits: NAME.scale holds a factor for each row, in the type it is read in.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SCALE = ".scale"
SCALED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What weights that are stored in 8 bits are read in: the types of a scale."""
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    # only in tensors that are not read
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
}


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions of any other new file there. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:  # disk full, or folder not writable
        raise OSError(None, " ".join(str(error).split()), str(path)) from error
    use_default_permissions(path)


def use_default_permissions(path: str | Path) -> None:
    """Give a file the permissions of a new one beside it: safetensors makes its files readable by the owner only."""
    path = Path(path)
    other = path.with_name(f".{os.getpid()}.{path.name[-100:]}.new")
    other.touch(exist_ok=False)
    path.chmod(other.stat().st_mode)
    other.unlink()


class TensorSource(Protocol):
    """A tensor that is there when it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def read(self) -> Tensor: ...


@dataclass(frozen=True)
class StoredTensor:
    """The position of a tensor in a file; `offset` in bytes from its start."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """Read the tensor into new memory on the CPU."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        if tensor.numel() == 0:
            return tensor
        view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.offset)
            done = 0
            while done < len(view):  # one call reads 2 GiB at most
                count = file.readinto(view[done:])
                if not count:
                    raise CheckpointError(f"{self.file}: the file ended while a tensor was read; copy it again.")
                done += count
        return tensor

    def read_row(self, file: int, row: int) -> Tensor:
        """Row `row` of a tensor [rows, ...] from the open file descriptor `file`. Raises CheckpointError."""
        size = self.num_bytes // self.shape[0]
        data = os.pread(file, size, self.offset + row * size)
        if len(data) < size:
            raise CheckpointError(f"{self.file}: the file has become shorter since it was opened; copy it again.")
        return torch.frombuffer(bytearray(data), dtype=self.dtype).view(self.shape[1:])


@dataclass(frozen=True)
class ScaledRows:
    """The rows of `values` [rows, ...], each times its `scale` [rows], in whose type they are read."""

    values: TensorSource
    scale: TensorSource

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.scale.dtype

    def read(self) -> Tensor:
        scale = self.scale.read()
        return self.values.read().to(scale.dtype).mul_(scale.reshape(-1, *[1] * (len(self.shape) - 1)))


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [rows, ...] -> int8 values of its shape and a scale [rows] of its type.

    Their product is within half a scale of the weight. The scale is infinite or NaN where a row's numbers are.
    """
    rows = weight.float().flatten(1)
    largest = rows.abs().amax(dim=1)
    scale = (largest / 127).to(weight.dtype)
    upward = torch.nextafter(scale, torch.full_like(scale, torch.inf))
    scale = torch.where(scale.float() * 127 < largest, upward, scale)  # else rounding could cut the largest off
    scale[scale == 0] = 1.0
    values = (rows / scale.float()[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return values.reshape(weight.shape), scale


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file by name, scales among them; their data is not read.

    Raises CheckpointError for a file that is missing, cut short or of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: this file of the checkpoint is missing.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(f"{path}: not a safetensors file, or cut short; copy it again.")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        tensors = {name: _stored(path, name, entry, 8 + length, size) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header of this safetensors file is damaged; copy it again.") from error
    return tensors


def _stored(path: Path, name: str, entry: dict[str, Any], data_start: int, size: int) -> StoredTensor:
    if entry["dtype"] not in _DTYPES:
        raise CheckpointError(f"{path}: tensor '{name}' is of type {entry['dtype']}, which is not supported.")
    begin, end = entry["data_offsets"]
    stored = StoredTensor(path, tuple(entry["shape"]), _DTYPES[entry["dtype"]], data_start + begin)
    if begin < 0 or end - begin != stored.num_bytes:
        raise ValueError("size and shape disagree")
    if data_start + end > size:
        raise CheckpointError(f"{path}: cut short (tensor '{name}' would end after the file); copy it again.")
    return stored


def with_scales(stored: Mapping[str, StoredTensor]) -> dict[str, TensorSource]:
    """The tensors by name, those in 8 bits together with their scale.

    Raises CheckpointError for one without a scale that fits.
    """
    tensors: dict[str, TensorSource] = dict(stored)
    for name, values in stored.items():
        if values.dtype != torch.int8:
            continue
        scale = tensors.pop(name + SCALE, None)
        if scale is None:
            raise CheckpointError(f"{values.file}: tensor '{name}' is of type int8 and has no '{name}{SCALE}'.")
        rows = values.shape[:1]
        if not rows or scale.shape != rows or scale.dtype not in SCALED_DTYPES:
            kind = str(scale.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{values.file}: '{name}{SCALE}' should hold a float of 16 or 32 bits for each row, "
                f"{list(rows)}, not {kind} {list(scale.shape)}."
            )
        tensors[name] = ScaledRows(values, scale)
    return tensors


def find_tensors(directory: Path) -> dict[str, TensorSource]:
    """All tensors of a checkpoint directory, from its single file or from the shards its index names.

    Raises CheckpointError where one is missing, cut short, or in 8 bits without a fitting scale.
    """
    if (directory / SINGLE_FILE).is_file():
        return with_scales(read_header(directory / SINGLE_FILE))
    index = directory / INDEX_FILE
    if not index.is_file():
        raise CheckpointError(f"{directory}: holds neither {SINGLE_FILE} nor {INDEX_FILE}, so it is no checkpoint.")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: there is no 'weight_map' from tensor names to files in it.")
    shards: dict[str, dict[str, StoredTensor]] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index}: the shard '{name}' lies outside the checkpoint's directory.")
        shards[name] = read_header(directory / name)
    for tensor, shard in weight_map.items():
        if tensor not in shards[shard]:
            raise CheckpointError(
                f"{directory / shard}: tensor '{tensor}', which the index lists for this file, is missing."
            )
    return with_scales({name: stored for shard in shards.values() for name, stored in shard.items()})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object; CheckpointError in one sentence when it is anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: this file of the checkpoint is missing.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as text ({error}).") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not valid JSON (line {error.lineno}: {error.msg}); copy it again.") from error
    except (ValueError, RecursionError) as error:  # extremely long numbers or deep nesting
        raise CheckpointError(f"{path}: this JSON cannot be read ({error}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: should hold one JSON object, not a {type(value).__name__}.")
    return value
