"""Reads the variables of a CTranslate2 `model.bin`.

Little-endian: u32 version, string name of the specification, u32 revision, u32 count; then for each variable: string
name, u8 rank, u32 sizes, u8 type, u32 bytes, data; then u32 count of aliases and pairs of names. A string is a u16
length with its final zero byte, and the bytes (CTranslate2's model format, version 6).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import CheckpointError

_TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_LONGEST_NAME, _MOST_VARIABLES, _MOST_BYTES = 1024, 100_000, 1 << 34


def read_variables(path: str | Path) -> dict[str, np.ndarray]:
    """Variables by name, in their stored types; an alias is the same array. Raises CheckpointError."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(file)
    except (OSError, struct.error, ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: this is no readable CTranslate2 model ({error}).") from error


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    version = _number(file, "<I")
    if version < 6:
        raise ValueError(f"format version {version}; only version 6 and later are read")
    _string(file)  # the specification's name
    _number(file, "<I")  # its revision
    variables: dict[str, np.ndarray] = {}
    for _ in range(_bounded(_number(file, "<I"), _MOST_VARIABLES, "variables")):
        name = _string(file)
        shape = [_number(file, "<I") for _ in range(_number(file, "<B"))]
        kind, size = _number(file, "<B"), _bounded(_number(file, "<I"), _MOST_BYTES, "bytes")
        if kind not in _TYPES:
            raise ValueError(f"{name} is of type {kind}, which is not read")
        dtype = np.dtype(_TYPES[kind])
        if size != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            raise ValueError(f"{name} has {size} bytes, which do not fit its shape {shape}")
        data = file.read(size)
        if len(data) != size:
            raise ValueError(f"the file ends within {name}")
        variables[name] = np.frombuffer(data, dtype).reshape(shape)
    for _ in range(_bounded(_number(file, "<I"), _MOST_VARIABLES, "aliases")):
        alias, name = _string(file), _string(file)
        variables[alias] = variables[name]
    return variables


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


def _string(file: BinaryIO) -> str:
    length = _bounded(_number(file, "<H"), _LONGEST_NAME, "bytes in a name")
    return file.read(length).rstrip(b"\0").decode()


def _bounded(value: int, most: int, what: str) -> int:
    if value > most:
        raise ValueError(f"{value} {what} are too many")
    return value
