"""The cost of a training step, traced on the meta device: shapes without memory, nothing is computed.

Forward and backward pass are run as they are: what is frozen, recomputed or shared counts as in training.
Two things stand for what a GPU does: attention keeps its inputs, its output and one number a row, as fused kernels do;
and products are cast to bfloat16 as autocast casts them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PRODUCTS = (
    F.linear, F.conv1d, F.conv2d, F.conv_transpose1d, torch.matmul, torch.bmm, torch.mm, torch.Tensor.matmul,
    torch.Tensor.__matmul__,
)  # fmt: skip


@dataclass(frozen=True)
class StepCost:
    """flops: of products, forward and backward, as torch's FlopCounterMode counts them (attention without regard to
    causality). peak_bytes: the most that a step has allocated at once beside its parameters; in it are gradient_bytes,
    at the end, and cast_bytes, the parameters' copies in bfloat16."""

    flops: int
    peak_bytes: int
    gradient_bytes: int
    cast_bytes: int


def trace_step(modules: Iterable[nn.Module], step: Callable[[], Tensor], bfloat16: bool) -> StepCost:
    """The cost of `step()`, which gives a loss, and of its backward pass. modules: all on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    parts = list(modules)
    known = [tensor for module in parts for tensor in (*module.parameters(), *module.buffers())]
    counter, memory, as_gpu = FlopCounterMode(display=False), AllocatedBytes(known), _AsOnGPU(bfloat16)
    with ExitStack() as stack:
        for mode in (torch.device("meta"), counter, memory, as_gpu):
            stack.enter_context(mode)  # type: ignore[arg-type]
        loss = step()
        loss.backward()
    gradients = [parameter.grad for module in parts for parameter in module.parameters() if parameter.grad is not None]
    sizes = {id(gradient): gradient.nbytes for gradient in gradients}
    cost = StepCost(
        counter.get_total_flops() + as_gpu.attention_flops, memory.peak, sum(sizes.values()), as_gpu.cast_bytes
    )
    for module in parts:
        module.zero_grad(set_to_none=True)
    return cost


class AllocatedBytes(TorchDispatchMode):
    """Bytes of the tensors that exist, now and at most, on any device; those of `known` do not count."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class _AsOnGPU(TorchFunctionMode):
    """Fused attention, and autocast, which the meta device has not."""

    def __init__(self, bfloat16: bool) -> None:
        super().__init__()
        self.attention_flops = self.cast_bytes = 0
        self._bfloat16 = bfloat16
        self._casts: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key, value = (self._cast(tensor) for tensor in args[:3])
            batch, heads, rows, width = query.shape
            product = 2 * batch * heads * rows * width * key.shape[2]
            self.attention_flops += product * (7 if query.requires_grad or key.requires_grad else 2)
            return _FusedAttention.apply(query, key, value)
        if func is torch.istft:  # checks numbers, which there are none of; it has no products
            spectrum, hop = args[0], args[2]
            return spectrum.real.mean(1)[:, 1:].repeat_interleave(hop, dim=1)
        if func in _PRODUCTS:
            args = [self._cast(value) if isinstance(value, Tensor) else value for value in args]
            kwargs = {name: self._cast(value) if isinstance(value, Tensor) else value for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _cast(self, tensor: Tensor) -> Tensor:
        if not self._bfloat16 or tensor.dtype != torch.float32:
            return tensor
        if not isinstance(tensor, nn.Parameter):
            return tensor.bfloat16()
        if id(tensor) not in self._casts:  # autocast keeps the copy of a parameter until the step's end
            self._casts[id(tensor)] = tensor.bfloat16()
            self.cast_bytes += self._casts[id(tensor)].nbytes
        return self._casts[id(tensor)]


class _FusedAttention(torch.autograd.Function):
    """query [B, H, N, w], key and value [B, H, L, w] -> [B, H, N, w]; the shapes only."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def parameter_counts(parts: Mapping[str, nn.Module]) -> Iterator[tuple[str, int, int]]:
    """(part, parameters, those that learn) of each; a parameter that several parts share counts once."""
    seen: set[int] = set()
    for name, module in parts.items():
        new = [parameter for parameter in module.parameters() if id(parameter) not in seen]
        seen.update(map(id, new))
        learning = sum(parameter.numel() for parameter in new if parameter.requires_grad)
        yield name, sum(parameter.numel() for parameter in new), learning
