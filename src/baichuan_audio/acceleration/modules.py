"""Inference variants of the layers that a decode step runs: the same functions with fewer and larger reads.

Each is made from a layer as loaded and shares its tensors where it can, so both can be used side by side.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..language_model.audio_head import DepthAttention, DepthLayer
from ..language_model.backbone import FeedForward
from ..layers.module_copy import module_copy
from ..layers.shapes import shapes_only

M = TypeVar("M", bound=nn.Module)


def deep_module_copy(module: M) -> M:
    """`module_copy` of the module and of all its descendants."""
    copied = module_copy(module)
    for name, child in copied._modules.items():
        copied._modules[name] = None if child is None else deep_module_copy(child)
    return copied


def as_float32(module: M) -> M:
    """A copy of `module` with its weight in float32, which it shares where it is that already."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    converted = module_copy(module)
    converted._parameters["weight"] = nn.Parameter(weight.detach().float(), requires_grad=False)
    return converted


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """An `nn.Linear` over these very tensors: weight [out, in], bias [out]."""
    with shapes_only():
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


def fused_gate_up(source: FeedForward) -> Tensor:
    """Gate and up as one tensor [2 I, D]; the source's weights become views of it, so the next call copies nothing."""
    gate, up = source.gate_proj.weight.detach(), source.up_proj.weight.detach()
    adjacent = gate.untyped_storage().data_ptr() == up.untyped_storage().data_ptr()
    if adjacent and up.data_ptr() == gate.data_ptr() + gate.nbytes:
        return gate.as_strided((gate.shape[0] + up.shape[0], gate.shape[1]), gate.stride())
    with torch.inference_mode(False):  # the source's weights become views of it, and may be trained later
        both = torch.cat([gate, up])
    source.gate_proj.weight.data, source.up_proj.weight.data = both.chunk(2)
    return both


class FusedFeedForward(nn.Module):
    """SwiGLU with gate and up as one matrix product."""

    def __init__(self, source: FeedForward) -> None:
        super().__init__()
        self.gate_up, self.down_proj = linear(fused_gate_up(source)), module_copy(source.down_proj)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        result: Tensor = self.down_proj(F.silu(gate) * up)
        return result


class SplitDepthAttention(nn.Module):
    """`DepthAttention` whose projection is a Linear of its own, so that it can be quantised."""

    def __init__(self, source: DepthAttention) -> None:
        super().__init__()
        self.heads = source.heads
        self.in_proj, self.out_proj = linear(source.in_proj_weight, source.in_proj_bias), module_copy(source.out_proj)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, d] -> [B, N, d], causal."""
        query, key, value = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        result: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(-2))
        return result

    def step(self, x: Tensor, position: int, cache: Tensor) -> Tensor:
        """x [B, d] at `position`, cache [2, B, heads, K, w] of the earlier ones -> [B, d]."""
        packed = self.in_proj(x).view(x.shape[0], 3, self.heads, 1, -1).transpose(0, 1)
        cache.narrow(3, position, 1).copy_(packed[1:])
        keys, values = cache.narrow(3, 0, position + 1).unbind()
        result: Tensor = self.out_proj(F.scaled_dot_product_attention(packed[0], keys, values).flatten(1))
        return result


class SplitDepthLayer(DepthLayer):
    """`DepthLayer` with the feed-forward weights of each position contiguous (a copy: they are stored interleaved)."""

    def __init__(self, source: DepthLayer) -> None:
        nn.Module.__init__(self)
        self.width, self.positions = source.width, source.positions
        self.self_attention = SplitDepthAttention(source.self_attention)  # type: ignore[assignment]
        self.layernorm1, self.layernorm2 = source.layernorm1, source.layernorm2
        up = source.linear1.weight.detach().view(2 * self.width, self.positions, self.width)
        down = source.linear2.weight.detach().view(self.width, self.positions, 2 * self.width)
        self.up = nn.ModuleList([linear(up[:, i].contiguous()) for i in range(self.positions)])
        self.down = nn.ModuleList([linear(down[:, i].contiguous()) for i in range(self.positions)])

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, d], the first N positions -> [B, N, d]."""
        residual = self.layernorm2(self.self_attention(self.layernorm1(x)) + x)
        fed = [self.down[i](F.gelu(self.up[i](residual[:, i]))) for i in range(x.shape[1])]
        return residual + torch.stack(fed, dim=1)

    def step(self, x: Tensor, position: int, cache: Tensor) -> Tensor:
        """x [B, d] at `position` -> [B, d]."""
        residual = self.layernorm2(self.self_attention.step(self.layernorm1(x), position, cache) + x)
        result: Tensor = self.down[position](F.gelu(self.up[position](residual)))
        return result.add_(residual)
