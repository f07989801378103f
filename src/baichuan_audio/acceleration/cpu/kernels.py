"""The kernels in `kernels.c`: compiled once by the C compiler of this machine, and their argument structures.

Without a compiler there are no kernels, and the layers in `layers.py` compute the same more slowly. The environment
variable CC names another compiler; CC=false disables the kernels.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

S = TypeVar("S", bound=ctypes.Structure)
_log = logging.getLogger(__name__)
_COMPILE_SECONDS = 120.0
# Not -ffast-math: linked into a library it changes how the whole process rounds the smallest numbers.
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-Wno-psabi")


class _Product(ctypes.Structure):
    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("half", ctypes.c_int32),
    ]


class _Norm(ctypes.Structure):
    _fields_ = [("gain", ctypes.c_void_p), ("eps", ctypes.c_float)]


class _Layer(ctypes.Structure):
    _fields_ = [
        ("first", _Norm),
        ("second", _Norm),
        ("pack", _Product),
        ("mix", _Product),
        ("gate_up", _Product),
        ("down", _Product),
    ]


class Backbone(ctypes.Structure):
    """`Backbone` of kernels.c."""

    _fields_ = [
        ("count", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("groups", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("inner", ctypes.c_int32),
        ("layers", ctypes.POINTER(_Layer)),
        ("last", _Norm),
    ]


class CacheStruct(ctypes.Structure):
    """`CacheStruct` of kernels.c."""

    _fields_ = [
        ("store", ctypes.c_void_p),
        ("layer", ctypes.c_int64),
        ("part", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("group", ctypes.c_int64),
    ]


class _DepthLayer(ctypes.Structure):
    _fields_ = [
        ("first", _Norm),
        ("second", _Norm),
        ("pack", _Product),
        ("mix", _Product),
        ("up", ctypes.POINTER(_Product)),
        ("down", ctypes.POINTER(_Product)),
    ]


class Head(ctypes.Structure):
    """`Head` of kernels.c."""

    _fields_ = [
        ("count", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("positions", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("layers", ctypes.POINTER(_DepthLayer)),
        ("last", _Norm),
        ("heads", ctypes.POINTER(_Product)),
    ]


class KernelError(RuntimeError):
    """A kernel could not allocate memory."""


class PackedLinear(nn.Module):
    """The weights of a Linear in the layout of kernels.c: bfloat16 where that is exact (as for a model stored so), else
    float32. `structure` points into the buffers, which must not be replaced."""

    def __init__(self, compiled: ctypes.CDLL, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight [out, in], bias [out], float32 or bfloat16."""
        super().__init__()
        weight = weight.detach().float()
        weight = weight if weight.stride(1) == 1 else weight.contiguous()
        self.outputs, self.inputs = weight.shape
        source = weight.data_ptr(), weight.stride(0), self.outputs, self.inputs
        half = bool(compiled.exact_in_half(*source))
        size = int(compiled.panel_outputs())
        packed = torch.empty(-(-self.outputs // size), self.inputs, size // 2 if half else size, dtype=torch.int32)
        compiled.lay_out(*source, half, packed.data_ptr())
        bias = None if bias is None else bias.detach().float().contiguous()
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        address = None if bias is None else bias.data_ptr()
        self.structure = _Product(packed.data_ptr(), address, self.inputs, self.outputs, int(half))


def norm_structure(norm: nn.Module) -> _Norm:
    """The structure of a float32 RMSNorm over its own memory: the caller must keep the norm."""
    weight, eps = norm.weight, norm.eps
    assert isinstance(weight, Tensor) and weight.dtype == torch.float32 and isinstance(eps, float)
    assert weight.is_contiguous()
    return _Norm(weight.data_ptr(), eps)


def layer_structure(norms: Sequence[nn.Module], products: Sequence[PackedLinear]) -> _Layer:
    """norms: first, second; products: pack, mix, gate_up, down."""
    return _Layer(*(norm_structure(norm) for norm in norms), *(product.structure for product in products))


def depth_structure(
    norms: Sequence[nn.Module], shared: Sequence[PackedLinear], up: Sequence[PackedLinear], down: Sequence[PackedLinear]
) -> _DepthLayer:
    """norms: first, second; shared: pack, mix; up, down: one for each position."""
    both = (ctypes.cast(products(packed), ctypes.POINTER(_Product)) for packed in (up, down))
    return _DepthLayer(*(norm_structure(norm) for norm in norms), *(packed.structure for packed in shared), *both)


def products(packed: Sequence[PackedLinear]) -> ctypes.Array[_Product]:
    """An array of their structures."""
    return array([linear.structure for linear in packed])


def array(structures: Sequence[S]) -> ctypes.Array[S]:
    """An array of structures of one kind."""
    return (type(structures[0]) * len(structures))(*structures)


# ------------------------------------------------------------------------------------------------ compiling


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels, from the cache folder or compiled now (in two seconds); None where that is not possible."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if not compiler or shutil.which(compiler[0]) is None:
        _log.info("no C compiler (%s): decoding runs without the native kernels", " ".join(compiler))
        return None
    source = (resources.files(__package__) / "kernels.c").read_bytes()
    try:
        file = _cache_folder() / f"native-{_fingerprint(source, compiler)}.so"
        if not file.is_file():
            _compile(source, compiler, file)
        return _declared(ctypes.CDLL(str(file)))
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("the native kernels could not be compiled, decoding runs without them: %s", error)
        return None


def _cache_folder() -> Path:
    """A folder that only this user can write to: its files are loaded as code."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "baichuan-audio"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if (
            status.st_uid == os.getuid()
            and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            and os.access(folder, os.W_OK)
        ):
            return folder
    except (OSError, RuntimeError):  # there may be no home
        pass
    return Path(tempfile.mkdtemp(prefix="baichuan-audio-"))


def _fingerprint(source: bytes, compiler: list[str]) -> str:
    """Identifies the source, the compiler, its flags and the processor."""
    parts = [source, *(part.encode() for part in (*compiler, *_FLAGS)), _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    telling = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return "\n".join((platform.machine(), platform.processor(), *telling))


def _compile(source: bytes, compiler: list[str], file: Path) -> None:
    """Compile in a temporary folder and move the library to `file`, so that no process loads an incomplete one."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        code, made = Path(folder, "kernels.c"), Path(folder, "kernels.so")
        code.write_bytes(source)
        failed = ""
        for tuned in (("-march=native",), ("-mcpu=native",), ()):  # not every compiler accepts them
            command = [*compiler, *_FLAGS, *tuned, str(code), "-o", str(made), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
            if done.returncode == 0:
                os.replace(made, file)
                return
            failed = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        raise OSError(f"{' '.join(compiler)}: {failed}")


def _declared(compiled: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int
    compiled.exact_in_half.argtypes = [pointer, ctypes.c_int64, number, number]
    compiled.panel_outputs.argtypes = []
    compiled.lay_out.argtypes = [pointer, ctypes.c_int64, number, number, number, pointer]
    compiled.lay_out.restype = None
    compiled.product.argtypes = [pointer, pointer, number, pointer, number]
    compiled.product.restype = None
    compiled.backbone_step.argtypes = [pointer, pointer, number, *[pointer] * 5, number]
    compiled.head_step.argtypes = [pointer, number, number, pointer, pointer, pointer]
    return compiled
