"""Frames sampled in C against the same steps sampled in Python."""

from __future__ import annotations

import copy
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.acceleration.cpu import kernels
from baichuan_audio.acceleration.cpu.layers import FusedAudioHead
from baichuan_audio.acceleration.cpu.model import NativeAudioHead, NativeLanguageModel
from baichuan_audio.language_model.model import LanguageModel
from baichuan_audio.language_model.sampling import CodeSampler, Sampling, TextSampler, _largest
from baichuan_audio.model import BaichuanAudio

SAMPLINGS = [
    Sampling(),
    Sampling(1.5, 8, 0.9),
    Sampling(0.7, 3, 1.0, 1.3),
    Sampling(2.0, 64, 0.5),
    Sampling(repetition_penalty=1.7),
    Sampling(1.0, 1, 1.0),
]


@pytest.fixture(scope="module", params=[None, "int8"])
def optimized(request: pytest.FixtureRequest, model: BaichuanAudio) -> BaichuanAudio:
    """With audio that ends often."""
    if kernels.library() is None:
        pytest.skip("there is no C compiler")
    changed = copy.deepcopy(model)
    projection = changed.audio_head.heads[0]
    assert isinstance(projection, nn.Linear)
    with torch.no_grad():
        projection.bias[-1] += 2.0
    return optimize_for_inference(changed, request.param)


@pytest.fixture(scope="module")
def head(optimized: BaichuanAudio) -> NativeAudioHead:
    assert isinstance(optimized.audio_head, NativeAudioHead)
    return optimized.audio_head


def _samplers(head: NativeAudioHead, samplings: list[Sampling], seed: int) -> list[CodeSampler]:
    """Two alike, which share nothing."""
    may_end = [bool((seed + row) % 3) for row in range(len(samplings))]
    result = []
    for _ in range(2):
        masks = [
            [torch.zeros(size + (level == 0), dtype=torch.bool) for level, size in enumerate(head.codebook_sizes)]
            for _ in samplings
        ]

        def seen(row: int, level: int, masks: list[list[Tensor]] = masks) -> Tensor:
            return masks[row][level]

        result.append(CodeSampler(samplings, [Random(seed + row) for row in range(len(samplings))], may_end, seen))
    return result


@pytest.mark.parametrize("rows", [1, 4])
def test_frames_are_those_sampled_in_python(head: NativeAudioHead, rows: int) -> None:
    """Several frames of a segment, so that penalties and random numbers go on; a row may end."""
    ended = 0
    for seed in range(6):
        samplings = [SAMPLINGS[(seed + row) % len(SAMPLINGS)] for row in range(rows)]
        mine, theirs = _samplers(head, samplings, seed)
        caches = head.init_cache(), head.init_cache()
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):
            hidden = torch.randn(rows, head.width, generator=generator) * 3
            frames, sums = head.frames(hidden, caches[0], mine)
            expected, expected_sums = FusedAudioHead.frames(head, hidden, caches[1], theirs)
            assert frames == expected
            torch.testing.assert_close(sums, expected_sums)
            ended += frames.count(None)
        assert [random.random() for random in mine.randoms] == [random.random() for random in theirs.randoms]
        for row in range(rows):
            for level in range(head.num_codebooks):
                assert torch.equal(mine.seen(row, level), theirs.seen(row, level))
    assert ended


def test_text_ids_are_those_sampled_in_python(optimized: BaichuanAudio) -> None:
    language_model, rows, generator = optimized.language_model, 3, torch.Generator().manual_seed(0)
    assert isinstance(language_model, NativeLanguageModel)
    size = language_model.config.vocab_size
    for seed in range(20):
        samplings = [SAMPLINGS[(seed + row) % len(SAMPLINGS)] for row in range(rows)]
        counts = [torch.randint(0, 2, (size,), dtype=torch.int32, generator=generator) for _ in range(rows)]
        banned = [torch.rand(size, generator=generator) < 0.2 for _ in range(rows)]
        hidden = torch.randn(rows, language_model.config.hidden_size, generator=generator)
        randoms = [[Random(seed + row) for row in range(rows)] for _ in range(2)]
        mine, theirs = (TextSampler(samplings, some, counts, banned) for some in randoms)
        ids = language_model.sample_ids(hidden, mine)
        assert ids == LanguageModel.sample_ids(language_model, hidden, theirs)
        assert not any(bool(mask[id]) for mask, id in zip(banned, ids, strict=True))
        assert [random.random() for random in randoms[0]] == [random.random() for random in randoms[1]]


def test_many_entries_are_sampled_by_tensors(head: NativeAudioHead) -> None:
    samplers = _samplers(head, [Sampling(1.0)], 0)
    hidden = torch.randn(1, head.width)
    frames = [
        kind.frames(head, hidden, head.init_cache(), sampler)[0]
        for kind, sampler in zip((NativeAudioHead, FusedAudioHead), samplers, strict=True)
    ]
    assert frames[0] == frames[1]


@pytest.mark.parametrize("size", [5, 63, 5000])
def test_largest_entries(size: int) -> None:
    row = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    row[: size // 2] = -np.inf
    for limit in (1, 2, 20):
        count = min(limit, size)
        assert row[_largest(row, count)].tolist() == np.sort(row)[::-1][:count].tolist()
