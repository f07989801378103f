"""FSDP2: parameters, gradients and optimizer states split over the processes, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed._composable.checkpoint_activation import checkpoint
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ....language_model.audio_head import DepthLayer
from ....language_model.backbone import DecoderLayer
from ....language_model.model import LanguageModel
from ....layers.attention import TransformerLayer
from .world import World

T = TypeVar("T")
_LAYERS = (DecoderLayer, DepthLayer, TransformerLayer)


class TrainedModules(nn.ModuleDict):
    """The modules of a stage. `trained(compute)` is `compute()`, which uses them: FSDP's hooks surround the call."""

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


def parallelize(
    modules: Mapping[str, nn.Module], world: World, bfloat16: bool = False, activation_checkpointing: bool = False
) -> TrainedModules:
    """Split the parameters of `modules` over the processes, in place; nothing is split where there is only one.

    Every layer is a unit, gathered before its pass; so are a language model's text embedding and `lm_head`. What is
    left stays gathered during a step. bfloat16: layers are gathered and computed in bfloat16; the parameters, their
    gradients and the sums of gradients stay float32. activation_checkpointing: a layer keeps its input only, and is
    computed again for its gradient.
    """
    trained = TrainedModules(modules)
    units = [module for module in trained.modules() if isinstance(module, _LAYERS)]
    if activation_checkpointing:
        for unit in units:
            checkpoint(unit)
    if world.mesh is None:
        return trained
    dtype = torch.bfloat16 if bfloat16 else None
    layer = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    # The residual stream starts and stays in float32, as it does in one process.
    ends = MixedPrecisionPolicy(dtype, torch.float32, output_dtype=torch.float32, cast_forward_inputs=False)
    for unit in units:
        fully_shard(unit, mesh=world.mesh, mp_policy=layer)
    for module in list(trained.modules()):
        if isinstance(module, LanguageModel):
            fully_shard(module.embed_tokens, mesh=world.mesh, mp_policy=ends)
            fully_shard(module.lm_head, mesh=world.mesh, mp_policy=ends)
    fully_shard(trained, mesh=world.mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
    assert isinstance(trained, FSDPModule)
    trained.set_reduce_scatter_unused_params(True)  # a process may have no target of a kind that others have
    return trained


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
