"""The processes of a run, as torchrun starts them; one process alone is the same with nothing to exchange."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ....errors import TrainingError

T = TypeVar("T")

_PROBLEMS = {
    "a process of the run did not answer in time; see which one stands still. The last state is kept.": (
        "timed out", "timeout",
    ),
    "another process of the run has ended, see its message; the last state is kept.": (
        "connection closed", "connection reset", "broken pipe", "remote process exited", "remote worker",
    ),
    "the processes of the run cannot exchange data ({first_line}); check the network. The last state is kept.": (
        "gloo", "nccl", "connection refused",
    ),
}  # fmt: skip
"""What went wrong -> what the errors of a collective operation then speak of; the first that fits."""


def exchange_problem(error: str) -> str | None:
    """What the error of a collective operation means, in a sentence; None for one of another kind."""
    for sentence, signs in _PROBLEMS.items():
        if any(sign in error.lower() for sign in signs):
            return sentence.format(first_line=error.strip().splitlines()[0])
    return None


@dataclass(frozen=True)
class World:
    """This process among all of a run.

    mesh: "shard", over which parameters are split; with several hosts also "replicate", one index a host, and with
    tensor parallelism "tensor". None where the process is alone. writers: a second group, in which states are written
    while training goes on. tensor: how many neighbouring processes compute the same samples together; sums, gathered
    values and shares count them as one.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    mesh: DeviceMesh | None = None
    writers: dist.ProcessGroup | None = None
    tensor: int = 1

    @property
    def data_size(self) -> int:
        """How many shares the samples of a step are cut into."""
        return self.size // self.tensor

    @property
    def data_rank(self) -> int:
        """Which of the shares this process computes."""
        return self.rank // self.tensor

    @property
    def is_main(self) -> bool:
        """Whether this process writes the log and the samples."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values`, equally shaped on every process, summed over the processes; the result is the same on all."""
        if self.size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values / self.tensor if self.tensor > 1 else values

    def total(self, value: Tensor | float) -> Tensor:
        """The sum of the processes' values, a scalar without gradient."""
        return self.sum(torch.as_tensor(value).detach().double().clone())

    def mean_part(self, total: Tensor, count: Tensor | int) -> Tensor:
        """This process's part of a mean over all processes, from the total and the count of its values.

        The parts of all processes add up to the mean, so a step has the same loss and gradient however it is split.
        """
        return total / self.total(count).clamp(min=1).to(total)

    def norm_part(self, squares: Tensor) -> Tensor:
        """This process's part of the root of the summed `squares` of all; the parts add up in value and gradient."""
        root = self.total(squares).sqrt().clamp(min=1e-12).to(squares)
        return 0.5 * (squares + squares.detach()) / root

    def together(self, part: T, compute: Callable[[list[T]], Sequence[Tensor]], stand_in: Tensor) -> Tensor:
        """This process's entry of `compute(parts)`, which every process computes alike from the parts of all.

        stand_in: of the result's shape, for a micro-batch that comes before all parts are there (`micro_batches.py`).
        """
        return compute(self.gather(part))[self.data_rank]

    def smallest(self, value: int) -> int:
        """The smallest of the processes' values."""
        if self.size == 1:
            return value
        values = torch.tensor(value, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MIN)
        return int(values)

    def sum_over_shards(self, values: Tensor) -> Tensor:
        """`values` summed over the processes that hold different shards of the parameters."""
        if self.mesh is not None:
            for dimension in ("shard", "tensor")[: 1 + (self.tensor > 1)]:
                dist.all_reduce(values, group=self.mesh.get_group(dimension))
        return values

    def gather(self, value: T) -> list[T]:
        """The `value` of every process, in the order of ranks. For small objects, now and then."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values[:: self.tensor]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def share(self, items: Sequence[T], pieces: int = 1, piece: int = 0) -> tuple[list[T], float]:
        """`part` and its share of all items; without any the first one, and 0: the others wait for this process."""
        mine = self.part(items, pieces, piece)
        return mine or list(items[:1]), len(mine) / len(items)

    def part(self, items: Sequence[T], pieces: int = 1, piece: int = 0) -> list[T]:
        """This process's share of a step's samples, cut into `pieces` micro-batches: every n-th, from its index on."""
        return list(items)[self.data_rank * pieces + piece :: self.data_size * pieces]


ALONE = World()
"""One process, also where it is one of several and computes something alone."""
_world = ALONE


def world() -> World:
    """The processes of the run that goes on; this one alone outside of `processes`."""
    return _world


@contextmanager
def acting_as(run: World) -> Iterator[None]:
    """`world()` is `run` within the block."""
    global _world
    before, _world = _world, run
    try:
        yield
    finally:
        _world = before


@contextmanager
def processes(device: str, timeout_s: float = 0.0, tensor: int = 1) -> Iterator[World]:
    """The process group that torchrun's environment describes, gloo on CPUs and NCCL on CUDA; without it, no group.

    timeout_s: after which a collective operation fails, half an hour at least. tensor: see `World`. Raises
    TrainingError for a device that cannot be split among the processes of a host, or for a `tensor` that does not
    divide them.
    """
    global _world
    size, on_host = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if on_host % tensor:
        raise TrainingError(f"tensor_parallel: {tensor} does not divide the {on_host} processes of a host.")
    if size == 1:
        yield _world
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    kind = torch.device(device).type
    if kind == "cuda":
        if device != "cuda" or on_host > torch.cuda.device_count():
            raise TrainingError(
                f"device {device}: {on_host} processes a host need `device=cuda` and as many GPUs, not "
                f"{torch.cuda.device_count()}."
            )
        torch.cuda.set_device(local_rank)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    timeout = timedelta(seconds=max(timeout_s, 1800.0))
    dist.init_process_group(backend, timeout=timeout)
    try:
        writers = dist.new_group(backend="gloo", timeout=timeout)
        _world = World(dist.get_rank(), size, kind, make_mesh(kind, size, on_host, tensor), writers, tensor)
        yield _world
    except RuntimeError as error:
        if problem := exchange_problem(str(error)):
            raise TrainingError(problem) from error
        raise
    finally:
        _world = ALONE
        dist.destroy_process_group()


def make_mesh(kind: str, size: int, on_host: int, tensor: int = 1) -> DeviceMesh:
    """Parameters are split over all processes of a host, and repeated on every host (HSDP) where there are several.

    `tensor` neighbours compute the backbone's layers together.
    """
    dimensions = {"replicate": size // on_host, "shard": on_host // tensor, "tensor": tensor}
    kept = {name: length for name, length in dimensions.items() if name == "shard" or length > 1}
    return init_device_mesh(kind, tuple(kept.values()), mesh_dim_names=tuple(kept))
