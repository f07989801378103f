"""Smaller weights for backbone and audio head: what a decode step reads is what it takes.

On CUDA the weights are torchao's: `int8` and `int4` weight-only, `fp8` with fp8 activations (Hopper and later). On a
CPU `int8` and `int4` run in the compiled kernels (`cpu/`); without a compiler `int8` uses torch's own kernels, which
multiply in int8. Embeddings, norms, encoder and decoders stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError, MissingDependencyError
from ..model import BaichuanAudio

KINDS = ("int8", "int4", "fp8")
_GROUP = 128  # weights that share a scale in int4


class Int8Linear(nn.Module):
    """A Linear for CPUs without a compiler: int8 weights, a scale for each output; activations quantised in turn."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        weight = source.weight.detach().float().contiguous()
        scales = weight.abs().amax(1).clamp(min=1e-8) / 127
        zeros = torch.zeros(len(scales), dtype=torch.long)
        bias = None if source.bias is None else source.bias.detach().float()
        with warnings.catch_warnings():  # quantised tensors are to go one day, and have no successor on CPUs yet
            warnings.simplefilter("ignore", UserWarning)
            packed = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(packed, bias)
        # activations in 7 bits: two products of 8 bits would overflow the 16 that a processor without VNNI adds them in
        self._narrow = not torch.cpu._is_vnni_supported()
        self.nbytes = self.out_features * (self.in_features + 4)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] float32 -> [..., out]."""
        result: Tensor = torch.ops.quantized.linear_dynamic.default(x, self._packed, self._narrow)
        return result

    def onto(self, x: Tensor, rest: Tensor) -> Tensor:
        """x [B, in], rest [B, out] -> rest plus the product."""
        return self.forward(x).add_(rest)

    def into(self, x: Tensor, out: Tensor) -> None:
        """x [B, in] -> out [B, out]."""
        out.copy_(self.forward(x))


def check_kind(kind: str, device: torch.device) -> None:
    """Raise ConfigError for a kind that cannot be had on the model's device."""
    if kind not in KINDS:
        raise ConfigError(f"quantization must be one of {', '.join(KINDS)}, not '{kind}'.")
    if device.type == "cpu":
        if kind == "fp8":
            raise ConfigError("fp8 needs CUDA; on a CPU there are int8 and int4.")
    elif kind == "fp8" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ConfigError("fp8 needs a GPU that multiplies in it (compute capability 8.9 or more).")


def with_torchao(model: BaichuanAudio, kind: str) -> None:
    """Quantise the accelerated `model` in place, layer by layer; MissingDependencyError without torchao."""
    try:
        from torchao.quantization import quantize_
    except ImportError as error:
        raise MissingDependencyError("quantised weights need torchao: pip install 'baichuan-audio[quant]'") from error
    config = torchao_config(kind)
    for _, _, layer in _linears(model):
        if kind != "int4" or layer.in_features % _GROUP == 0:
            quantize_(layer, config, filter_fn=lambda module, name: isinstance(module, nn.Linear))


def torchao_config(kind: str) -> Any:
    """torchao's configuration of a kind."""
    from torchao import quantization as ao

    if kind == "int8":
        return ao.Int8WeightOnlyConfig(set_inductor_config=False)
    if kind == "fp8":
        return ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow(), set_inductor_config=False)
    from torchao.quantization.quantize_.workflows import Int4PackingFormat

    return ao.Int4WeightOnlyConfig(
        group_size=_GROUP, int4_packing_format=Int4PackingFormat.TILE_PACKED_TO_4D, set_inductor_config=False
    )


def _linears(model: BaichuanAudio) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Every Linear that a decode step reads, with where it hangs."""
    roots = (model.language_model.layers, model.language_model, model.audio_head)
    seen: set[int] = set()
    for root in roots:
        for parent in list(root.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear) and id(child) not in seen:
                    seen.add(id(child))
                    yield parent, name, child


def weight_bytes(module: nn.Module) -> int:
    """Bytes of memory of all weights below `module`; those that share memory count once, those in files not."""
    total, used = 0, dict[int, tuple[int, dict[int, int]]]()  # a storage -> its bytes, and those of tensors in it
    for child in module.modules():
        total += child.nbytes if isinstance(child, Int8Linear) else 0
        for tensor in (*child._parameters.values(), *child._buffers.values()):
            for part in () if tensor is None or tensor.is_meta else _stored(tensor):
                storage = part.untyped_storage()
                _, views = used.setdefault(storage.data_ptr(), (storage.nbytes(), {}))
                views[part.data_ptr()] = max(part.nbytes, views.get(part.data_ptr(), 0))
    return total + sum(min(size, sum(views.values())) for size, views in used.values())


def _stored(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors with memory of their own that a parameter or buffer consists of."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao's weights hold several tensors
        for name in cast(Any, tensor).__tensor_flatten__()[0]:
            yield from _stored(getattr(tensor, name))
    else:
        yield tensor
