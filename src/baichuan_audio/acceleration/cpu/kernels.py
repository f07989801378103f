"""The kernels in `kernels.c`: compiled once by the C compiler of this machine, and their argument structures.

The machine's processor decides which instructions they use: AVX2, AVX-VNNI, AVX-512, AVX512-VNNI, or ARM's.

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

from .integers import round_to_int4, round_to_int8

S = TypeVar("S", bound=ctypes.Structure)
_log = logging.getLogger(__name__)
_COMPILE_SECONDS = 120.0
_TUNED = (("-march=native",), ("-mcpu=native",), ())  # not every compiler accepts them
_CHUNK_ROWS = 1024  # of a matrix, packed at once; whole panels
_ONE_CORE_BYTES = 4 << 20
"""A product with fewer bytes of weights, times its rows, is not shared by threads."""
_SOURCES = ("vectors.h", "threads.h", "products.h", "attention.h", "attention_int8.h", "kernels.c")
# Not -ffast-math: linked into a library it changes how the whole process rounds the smallest numbers.
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-Wno-psabi")


class _Product(ctypes.Structure):
    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("format", ctypes.c_int32),
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
    """`Memory` of attention.h."""

    _fields_ = [
        ("store", ctypes.c_void_p),
        ("layer", ctypes.c_int64),
        ("part", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("bits", ctypes.c_int32),
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
        ("tables", ctypes.POINTER(ctypes.c_void_p)),
    ]


class Choice(ctypes.Structure):
    """`Choice` of kernels.c."""

    _fields_ = [
        ("temperature", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("penalty", ctypes.c_float),
        ("top_k", ctypes.c_int32),
    ]


class KernelError(RuntimeError):
    """A kernel could not allocate memory."""


FP32, BF16, INT8, INT4 = range(4)
"""Formats of weights, as in products.h."""


class PackedLinear(nn.Module):
    """The weights of a Linear in the layout of products.h: quantised, or bfloat16 where that is exact (as for a model
    stored so), else float32. `structure` points into the buffers, which must not be replaced."""

    def __init__(
        self, compiled: ctypes.CDLL, weight: Tensor, bias: Tensor | None = None, kind: str | None = None
    ) -> None:
        """weight [out, in], bias [out], float32 or bfloat16; kind: None, "int8" or "int4"."""
        super().__init__()
        self.outputs, self.inputs = weight.shape
        weight = weight.detach()
        layout = {"int8": INT8, "int4": INT4}.get(kind or "")
        if layout is None:
            layout = BF16 if all(_exact_in_half(compiled, rows) for rows in weight.split(_CHUNK_ROWS)) else FP32
        packed = torch.empty(int(compiled.packed_bytes(self.outputs, self.inputs, layout)), dtype=torch.uint8)
        scales, done = [], packed.data_ptr()
        for rows in weight.split(_CHUNK_ROWS):  # so that little memory is needed beside the result
            scales.append(_lay_out(compiled, _float_rows(rows), layout, done))
            done += int(compiled.packed_bytes(_CHUNK_ROWS, self.inputs, layout))
        scale = torch.cat(scales) if layout == INT8 else None  # those of 4 bits lie between the weights
        bias = None if bias is None else bias.detach().float().contiguous()
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in (packed, bias, scale))
        self.structure = _Product(*addresses, self.inputs, self.outputs, layout)
        self._product, self._bytes = compiled.product, packed.nbytes

    def multiply(self, x: Tensor, out: Tensor, add: bool = False) -> None:
        """x [..., in] float32, contiguous -> out [..., out], overwritten or added to; raises KernelError."""
        rows = x.numel() // self.inputs
        threads = torch.get_num_threads() if rows * self._bytes > _ONE_CORE_BYTES else 1
        sizes = rows, out.data_ptr(), int(add), threads
        if self._product(ctypes.byref(self.structure), x.data_ptr(), *sizes):
            raise KernelError("there is not enough memory for a product.")


def _float_rows(rows: Tensor) -> Tensor:
    """rows [n, in] in float32, each contiguous."""
    rows = rows.float()
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _exact_in_half(compiled: ctypes.CDLL, rows: Tensor) -> bool:
    """Whether rows [n, in] are exact in bfloat16."""
    if rows.dtype == torch.bfloat16:
        return True
    rows = _float_rows(rows)
    return bool(compiled.exact_in_half(rows.data_ptr(), rows.stride(0), *rows.shape))


def _lay_out(compiled: ctypes.CDLL, rows: Tensor, layout: int, address: int) -> Tensor:
    """Pack rows [n, in] float32 to `address` -> the scales of quantised ones, of others nothing [0]."""
    if layout in (FP32, BF16):
        compiled.lay_out(rows.data_ptr(), rows.stride(0), *rows.shape, layout == BF16, address)
        return torch.empty(0)
    numbers, scale = (round_to_int8 if layout == INT8 else round_to_int4)(rows)
    compiled.lay_out_integers(numbers.contiguous().data_ptr(), scale.data_ptr(), *rows.shape, layout, address)
    return scale


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
    try:
        file = _cache_folder() / f"native-{_fingerprint(compiler)}.so"
        if not file.is_file():
            compile_kernels(compiler, file)
        return load_kernels(file)
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


def _sources() -> dict[str, bytes]:
    return {name: (resources.files(__package__) / name).read_bytes() for name in _SOURCES}


def _fingerprint(compiler: list[str]) -> str:
    """Identifies the source, the compiler, its flags and the processor."""
    parts = [*_sources().values(), *(part.encode() for part in (*compiler, *_FLAGS)), _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    telling = sorted(
        {line for line in lines if line.startswith(("vendor_id", "model name", "flags", "Features", "CPU part"))}
    )
    return "\n".join((platform.machine(), platform.processor(), *telling))


def compile_kernels(compiler: list[str], file: Path, tuned: Sequence[tuple[str, ...]] = _TUNED) -> None:
    """Compile in a temporary folder and move the library to `file`, so that no process loads an incomplete one.

    tuned: flags for a processor, of which the first are taken that this compiler accepts. Raises OSError.
    """
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        for name, content in _sources().items():
            Path(folder, name).write_bytes(content)
        code, made, failed = Path(folder, "kernels.c"), Path(folder, "kernels.so"), ""
        for flags in tuned:
            command = [*compiler, *_FLAGS, *flags, str(code), "-o", str(made), "-lm", "-lpthread"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
            if done.returncode == 0:
                os.replace(made, file)
                return
            failed = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        raise OSError(f"{' '.join(compiler)}: {failed}")


def load_kernels(file: Path) -> ctypes.CDLL:
    """The library in `file`, its functions declared."""
    compiled = ctypes.CDLL(str(file))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    compiled.exact_in_half.argtypes = [pointer, ctypes.c_int64, number, number]
    compiled.panel_outputs.argtypes = []
    compiled.packed_bytes.argtypes = [number] * 3
    compiled.packed_bytes.restype = ctypes.c_int64
    compiled.lay_out.argtypes = [pointer, ctypes.c_int64, number, number, number, pointer]
    compiled.lay_out_integers.argtypes = [pointer, pointer, number, number, number, pointer]
    compiled.lay_out.restype = compiled.lay_out_integers.restype = None
    compiled.product.argtypes = [pointer, pointer, number, pointer, number, number]
    compiled.backbone_step.argtypes = [pointer, pointer, number, *[pointer] * 5, number, number]
    compiled.head_step.argtypes = [pointer, number, number, pointer, pointer, pointer, number]
    compiled.text_ids.argtypes = [pointer, number, *[pointer] * 7, number]
    compiled.head_codes.argtypes = [pointer, number, number, number, *[pointer] * 9, number]
    return compiled
