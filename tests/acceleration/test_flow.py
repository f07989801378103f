"""Chunks solved in static memory against the eager solver; as graphs where there is CUDA."""

from __future__ import annotations

import copy
import random
import threading
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.acceleration.cuda.flow import Chunk, StaticFlow, StepMemory
from baichuan_audio.acceleration.cuda.graphs import bucket
from baichuan_audio.flow_decoder import FlowConfig, FlowDecoder
from baichuan_audio.flow_decoder.flow import CfmParams
from baichuan_audio.flow_decoder.model import FlowState
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.synthesis import SpeechStream

from ..conftest import DEVICES, NEEDS_CUDA
from ..synthesis.conftest import SIZES, small_model
from .conftest import FakeGraphs

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
FULL = 10  # frames of a chunk


def eager_flow(device: str = "cpu", **changes: Any) -> FlowDecoder:
    values: dict[str, Any] = {
        "prenet_in_dim": 12, "prenet_d_model": 16, "prenet_attention_heads": 2, "prenet_ffn_dim": 24,
        "prenet_nlayers": 1, "prenet_out_dim": 6, "in_channels": 6, "channels": (16,), "n_blocks": 2,
        "num_mid_blocks": 1, "num_heads": 3, "attention_head_dim": 4, "diffusion_steps": 2,
        "prenet_max_source_positions": 4, "attention_chunk_frames": FULL,
    }  # fmt: skip
    torch.manual_seed(0)
    return FlowDecoder(FlowConfig(**(values | changes))).eval().to(device)


def static(flow: FlowDecoder) -> StaticFlow:
    """Captured, or on a CPU as if: each step is run several times before it counts."""
    optimized = StaticFlow.from_flow(flow)
    if optimized.graphs is None:
        optimized.graphs = FakeGraphs()  # type: ignore[assignment]
    return optimized


@pytest.fixture(params=DEVICES)
def flow(request: pytest.FixtureRequest) -> FlowDecoder:
    return eager_flow(request.param)


@dataclass(frozen=True)
class Segment:
    """mu [L, M] and noise [M, L]."""

    mu: Tensor
    noise: Tensor

    @staticmethod
    def random(flow: FlowDecoder, frames: int, seed: int = 0) -> Segment:
        weight, generator = flow.prenet.out_proj.weight, torch.Generator().manual_seed(seed)
        both = torch.randn(2, frames, weight.shape[0], generator=generator).to(weight.device)
        return Segment(both[0].to(weight.dtype), both[1].T)

    def part(self, first: int, frames: int = FULL) -> tuple[Tensor, Tensor]:
        return self.mu[first : first + frames], self.noise[:, first : first + frames]

    def in_chunks(self, flow: FlowDecoder) -> Tensor:
        return torch.cat(list(flow.sample_chunks(self.mu, self.noise)), dim=1)

    def after(self, flow: FlowDecoder, frames: int) -> FlowState:
        """The state behind so many frames."""
        state = flow.init_state()
        for first in range(0, frames, FULL):
            flow.sample_chunk(*self.part(first), state)
        return state


@pytest.mark.parametrize("frames", [4, FULL, FULL + 1, 6 * FULL + 7])
def test_chunks_are_those_of_the_whole(flow: FlowDecoder, frames: int) -> None:
    segment = Segment.random(flow, frames)
    torch.testing.assert_close(segment.in_chunks(static(flow)), flow.sample(segment.mu, segment.noise), **CLOSE)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "changes",
    [
        {"attention_chunk_frames": 16, "num_heads": 1},
        {"attention_chunk_frames": 1, "channels": (24,), "attention_head_dim": 8},
        {"n_blocks": 1, "num_mid_blocks": 0, "in_channels": 4, "prenet_out_dim": 4},
        {"cfm_params": CfmParams(inference_cfg_rate=0.0)},
        {"cfm_params": CfmParams(inference_cfg_rate=2.0), "diffusion_steps": 5},
    ],
)
def test_other_sizes_and_other_guidance(changes: dict[str, Any], device: str) -> None:
    flow = eager_flow(device, **changes)
    segment = Segment.random(flow, 3 * flow.config.attention_chunk_frames + 5)
    torch.testing.assert_close(segment.in_chunks(static(flow)), flow.sample(segment.mu, segment.noise), **CLOSE)


def test_half_precision(flow: FlowDecoder) -> None:
    segment = Segment.random(flow.bfloat16(), 2 * FULL + 3)
    mel, expected = segment.in_chunks(static(flow)), segment.in_chunks(flow)
    assert mel.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(mel, expected, rtol=0.05, atol=0.05)


def test_the_golden_mel(plain: BaichuanAudio, cases: dict[str, Tensor]) -> None:
    mu, noise = (cases[name].to(plain.flow.prenet.out_proj.weight.device) for name in ("prenet_mel.0", "flow_noise.0"))
    torch.testing.assert_close(Segment(mu, noise).in_chunks(static(plain.flow)).cpu(), cases["flow_mel.0"], **CLOSE)


def test_early_sound_is_the_eager_one_and_leaves_no_trace(flow: FlowDecoder) -> None:
    """Each chunk is heard in parts of several lengths, and in full, before it is sampled for good."""
    optimized, segment = static(flow), Segment.random(flow, 3 * FULL)
    mine, theirs = optimized.init_state(), flow.init_state()
    for first in range(0, 3 * FULL, FULL):
        for frames in (1, 4, FULL - 1, 3, FULL):
            early = segment.part(first, frames)
            expected = flow.sample_chunk(*early, theirs.copy())
            torch.testing.assert_close(optimized.sample_chunk(*early, mine.copy()), expected, **CLOSE)
        chunk = segment.part(first)
        torch.testing.assert_close(optimized.sample_chunk(*chunk, mine), flow.sample_chunk(*chunk, theirs), **CLOSE)


def test_what_the_memory_held_before_is_not_seen(flow: FlowDecoder) -> None:
    optimized, segment, loud = static(flow), Segment.random(flow, 2 * FULL + 4), Segment.random(flow, 5 * FULL, seed=1)
    before = segment.in_chunks(optimized)
    Segment(100 * loud.mu, 100 * loud.noise).in_chunks(optimized)
    assert torch.equal(segment.in_chunks(optimized), before)


def test_rows_are_single_runs(flow: FlowDecoder) -> None:
    """Segments with none, one and three chunks behind them, and a chunk that is not full; then each goes on alone."""
    optimized, row_positions = static(flow), (0, FULL, 3 * FULL)
    segments = [Segment.random(flow, 5 * FULL, seed) for seed in range(3)]
    expected = [flow.sample(segment.mu, segment.noise) for segment in segments]
    states = [segment.after(optimized, place) for segment, place in zip(segments, row_positions, strict=True)]
    early = segments[2].part(3 * FULL, 7)
    chunks = [
        Chunk(*each.part(place), state) for each, place, state in zip(segments, row_positions, states, strict=True)
    ]
    *mels, short = optimized.sample_rows([*chunks, Chunk(*early, states[2].copy())])
    for mel, whole, place in zip(mels, expected, row_positions, strict=True):
        torch.testing.assert_close(mel, whole[:, place : place + FULL], **CLOSE)
    torch.testing.assert_close(short, flow.sample_chunk(*early, segments[2].after(flow, 3 * FULL)), **CLOSE)
    for segment, whole, place, state in zip(segments, expected, row_positions, states, strict=True):
        mel = optimized.sample_chunk(*segment.part(place + FULL), state)
        torch.testing.assert_close(mel, whole[:, place + FULL : place + 2 * FULL], **CLOSE)


def test_replies_that_take_turns_do_not_touch_each_other(flow: FlowDecoder) -> None:
    """Also with early sound between, and with one that is never finished."""
    optimized, chance = static(flow), random.Random(0)
    segments = [Segment.random(flow, 4 * FULL, seed) for seed in range(3)]
    states, given = [optimized.init_state() for _ in segments], [[], [], []]  # type: ignore[var-annotated]
    turns = [0] * 4 + [1] * 4 + [2] * 2  # the third is abandoned half way
    chance.shuffle(turns)
    for row in turns:
        first = FULL * len(given[row])
        optimized.sample_chunk(*segments[row].part(first, chance.randrange(1, FULL)), states[row].copy())
        given[row].append(optimized.sample_chunk(*segments[row].part(first), states[row]))
    for segment, mels in zip(segments, given, strict=True):
        expected = flow.sample(segment.mu, segment.noise)[:, : FULL * len(mels)]
        torch.testing.assert_close(torch.cat(mels, dim=1), expected, **CLOSE)


def test_threads_share_a_batch_and_a_bad_chunk_is_its_own(flow: FlowDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    optimized, segments = static(flow), [Segment.random(flow, 3 * FULL, seed) for seed in range(3)]
    mels: dict[int, Tensor] = {}
    rows: list[int] = []
    solve = optimized._solve
    monkeypatch.setattr(optimized, "_solve", lambda chunks: rows.append(len(chunks)) or solve(chunks))

    def sample(row: int) -> None:
        mels[row] = segments[row].in_chunks(optimized)

    with optimized._solver:  # all wait, so the first of them finds the others' first chunks
        threads = [threading.Thread(target=sample, args=(row,)) for row in range(3)]
        for thread in threads:
            thread.start()
        while len(optimized._waiting) < 3:
            time.sleep(0.001)
        with pytest.raises(ValueError, match="at most"):
            optimized.sample_chunk(segments[0].mu, segments[0].noise, optimized.init_state())
    for thread in threads:
        thread.join()
    assert rows[0] == 3 and sum(rows) == 9
    for row, segment in enumerate(segments):
        torch.testing.assert_close(mels[row], flow.sample(segment.mu, segment.noise), **CLOSE)


def test_a_failing_batch_is_told_to_all_and_the_next_works(flow: FlowDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    optimized, segment = static(flow), Segment.random(flow, FULL, 0)
    with monkeypatch.context() as patch:
        patch.setattr(optimized, "_run", _out_of_memory)
        with pytest.raises(RuntimeError, match="no memory"):
            segment.in_chunks(optimized)
    assert not optimized._waiting
    torch.testing.assert_close(segment.in_chunks(optimized), flow.sample(segment.mu, segment.noise), **CLOSE)


def _out_of_memory(*_: object) -> None:
    raise RuntimeError("no memory")


def test_few_captures_and_memory_that_stays(flow: FlowDecoder) -> None:
    optimized, segment = static(flow), Segment.random(flow, 6 * FULL)
    segment.in_chunks(optimized)
    buckets = [(1, 0), (1, 1), (1, 2), (1, 4), (1, 8)]
    assert list(optimized._memories) == buckets and all(key in optimized.graphs for key in buckets)  # type: ignore[operator]

    def row_positions() -> list[int]:
        tensors = [each for memory in optimized._memories.values() for each in vars(memory).values()]
        return [each.data_ptr() for each in tensors if isinstance(each, Tensor)]

    before = row_positions()
    segment.in_chunks(optimized)
    optimized.sample_chunk(*segment.part(0, 3), optimized.init_state())
    for mode in (torch.inference_mode, torch.no_grad):  # the engine's and the pipeline's
        with mode():
            segment.in_chunks(optimized)
    assert row_positions() == before and list(optimized._memories) == buckets
    assert [bucket(count) for count in (0, 1, 2, 3, 4, 5, 9)] == [0, 1, 2, 4, 4, 8, 16]


def test_steps_are_the_configured_or_any_number(flow: FlowDecoder) -> None:
    optimized, segment = static(flow), Segment.random(flow, 2 * FULL + 5)
    for steps in (0, 1, 4, 2):
        chunks = torch.cat(list(optimized.sample_chunks(segment.mu, segment.noise, steps)), dim=1)
        torch.testing.assert_close(chunks, flow.sample(segment.mu, segment.noise, steps), **CLOSE)
    with pytest.raises(ValueError, match="same number of steps"):
        optimized.sample_rows([Chunk(*segment.part(0), optimized.init_state(steps)) for steps in (1, 2)])


def test_a_chunk_that_cannot_be_says_so(flow: FlowDecoder) -> None:
    segment = Segment.random(flow, 2 * FULL)
    for each in (flow, static(flow)):
        state = each.init_state()
        with pytest.raises(ValueError, match="at most 10 frames, not 11"):
            each.sample_chunk(*segment.part(0, FULL + 1), state)
        each.sample_chunk(*segment.part(0, FULL - 1), state)
        with pytest.raises(ValueError, match="ended"):
            each.sample_chunk(*segment.part(FULL), state)


class NoHostData(TorchFunctionMode):
    """Refuses tensors made of the host's numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor), func
        return func(*args, **(kwargs or {}))


class NoWaiting(TorchDispatchMode):
    """Refuses what waits for the device, and whatever lies elsewhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "is_pinned", "lift_fresh"), func
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves([args, kwargs, result]):
            assert not isinstance(each, Tensor) or each.is_meta, func
        return result


@pytest.mark.parametrize("key", [(1, 0), (2, 4)])
@torch.no_grad()
def test_a_captured_step_neither_waits_nor_asks_the_host(key: tuple[int, int]) -> None:
    """On a device that has no numbers, so that nothing can depend on one."""
    optimized = StaticFlow.from_flow(eager_flow("meta"))
    memory = StepMemory(optimized.conditional_decoder, *key)
    with NoHostData(), NoWaiting():
        optimized._run(memory)
    x = memory.x
    for harm in (lambda: x.new_tensor([1.0]), lambda: torch.tensor([1.0], device="meta"), x.cpu, x.sum().item):
        with pytest.raises((AssertionError, RuntimeError)), NoHostData(), NoWaiting():
            harm()


def test_a_stream_on_static_memory_gives_the_same_sound() -> None:
    """Early sound, full chunks, the end of a clause, and the next clause."""
    plain = small_model("hift")
    optimized = SimpleNamespace(tokenizer=plain.tokenizer, flow=static(plain.flow), vocoder=plain.vocoder)
    codes = torch.stack([torch.randint(size, (19,), generator=torch.Generator().manual_seed(0)) for size in SIZES])
    for early in ((0, 0), (3, 4)):
        mine, theirs = (SpeechStream(model, *early) for model in (optimized, plain))
        for first in (0, 5, 11):
            frames = codes[:, first : first + 6]
            torch.testing.assert_close(mine.push(frames), theirs.push(frames), rtol=0, atol=1e-4)
        torch.testing.assert_close(mine.end_segment(), theirs.end_segment(), rtol=0, atol=1e-4)
        torch.testing.assert_close(mine.push(codes), theirs.push(codes), rtol=0, atol=1e-4)
        torch.testing.assert_close(mine.finish(), theirs.finish(), rtol=0, atol=1e-4)


def test_only_a_model_on_cuda_that_solves_gets_it(plain: BaichuanAudio) -> None:
    fast = optimize_for_inference(plain)
    assert isinstance(fast.flow, StaticFlow) == plain.flow.prenet.out_proj.weight.is_cuda
    assert type(plain.flow) is FlowDecoder


@NEEDS_CUDA
def test_without_steps_the_flow_decoder_stays(model: BaichuanAudio) -> None:
    there = copy.deepcopy(model).to("cuda")
    there.flow.config = replace(there.flow.config, diffusion_steps=0)
    assert optimize_for_inference(there).flow is there.flow
