"""FSDP2: parameters, gradients and optimizer states split over the processes, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed._composable.checkpoint_activation import checkpoint
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ....audio_tokenizer import AudioTokenizer
from ....language_model.backbone import Backbone
from .tensor_parallel import DIMENSION, split_layers
from .world import World

T = TypeVar("T")


class TrainedModules(nn.ModuleDict):
    """The modules of a stage. `trained(compute)` is `compute()`, which uses them: FSDP's hooks surround the call."""

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


def parallelize(
    modules: Mapping[str, nn.Module], world: World, bfloat16: bool = False, activation_checkpointing: bool = False
) -> TrainedModules:
    """Split the parameters of `modules` over the processes, in place; nothing is split where there is only one.

    Layers of backbones and audio encoders are gathered one at a time, before their pass. The rest is gathered once a
    step: how often it is used depends on a process's samples, and processes must gather alike. bfloat16: what is
    gathered is, while parameters, optimizers and the sums of gradients stay float32. activation_checkpointing: a layer
    keeps its input only, and is computed again for its gradient. Where the world has tensor parallelism, backbones are
    split by it before; raises ConfigError for sizes that cannot be.
    """
    trained = TrainedModules(modules)
    mesh = world.mesh
    if mesh is not None and world.tensor > 1:
        for module in trained.modules():
            if isinstance(module, Backbone):
                split_layers(module, mesh[DIMENSION])
        mesh = mesh[tuple(name for name in mesh.mesh_dim_names or () if name != DIMENSION)]
    layers = [layer for module in trained.modules() for layer in _layers(module)]
    if activation_checkpointing:
        for layer in layers:
            checkpoint(layer)
    if mesh is None:
        return trained
    policy = MixedPrecisionPolicy(torch.bfloat16 if bfloat16 else None, torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(trained, mesh=mesh, mp_policy=policy)
    assert isinstance(trained, FSDPModule)
    trained.set_reduce_scatter_unused_params(True)  # a process may have no target of a kind that others have
    return trained


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers that a module runs once in every pass."""
    if isinstance(module, Backbone):
        return list(module.layers)
    return list(module.encoder.layers) if isinstance(module, AudioTokenizer) else []


@contextmanager
def gathered(trained: nn.Module) -> Iterator[None]:
    """Every process has all parameters within the block, so that one of them can use the modules alone."""
    units = [module for module in trained.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not trained, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be split over the processes; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def mesh_of(tensor: Tensor) -> DeviceMesh | None:
    """The processes over which a tensor is split; None where it is not."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def tensor_copies(parameter: Tensor, world: World) -> int:
    """How many processes of a tensor-parallel group hold the same part of a parameter."""
    split = False
    if isinstance(parameter, DTensor):
        names = parameter.device_mesh.mesh_dim_names or ()
        split = any(n == DIMENSION and p.is_shard() for n, p in zip(names, parameter.placements, strict=True))
    return 1 if split else world.tensor


def whole_like(parameter: Tensor, part: Tensor) -> Tensor:
    """The whole tensor of which `part` is what this process holds, split as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return part
    split = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part, *split, shape=parameter.shape, stride=parameter.stride()).full_tensor()


def rows_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """What this process holds of a whole `tensor`, split as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
