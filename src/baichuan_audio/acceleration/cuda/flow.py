"""The flow decoder's solver in static memory: chunks of several replies are rows, one solver step is a CUDA graph.

A step is captured once for each bucket of rows and of earlier chunks (powers of two) and then serves every step of
every chunk, full or not: its inputs are copied into its memory first. The state of a segment belongs to the segment. It
is copied in before a step, and what a full chunk adds is copied out after it; so segments may alternate in any order,
and an abandoned one leaves no state behind.

For a chunk that is not full, only attention needs its length: convolutions are causal, norms work on single frames, and
no chunk follows it. A mask hides its padding, and the earlier chunks that a row does not have.
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
from ...layers.module_copy import module_copy_as
from .graphs import Graphs, bucket

_MAX_ROWS = 16
_MASK_ALIGNMENT = 16
"""Rows of the mask begin at multiples of this; attention would otherwise copy the mask to align it, every time."""


@dataclass
class PackedState(FlowState):
    """The state of a segment in few tensors; only the number S of `steps` is used.

    tails [S, 2, W]: the last inputs of all convolutions, concatenated, guided and not. chunks: keys and values of each
    full chunk [S, A, 2, 2, H, C, w] by step, attention, key or value, guided or not, head, frame. Tensors are replaced,
    never written to.
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
    """The memory that one solver step reads and writes, for R rows with up to P earlier chunks of C frames each.

    x, mu [R, C, M] and time [2] (the flow time and the step size) are float32. past [A, 2, 2, R, H, P C, w] and tails
    [2, R, W] are the states of the rows, with the layout of PackedState; fresh [A, 2, 2, R, H, C, w] is what this chunk
    adds to past. mask [2, R, 1, 1, (P + 1) C] is added to the attention scores: earlier chunks, then this one.
    """

    def __init__(self, network: Velocity, rows: int, past: int) -> None:
        convolutions, self._attentions = stateful_modules(network)
        like, frames = network.final_proj.weight, network.chunk_frames
        shape = (len(self._attentions), 2, 2, rows, self._attentions[0].num_heads)
        width, span = self._attentions[0].head_dim, (past + 1) * frames
        # zeros, not empty: masked values must be finite
        self.x, self.mu = torch.zeros(2, rows, frames, like.shape[0], device=like.device).unbind()
        self.time = torch.zeros(2, device=like.device)
        self.past = like.new_zeros(*shape, past * frames, width)
        self.fresh = like.new_zeros(*shape, frames, width)
        self.tails = like.new_zeros(2, rows, sum(map(tail_size, convolutions)))
        aligned = -(-span // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
        self.mask = like.new_zeros(2, rows, 1, 1, aligned)[..., :span]
        parts = self.tails.flatten(0, 1).split([tail_size(conv) for conv in convolutions], dim=1)
        self._tails: VelocityState = {
            conv: part.unflatten(1, (-1, conv.in_channels)) for conv, part in zip(convolutions, parts, strict=True)
        }

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Write the inputs that are the same in all steps of these rows; the other rows are zeros."""
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
        """Write the states of the rows at this step; time [2]."""
        frames = self.x.shape[1]
        self.time.copy_(time)
        for row, chunk in enumerate(chunks):
            self.tails[:, row] = chunk.packed.tails[step]
            for index, keys_values in enumerate(chunk.packed.chunks):
                self.past[:, :, :, row, :, index * frames : (index + 1) * frames] = keys_values[step]

    def state(self) -> VelocityState:
        """Views of `tails` and `past`, by the module that reads them."""
        state = dict(self._tails)
        if self.past.shape[5]:
            state |= dict(zip(self._attentions, self.past.flatten(2, 3), strict=True))
        return state

    def take(self, state: VelocityState) -> None:
        """Copy the new state of the modules into `tails` and `fresh`."""
        for convolution, tail in self._tails.items():
            tail.copy_(state[convolution])
        for attention, fresh in zip(self._attentions, self.fresh.flatten(2, 3), strict=True):
            fresh.copy_(state[attention][..., -self.x.shape[1] :, :])


class StaticFlow(FlowDecoder):
    """A FlowDecoder that solves chunks in static memory, on CUDA by captured graphs; for inference only.

    Its interface is FlowDecoder's, with states of type PackedState; whole segments (`sample`, `sample_batch`) are
    solved as in FlowDecoder. When several threads sample chunks at once, one of them solves the waiting chunks of all
    as a batch.
    """

    graphs: Graphs | None
    _tail_size: int
    _memories: dict[tuple[int, int], StepMemory]
    _times: dict[int, Tensor]
    _waiting: list[tuple[Chunk, Future[Tensor]]]
    _solver: threading.Lock
    _queue: threading.Lock

    @classmethod
    def from_flow(cls, source: FlowDecoder) -> StaticFlow:
        """A copy of `source` over the same weights. Memory is allocated, and a step captured, at its first use."""
        flow = module_copy_as(cls, source)
        network = source.conditional_decoder
        device = network.final_proj.weight.device
        flow.graphs = Graphs(device) if device.type == "cuda" else None
        flow._tail_size = sum(map(tail_size, stateful_modules(network)[0]))
        flow._memories, flow._times, flow._waiting = {}, {}, []
        flow._solver, flow._queue = threading.Lock(), threading.Lock()
        return flow

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
        """Solve the first waiting chunks, of all threads, with this number of steps; sets their futures."""
        with self._queue:
            batch = [entry for entry in self._waiting if len(entry[0].state.steps) == steps][:_MAX_ROWS]
            self._waiting = [entry for entry in self._waiting if entry not in batch]
        try:
            for (_, mel), solved in zip(batch, self._solve([chunk for chunk, _ in batch]), strict=True):
                mel.set_result(solved)
        except Exception as error:
            for _, mel in batch:
                mel.set_exception(error)

    def _solve(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """All steps of a batch; full chunks are added to their states."""
        steps = len(chunks[0].state.steps)
        key = bucket(len(chunks)), bucket(max(len(chunk.packed.chunks) for chunk in chunks))
        memory = self._memory(key)
        memory.write(chunks)
        added = {row: self._empty_state(memory, steps) for row, chunk in enumerate(chunks) if not chunk.state.ended}
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
        """One Euler step of all rows; this is what a graph captures."""
        state, scale = memory.state(), self.config.cfm_params.inference_cfg_rate
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
    def _empty_state(memory: StepMemory, steps: int) -> tuple[Tensor, Tensor]:
        """Uninitialized tails, keys and values of one row at each step, as in PackedState."""
        tails, fresh = memory.tails[:, 0], memory.fresh[:, :, :, 0]
        return tails.new_empty(steps, *tails.shape), fresh.new_empty(steps, *fresh.shape)

    def _step_times(self, steps: int) -> Tensor:
        """Flow time and step size of each step, [S, 2]."""
        if steps not in self._times:
            pairs = [(t, t_next - t) for t, t_next in itertools.pairwise(solver_times(steps))]
            self._times[steps] = torch.tensor(pairs, device=self.conditional_decoder.final_proj.weight.device)
        return self._times[steps]


def stateful_modules(network: Velocity) -> tuple[list[CausalConv], list[ChunkAttention]]:
    """The modules that have a state: causal convolutions and attentions."""
    modules = list(network.modules())
    convolutions = [module for module in modules if isinstance(module, CausalConv) and module.kernel_size[0] > 1]
    return convolutions, [module for module in modules if isinstance(module, ChunkAttention)]


def tail_size(convolution: CausalConv) -> int:
    """The number of past input values that a convolution keeps."""
    return (convolution.kernel_size[0] - 1) * convolution.in_channels
