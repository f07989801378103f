"""Batched steps in static memory against the obvious path, with the same chance; as graphs where there is CUDA."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from baichuan_audio.acceleration.cuda.compiled_blocks import CompiledBlocks, flex_over
from baichuan_audio.acceleration.cuda.decoder import Decoder, RowRequest
from baichuan_audio.acceleration.cuda.sampling import (
    SamplingTensors,
    sample_on_device,
    sampling_row,
    top_k_limit,
    uniform,
    uniforms,
)
from baichuan_audio.acceleration.cuda.session import DecoderSessions
from baichuan_audio.errors import PromptError
from baichuan_audio.generation.sequence import DecodeRequest, DecodeResult, FrameRequest, TextRequest
from baichuan_audio.generation.session import Session
from baichuan_audio.language_model.backbone import attend_to
from baichuan_audio.language_model.sampling import Sampling, draw
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.reference import ReferenceSession

from .conftest import FakeGraphs

GREEDY = Sampling()
SAMPLINGS = [
    GREEDY,
    Sampling(0.8, 20, 0.85, 1.1),
    Sampling(1.0),
    Sampling(2.0, 5, 1.0, 1.3),
    Sampling(0.7, 1000, 0.5),
    Sampling(0.0, 3, 0.9, 1.2),
]


class CountedChance(random.Random):
    """The numbers that the device draws with, for the host."""

    def __init__(self, seed: int | None) -> None:
        super().__init__(seed)
        self.key, self.step, self.place = random.Random(seed).getrandbits(62), -1, 0

    def random(self) -> float:
        self.place += 1
        return uniform(self.key, self.step, self.place - 1)


class CountedSession(ReferenceSession):
    """The obvious path, with chance counted by steps as a Decoder counts it."""

    def decode(self, request: DecodeRequest) -> DecodeResult:
        if not isinstance(self.random, CountedChance):
            self.random = CountedChance(self._seed)
        self.random.step, self.random.place = self.random.step + 1, 0
        return super().decode(request)

    def __init__(self, model: BaichuanAudio, seed: int) -> None:
        super().__init__(model.language_model, model.audio_head, model.special, seed)
        self._seed = seed


def test_counted_chance_is_even_and_the_same_on_the_device() -> None:
    seeds = torch.tensor([0, 1, 2**62 - 1, 123456789])
    steps = torch.tensor([0, 7, 99, 2**20])
    drawn = uniforms(seeds, steps, 8)
    expected = [[uniform(int(s), int(t), place) for place in range(8)] for s, t in zip(seeds, steps, strict=True)]
    assert drawn.tolist() == expected
    many = uniforms(torch.full((4000,), 5), torch.arange(4000), 8)
    assert abs(float(many.mean()) - 0.5) < 0.01 and float(many.min()) >= 0 and float(many.max()) < 1
    assert many.unique().numel() == many.numel()
    assert torch.histc(many.float(), 10, 0, 1).std() < 100


def test_draws_what_the_host_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(SAMPLINGS), 300, generator=generator) * 3
    said = torch.rand(logits.shape, generator=generator) < 0.3
    settings = SamplingTensors(
        *torch.tensor([sampling_row(each) for each in SAMPLINGS], dtype=torch.float64).split(1, dim=1)
    )
    for trial in range(50):
        chance = uniforms(torch.arange(len(SAMPLINGS)), torch.full((len(SAMPLINGS),), trial), 1)[:, 0]
        drawn = sample_on_device(logits, settings, chance, top_k_limit(SAMPLINGS, 300), said)
        for row, sampling in enumerate(SAMPLINGS):
            source = random.Random()
            source.random = chance[row].item  # type: ignore[method-assign]
            assert int(drawn[row]) == draw(logits[row], sampling, source, said[row]), (trial, sampling)


def test_few_are_sorted_where_few_are_asked_for() -> None:
    assert top_k_limit([GREEDY, Sampling(1.0, 20)], 1000) == 64
    assert top_k_limit([GREEDY, Sampling(1.0)], 1000) == 1000
    assert top_k_limit([Sampling(1.0, 20)], 30) == 30


@torch.inference_mode()
def test_flex_attention_is_the_masked_one() -> None:
    query, keys, values = torch.randn(3, 6, 1, 16), torch.randn(3, 2, 64, 16), torch.randn(3, 2, 64, 16)
    positions = torch.tensor([0, 17, 63])
    mask = (torch.arange(64) <= positions[:, None])[:, None, None]
    expected = attend_to(query, keys, values, mask)
    torch.testing.assert_close(flex_over(query, keys, values, positions), expected, rtol=1e-4, atol=1e-5)


def _prompt(row: int) -> list[int]:
    return [5 + row, 6, 7, *range(20, 22 + 3 * row)]


@pytest.mark.parametrize(
    "text, codes, captured",
    [
        (GREEDY, GREEDY, False),
        (SAMPLINGS[1], SAMPLINGS[3], False),
        (SAMPLINGS[1], SAMPLINGS[3], True),
        (SAMPLINGS[2], SAMPLINGS[2], False),
    ],
)
def test_rows_write_what_the_obvious_path_writes(
    plain: BaichuanAudio, steps: BaichuanAudio, text: Sampling, codes: Sampling, captured: bool
) -> None:
    """Three rows that begin one after another, text and frames mixed in one step, one row resting now and then."""
    decoder = Decoder(steps.language_model, steps.audio_head, rows=3, capacity=100)
    if captured and decoder.graphs is None:
        decoder.graphs = FakeGraphs()  # type: ignore[assignment]
    pad, start = plain.special.audio_pad, plain.special.audiogen_start
    mine = [Session(steps.language_model, steps.audio_head, steps.special, seed) for seed in range(3)]
    theirs = [CountedSession(plain, seed) for seed in range(3)]
    for row, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        one.extend(_prompt(row))
        other.extend(_prompt(row))

    def advance(turn: int) -> None:
        rows = [row for row in range(3) if turn >= row and (turn + row) % 4]
        wanted: list[DecodeRequest] = [
            TextRequest(text) if (turn + row) % 8 < 4 else FrameRequest(codes) for row in rows
        ]
        for row, step in zip(rows, wanted, strict=True):
            for each in (mine[row], theirs[row]):
                if isinstance(step, FrameRequest) and each.last not in (pad, start):
                    each.begin_segment()
            decoder.read(row, mine[row])
        requests = [RowRequest(row, mine[row], step) for row, step in zip(rows, wanted, strict=True)]
        for row, step, answer in zip(rows, wanted, decoder.decode(requests), strict=True):
            assert answer == theirs[row].decode(step), (turn, row)
            for each in (mine[row], theirs[row]):
                each.append(plain.special.audiogen_end if answer is None else answer)  # type: ignore[arg-type]

    for turn in range(14):
        advance(turn)
    for one, other in zip(mine, theirs, strict=True):
        assert one.tokens == other.tokens and torch.equal(one.token_counts, other.token_counts)


@pytest.mark.parametrize("capacity", [60, 4000])
def test_a_session_on_a_decoder_speaks_like_the_obvious_one(
    plain: BaichuanAudio, steps: BaichuanAudio, capacity: int
) -> None:
    make = DecoderSessions(rows=1, capacity=capacity)
    session = make(steps.language_model, steps.audio_head, steps.special, seed=4)
    oracle = CountedSession(plain, seed=4)
    results: list[tuple[list[int], Tensor]] = []
    for each in (session, oracle):
        each.extend(list(range(3, 20)))
        each.write_text(3, SAMPLINGS[1])
        written = each.write_codes(4, SAMPLINGS[3])
        each.extend([9, 10])
        each.append(11)
        each.pop()
        each.write_text(2, SAMPLINGS[1])
        results.append((each.ids, written))
    assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1])
    other = make(steps.language_model, steps.audio_head, steps.special)
    assert type(other) is Session  # the decoder is full
    del session, each
    assert type(make(steps.language_model, steps.audio_head, steps.special)) is not Session


def test_a_compiler_makes_each_region_once_for_all_layers(plain: BaichuanAudio, steps: BaichuanAudio) -> None:
    """Traced without a break; another layer or position is no reason to trace again."""
    from torch._dynamo.testing import CompileCounter

    counters = {name: CompileCounter() for name in ("layer", "depth", "project", "draw")}
    compiled = {
        name: torch.compile(getattr(CompiledBlocks, name), fullgraph=True, backend=counter)
        for name, counter in counters.items()
    }
    torch._dynamo.reset()
    decoder = Decoder(steps.language_model, steps.audio_head, rows=1, capacity=100)
    decoder._blocks = CompiledBlocks(**compiled)
    session = Session(steps.language_model, steps.audio_head, steps.special, 0)
    oracle = CountedSession(plain, 0)
    for each in (session, oracle):
        each.extend([5, 6, 7])
        each.begin_segment()
    for _ in range(3):
        decoder.read(0, session)
        frame = decoder.decode([RowRequest(0, session, FrameRequest(SAMPLINGS[3]))])[0]
        assert frame == oracle.decode(FrameRequest(SAMPLINGS[3]))
        for each in (session, oracle):
            each.append(frame)  # type: ignore[arg-type]
    assert counters["layer"].frame_count == counters["depth"].frame_count == 1
    sizes = len(set(steps.audio_head.codebook_sizes)) + 1  # the first has an end mark
    assert counters["project"].frame_count <= sizes and counters["draw"].frame_count <= sizes
    torch._dynamo.reset()


def test_an_audio_segment_ends_only_where_it_may(steps: BaichuanAudio) -> None:
    decoder = Decoder(steps.language_model, steps.audio_head, 2, 60)
    never = ended = 0
    for seed in range(12):
        sessions = [Session(steps.language_model, steps.audio_head, steps.special, seed) for _ in range(2)]
        for session in sessions:
            session.extend([5, 6, 7])
            session.begin_segment()
        decoder._bindings = [None, None]
        for row, session in enumerate(sessions):
            decoder.read(row, session)
        requests = [RowRequest(row, session, FrameRequest(_HOT, bool(row))) for row, session in enumerate(sessions)]
        for _ in range(20):
            first, second = decoder.decode(requests)
            never += first is None
            ended += second is None
    kinds = (Session, ReferenceSession)
    plain = [kind(steps.language_model, steps.audio_head, steps.special, 0) for kind in kinds]
    for session in plain:
        session.extend([5, 6, 7])
        session.begin_segment()
        never += sum(session.decode(FrameRequest(_HOT, False)) is None for _ in range(200))
        assert any(session.decode(FrameRequest(_HOT)) is None for _ in range(400))
    assert never == 0 and ended > 0


_HOT = Sampling(temperature=50.0)


def test_a_row_that_is_too_short_says_so(steps: BaichuanAudio) -> None:
    session = DecoderSessions(rows=1, capacity=60)(steps.language_model, steps.audio_head, steps.special)
    with pytest.raises(PromptError, match="the sequence is empty"):
        session.decode(TextRequest(GREEDY))
    with pytest.raises(PromptError, match="row holds"):
        session.prefill([5] * 100)


def test_a_sequence_that_leaves_its_row_keeps_its_memory(steps: BaichuanAudio) -> None:
    decoder = Decoder(steps.language_model, steps.audio_head, rows=1, capacity=60)
    first, second = (Session(steps.language_model, steps.audio_head, steps.special, seed) for seed in range(2))
    step = FrameRequest(SAMPLINGS[3])
    for each in (first, second):
        each.extend([5, 6, 7])
        each.begin_segment()
        decoder.read(0, each)
        answer = decoder.decode([RowRequest(0, each, step)])[0]
        each.append(answer)  # type: ignore[arg-type]
    assert int(first.token_counts.sum()) == len(first) and int(second.token_counts.sum()) == len(second)
    frame = first.tokens[-1]
    assert isinstance(frame, tuple) and all(bool(first.seen_codes(i)[code]) for i, code in enumerate(frame))
