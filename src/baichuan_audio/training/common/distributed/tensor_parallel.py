"""Tensor parallelism of the backbone: neighbouring processes compute each layer together, on the same samples.

Each process has some of the attention heads, with the keys and values that they share, and a part of the feed-forward
width (torch.distributed.tensor.parallel; Megatron-LM, arXiv 1909.08053). What is outside of the layers is computed by
all of them alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

from ....errors import ConfigError
from ....language_model.backbone import Attention, Backbone, BackboneConfig, DecoderLayer, FeedForward
from ....layers.shapes import shapes_only

DIMENSION = "tensor"
"""Name of the mesh's dimension."""


def check_split(config: BackboneConfig, parts: int) -> None:
    """Raise ConfigError where layers of these sizes cannot be computed in so many parts."""
    if config.key_value_heads % parts or config.intermediate_size % parts:
        raise ConfigError(
            f"tensor_parallel: {parts} processes cannot share {config.key_value_heads} key and value heads and a "
            f"feed-forward width of {config.intermediate_size}; both must be multiples of it."
        )


def split_layers(backbone: Backbone, mesh: DeviceMesh) -> None:
    """Split the layers' computation over the processes of a mesh of one dimension, in place.

    Weights of the feed-forward layer and of the attention's output are split too. Those of `W_pack` (7 % of a layer of
    the released size) stay whole, since a process's rows of q, k and v do not lie together.
    """
    parts, part = mesh.size(), mesh.get_local_rank()
    check_split(backbone.config, parts)
    plan = {
        "self_attn.o_proj": RowwiseParallel(),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(),
    }
    for layer in backbone.layers:
        parallelize_module(layer, mesh, plan)
        attention = layer.self_attn
        assert isinstance(attention, Attention)
        split_heads(attention, parts, part, mesh)


def shrink_layers(backbone: Backbone, parts: int) -> None:
    """Give a backbone the shapes that one of `parts` processes computes, in place, without values: for a plan."""
    check_split(backbone.config, parts)
    inner, width = backbone.config.intermediate_size // parts, backbone.config.hidden_size
    for layer in backbone.layers:
        attention, feed_forward = layer.self_attn, layer.mlp
        assert isinstance(attention, Attention) and isinstance(feed_forward, FeedForward)
        learns = attention.o_proj.weight.requires_grad
        split_heads(attention, parts, 0)
        with shapes_only():
            attention.o_proj = nn.Linear(attention.heads * attention.width, width, bias=False)
            feed_forward.gate_proj, feed_forward.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
            feed_forward.down_proj = nn.Linear(inner, width, bias=False)
        for module in (attention.o_proj, feed_forward):
            module.requires_grad_(learns)


def split_heads(attention: Attention, parts: int, part: int, mesh: DeviceMesh | None = None) -> None:
    """Let an attention compute one of `parts` equal shares of its heads; its output projection is split elsewhere."""
    attention.W_pack = PackedHeads(attention, parts, part, mesh)  # type: ignore[assignment]
    attention.heads, attention.groups = attention.heads // parts, attention.groups // parts


class PackedHeads(nn.Module):
    """The rows of a `W_pack` that are one process's heads: x [B, N, D] -> its q, k and v, stacked, [B, N, rows].

    With a mesh the parameters are whole in each of its processes, and gradients are summed up over them.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, attention: Attention, parts: int, part: int, mesh: DeviceMesh | None) -> None:
        super().__init__()
        heads, groups = attention.heads * attention.width, attention.groups * attention.width
        starts = (0, heads, heads + groups)
        self._rows = [
            slice(start + size // parts * part, start + size // parts * (part + 1))
            for start, size in zip(starts, (heads, groups, groups), strict=True)
        ]
        self._mesh = mesh
        for name, parameter in attention.W_pack.named_parameters():
            if mesh is not None:
                whole = distribute_tensor(parameter.detach(), mesh, [Replicate()])
                parameter = nn.Parameter(whole, parameter.requires_grad)
            self.register_parameter(name, parameter)
        if attention.W_pack.bias is None:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        if self._mesh is not None:
            x = _summed_gradient(DTensor.from_local(x, self._mesh, [Replicate()]))
        bias = None if self.bias is None else self._own(self.bias)
        return F.linear(x, self._own(self.weight), bias)

    def _own(self, parameter: Tensor) -> Tensor:
        """The rows of this process's heads."""
        if isinstance(parameter, DTensor):
            parameter = _summed_gradient(parameter)
        return torch.cat([parameter[rows] for rows in self._rows])


def _summed_gradient(tensor: DTensor) -> Tensor:
    """A replicated tensor as a plain one, whose gradient is the sum of those of the processes."""
    plain: Tensor = tensor.to_local(grad_placements=[Partial()])
    return plain


@contextmanager
def whole_layers(trained: nn.Module, used: bool) -> Iterator[None]:
    """Backbones have layers that a process can compute alone within the block; every process must enter it.

    used: whether this process does; otherwise its backbones have none.
    """
    backbones = [module for module in trained.modules() if isinstance(module, Backbone)]
    split = [backbone.layers for backbone in backbones]
    for backbone in backbones:
        backbone.layers = nn.ModuleList(_whole_layers(backbone, used))
    try:
        yield
    finally:
        for backbone, layers in zip(backbones, split, strict=True):
            backbone.layers = layers


def _whole_layers(backbone: Backbone, used: bool) -> Iterator[nn.Module]:
    for number, layer in enumerate(backbone.layers):
        weights = {name: _whole(parameter.detach()) for name, parameter in layer.named_parameters()}
        if used:
            with torch.device("meta"):
                plain = DecoderLayer(backbone.config, number)
            plain.load_state_dict(weights, assign=True)
            yield plain.requires_grad_(False)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
