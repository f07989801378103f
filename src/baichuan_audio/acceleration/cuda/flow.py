"""The flow decoder's solver in memory that never moves: chunks of several replies are rows, a solver step is a graph.

A step is captured once for each bucket of rows and of earlier chunks (powers of two), and then serves every step of
every chunk, full or not: all that differs is copied into its memory before. What a segment has seen is the segment's
own. It is copied in before a step, and what a full chunk adds is copied out after it; so segments take turns as they
like, and one that is dropped half way leaves nothing behind.

Of a chunk that is not full, only attention must be told where it ends: convolutions look back, norms at one frame, and
no chunk follows it. Its padding is hidden by a mask, as are the earlier chunks that a row does not have.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
from torch import Tensor

from ...flow_decoder.flow import guided_velocity, solver_times
from ...flow_decoder.model import FlowDecoder, FlowState
from ...flow_decoder.velocity import CausalConv, ChunkAttention, Velocity, VelocityState
from ..modules import module_copy
from .graphs import Graphs, bucket

_MOST_ROWS = 16
_MASK_ALIGNMENT = 16
"""Rows of the mask begin at multiples of this: attention would else copy it to such places each time."""


@dataclass
class PackedState(FlowState):
    """What a segment has seen, in few tensors; of `steps` only the number counts, S.

    tails [S, 2, W]: the last inputs of all convolutions side by side, guided and not. chunks: of each full chunk the
    keys and values [S, A, 2, 2, H, C, w] by step, attention, key or value, guided or not, head, frame. Tensors are
    replaced, never written to.
    """

    tails: Tensor = field(kw_only=True)
    chunks: list[Tensor] = field(default_factory=list, kw_only=True)

    def copy(self) -> PackedState:
        """See FlowState."""
        return PackedState(self.steps, self.ended, tails=self.tails, chunks=list(self.chunks))


@dataclass(frozen=True, eq=False)
class Chunk:
    """The next chunk of a segment, as `FlowDecoder.sample_chunk` takes it: mu [L, M], noise [M, L]."""

    mu: Tensor
    noise: Tensor
    state: FlowState

    @property
    def frames(self) -> int:
        return self.mu.shape[0]

    @property
    def packed(self) -> PackedState:
        return cast(PackedState, self.state)


class StepMemory:
    """All that one solver step reads and writes, for R rows with up to P chunks of C frames before each.

    x, mu [R, C, M] and time [2] (the flow time, and how far this step goes) are float32. past [A, 2, 2, R, H, P C, w]
    and tails [2, R, W] are what the rows have seen, laid out as in PackedState; fresh [A, 2, 2, R, H, C, w] is what
    this chunk adds to past. mask [2, R, 1, 1, (P + 1) C] is added to attention's scores: earlier chunks, then this one.
    """

    def __init__(self, network: Velocity, rows: int, past: int) -> None:
        convolutions, self._attentions = moving_parts(network)
        like, frames = network.final_proj.weight, network.chunk_frames
        shape = (len(self._attentions), 2, 2, rows, self._attentions[0].num_heads)
        width, span = self._attentions[0].head_dim, (past + 1) * frames
        # zeros, not empty: what a mask hides must still be a number
        self.x, self.mu = torch.zeros(2, rows, frames, like.shape[0], device=like.device).unbind()
        self.time = torch.zeros(2, device=like.device)
        self.past = like.new_zeros(*shape, past * frames, width)
        self.fresh = like.new_zeros(*shape, frames, width)
        self.tails = like.new_zeros(2, rows, sum(map(tail_size, convolutions)))
        aligned = -(-span // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
        self.mask = like.new_zeros(2, rows, 1, 1, aligned)[..., :span]
        parts = self.tails.flatten(0, 1).split([tail_size(each) for each in convolutions], dim=1)
        self._tails: VelocityState = {
            each: part.unflatten(1, (-1, each.in_channels)) for each, part in zip(convolutions, parts, strict=True)
        }

    def write(self, chunks: Sequence[Chunk]) -> None:
        """What is the same for all steps of these rows; rows behind them hold zeros."""
        frames = self.x.shape[1]
        self.x.zero_()
        self.mu.zero_()
        self.mask.fill_(-torch.inf)
        self.mask[..., -frames:] = 0.0
        for row, chunk in enumerate(chunks):
            self.x[row, : chunk.frames] = chunk.noise.T
            self.mu[row, : chunk.frames] = chunk.mu
            self.mask[:, row, ..., : frames * len(chunk.packed.chunks)] = 0.0
            if chunk.frames < frames:
                self.mask[:, row, ..., chunk.frames - frames :] = -torch.inf

    def write_step(self, step: int, time: Tensor, chunks: Sequence[Chunk]) -> None:
        """What the rows have seen at this step; time [2]."""
        frames = self.x.shape[1]
        self.time.copy_(time)
        for row, chunk in enumerate(chunks):
            self.tails[:, row] = chunk.packed.tails[step]
            for place, keys_values in enumerate(chunk.packed.chunks):
                self.past[:, :, :, row, :, place * frames : (place + 1) * frames] = keys_values[step]

    def seen(self) -> VelocityState:
        """`tails` and `past`, by the module that reads them."""
        state = dict(self._tails)
        if self.past.shape[5]:
            state |= dict(zip(self._attentions, self.past.flatten(2, 3), strict=True))
        return state

    def take(self, state: VelocityState) -> None:
        """What the modules have now seen, into `tails` and `fresh`."""
        for convolution, tail in self._tails.items():
            tail.copy_(state[convolution])
        for attention, fresh in zip(self._attentions, self.fresh.flatten(2, 3), strict=True):
            fresh.copy_(state[attention][..., -self.x.shape[1] :, :])


class StaticFlow(FlowDecoder):
    """A FlowDecoder that solves chunks in static memory, on CUDA by captured graphs; for inference only.

    It is used like any other, with states of its own kind; whole segments (`sample`, `sample_batch`) are solved as
    before. Of threads that sample chunks at the same time, one solves what all of them wait for, as rows of a batch.
    """

    def prepare(self) -> None:
        """Set out without memory: it is set aside, and the step captured, for each bucket when it is first met."""
        device = self.conditional_decoder.final_proj.weight.device
        self.graphs = Graphs(device) if device.type == "cuda" else None
        self._tail_size = sum(map(tail_size, moving_parts(self.conditional_decoder)[0]))
        self._memories: dict[tuple[int, int], StepMemory] = {}
        self._times: dict[int, Tensor] = {}
        self._solver, self._queue = threading.Lock(), threading.Lock()
        self._waiting: list[tuple[Chunk, Future[Tensor]]] = []

    def init_state(self, num_steps: int | None = None) -> PackedState:
        """See FlowDecoder."""
        steps: list[VelocityState] = [{} for _ in range(self._steps(num_steps))]
        like = self.conditional_decoder.final_proj.weight
        return PackedState(steps, tails=like.new_zeros(len(steps), 2, self._tail_size))

    def sample_chunk(self, mu: Tensor, noise: Tensor, state: FlowState) -> Tensor:
        """See FlowDecoder."""
        return self.sample_rows([Chunk(mu, noise, state)])[0]

    @torch.no_grad()
    def sample_rows(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """`sample_chunk` for chunks of as many segments in one batch -> the mel [M, L] of each.

        Raises ValueError as `sample_chunk` does, and for states of different numbers of steps.
        """
        steps = len(chunks[0].state.steps)
        if any(len(chunk.state.steps) != steps for chunk in chunks):
            raise ValueError("chunks that are sampled together need states of the same number of steps")
        for chunk in chunks:
            self._begin_chunk(chunk.frames, chunk.state)
        if not steps:
            return [chunk.mu.T for chunk in chunks]
        mels = [Future[Tensor]() for _ in chunks]
        with self._queue:
            self._waiting += zip(chunks, mels, strict=True)
        with self._solver:
            while not all(mel.done() for mel in mels):  # another thread may have solved them beside its own
                self._solve_waiting(steps)
        return [mel.result() for mel in mels]

    def _solve_waiting(self, steps: int) -> None:
        """The first chunks that wait, of all threads and of one number of steps; whose they are hears of a failure."""
        with self._queue:
            batch = [each for each in self._waiting if len(each[0].state.steps) == steps][:_MOST_ROWS]
            self._waiting = [each for each in self._waiting if each not in batch]
        try:
            for (_, mel), solved in zip(batch, self._solve([chunk for chunk, _ in batch]), strict=True):
                mel.set_result(solved)
        except Exception as error:
            for _, mel in batch:
                mel.set_exception(error)

    def _solve(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """All steps of a batch; what full chunks add goes to their states."""
        steps = len(chunks[0].state.steps)
        key = bucket(len(chunks)), bucket(max(len(chunk.packed.chunks) for chunk in chunks))
        memory = self._memory(key)
        memory.write(chunks)
        added = {row: self._room(memory, steps) for row, chunk in enumerate(chunks) if not chunk.state.ended}
        for step, time in enumerate(self._step_times(steps)):
            memory.write_step(step, time, chunks)
            if self.graphs is not None:
                self.graphs.replay(key)
            else:
                self._run(memory)
            for row, (tails, keys_values) in added.items():
                tails[step], keys_values[step] = memory.tails[:, row], memory.fresh[:, :, :, row]
        for row, (tails, keys_values) in added.items():
            chunks[row].packed.tails = tails
            chunks[row].packed.chunks.append(keys_values)
        return [memory.x[row, : chunk.frames].clone().T.to(chunk.mu.dtype) for row, chunk in enumerate(chunks)]

    def _run(self, memory: StepMemory) -> None:
        """One Euler step of all rows: what a graph captures."""
        state, scale = memory.seen(), self.config.cfm_params.inference_cfg_rate
        network = partial(self._velocity, state=state, mask=memory.mask.flatten(0, 1))
        velocity = guided_velocity(network, memory.x, memory.mu, memory.time[:1], scale)
        memory.x.add_(memory.time[1] * velocity)
        memory.take(state)

    def _memory(self, key: tuple[int, int]) -> StepMemory:
        """Memory for a bucket of rows and one of earlier chunks."""
        if key not in self._memories:
            with torch.inference_mode(False), torch.no_grad():  # it may be written to in any mode
                memory = StepMemory(self.conditional_decoder, *key)
            if self.graphs is not None:
                self.graphs.capture(key, lambda: self._run(memory))
            self._memories[key] = memory
        return self._memories[key]

    @staticmethod
    def _room(memory: StepMemory, steps: int) -> tuple[Tensor, Tensor]:
        """For what a row's chunk leaves at each step: tails and keys and values as in PackedState."""
        tails, fresh = memory.tails[:, 0], memory.fresh[:, :, :, 0]
        return tails.new_empty(steps, *tails.shape), fresh.new_empty(steps, *fresh.shape)

    def _step_times(self, steps: int) -> Tensor:
        """Of each step the flow time, and how far it goes, [S, 2]."""
        if steps not in self._times:
            pairs = [(t, t_next - t) for t, t_next in itertools.pairwise(solver_times(steps))]
            self._times[steps] = torch.tensor(pairs, device=self.conditional_decoder.final_proj.weight.device)
        return self._times[steps]


def static_flow(flow: FlowDecoder) -> StaticFlow:
    """A twin of `flow` over the same weights that samples chunks in static memory."""
    optimized = module_copy(flow)
    optimized.__class__ = StaticFlow
    cast(StaticFlow, optimized).prepare()
    return cast(StaticFlow, optimized)


def moving_parts(network: Velocity) -> tuple[list[CausalConv], list[ChunkAttention]]:
    """The modules that have a state: convolutions that look back, and attentions."""
    modules = list(network.modules())
    convolutions = [module for module in modules if isinstance(module, CausalConv) and module.kernel_size[0] > 1]
    return convolutions, [module for module in modules if isinstance(module, ChunkAttention)]


def tail_size(convolution: CausalConv) -> int:
    """How many numbers a convolution keeps of what it has read."""
    return (convolution.kernel_size[0] - 1) * convolution.in_channels
