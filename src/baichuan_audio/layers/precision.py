"""Whether bfloat16 is fast on a device."""

from __future__ import annotations

import contextlib

import torch


def fast_bfloat16(device: str) -> bool:
    """Whether bfloat16 products are faster than float32 ones here: CUDA, or a CPU with AMX or AVX512-BF16.

    Without those instructions they are emulated, measured 70 times slower.
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 autocast where it is fast, otherwise a null context."""
    if not fast_bfloat16(device):
        return contextlib.nullcontext()
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16)
