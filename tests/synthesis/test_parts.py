"""What a stream is made of: cached decoder and prenet, noise, crossfader, statistics on the way."""

from __future__ import annotations

import functools
import random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from baichuan_audio.audio.waveform import crossfade
from baichuan_audio.audio_tokenizer.decoder import Upsampling
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.synthesis import Crossfader, SpeechStream
from baichuan_audio.synthesis.noise import segment_noise


@pytest.mark.parametrize("sizes", [[1] * 9, [9], [2, 7], [5, 1, 3]])
@torch.no_grad()
def test_decoder_and_prenet_run_on_from_their_caches(small: SimpleNamespace, sizes: list[int]):
    codes = torch.randint(8, (3, 9), generator=torch.Generator().manual_seed(0))
    embeddings = small.tokenizer.dequantize(codes)
    hidden = small.tokenizer.decoder_hidden(embeddings)
    state, cache = small.tokenizer.decoder.init_state(), small.flow.prenet.init_cache()
    parts = [small.tokenizer.decoder.stream(part[None], state) for part in embeddings.split(sizes)]
    torch.testing.assert_close(torch.cat(parts, dim=1)[0], hidden, rtol=0, atol=1e-5)
    mus = [small.flow.prenet(part, cache) for part in parts]
    torch.testing.assert_close(torch.cat(mus, dim=1)[0], small.flow.prenet(hidden), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 4, 6, 9])
@torch.no_grad()
def test_upsampling_in_pieces(kernel: int):
    torch.manual_seed(0)
    layer = Upsampling(6, 5, kernel, 4, segment_norm=False)
    x = torch.randn(2, 6, 8)
    state = layer.init_state(2)
    parts = [layer.stream(part, state) for part in x.split([1, 3, 1, 2, 1], dim=2)]
    torch.testing.assert_close(torch.cat(parts, dim=2), layer(x), rtol=0, atol=1e-5)
    # normalised over the segment: what comes at once knows all of it
    layer.segment_norm = True
    torch.testing.assert_close(layer.stream(x, layer.init_state(2)), layer(x), rtol=0, atol=1e-5)


def test_codes_needed_for_frames(small: SimpleNamespace):
    needed = small.tokenizer.decoder.codes_needed
    assert [needed(frames) for frames in (1, 3, 4, 7, 8, 24, 100)] == [1, 1, 2, 2, 3, 7, 26]


def test_longer_noise_begins_with_the_shorter():
    long = segment_noise(1500, 80)
    assert long.shape == (1500, 80) and abs(float(long.std()) - 1) < 0.02
    for frames in (1, 87, 512, 513):
        assert torch.equal(segment_noise(frames, 80), long[:frames])
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(long, torch.randn(1500, 80, generator=generator))
    assert torch.equal(segment_noise(700, 7)[:600], segment_noise(600, 7))


@pytest.mark.parametrize("seed", range(6))
def test_joiner_is_the_cross_fade_from_segment_to_segment(seed: int):
    rng = random.Random(seed)
    lengths = [rng.choice((0, 3, 100, 240, 241, 700, 2000)) for _ in range(6)]
    segments = [torch.randn(length, generator=torch.Generator().manual_seed(i)) for i, length in enumerate(lengths)]
    crossfader, given = Crossfader(24000), []
    for segment in segments:
        while len(segment):
            count = rng.choice((1, 50, 240, 1000))
            given.append(crossfader.push(segment[:count]))
            segment = segment[count:]
        given.append(crossfader.end_segment())
    given.append(crossfader.flush())
    wanted: Tensor = _joined([segment for segment in segments if len(segment)])
    torch.testing.assert_close(torch.cat(given), wanted)
    assert not len(crossfader.flush())


def _joined(segments: list[Tensor]) -> Tensor:
    """As offline: all but the last 10 ms of what has been joined is settled when the next segment comes."""
    settled, held = [torch.zeros(0)], torch.zeros(0)
    for segment in segments:
        held = crossfade(held, segment, 240)
        settled.append(held[: max(0, len(held) - 240)])
        held = held[max(0, len(held) - 240) :]
    return functools.reduce(lambda a, b: torch.cat([a, b]), [*settled, held])


@torch.no_grad()
def test_segment_norm_on_the_way_stays_near_the_offline_result(model: BaichuanAudio, cases: dict[str, Tensor]):
    """The released decoder normalises over the whole segment; a stream takes the statistics it has (golden weights)."""
    codes = cases["long_codes"].T[:, :60]
    hidden = model.tokenizer.decoder_hidden(model.tokenizer.dequantize(codes))
    wanted = model.flow.sample(model.flow.prenet(hidden), segment_noise(len(hidden), 80).T)
    fed: list[Tensor] = []
    stream = SpeechStream(_heard(model, fed), 0, 0)  # type: ignore[arg-type]
    for code in codes.split(1, dim=1):
        stream.push(code)
    stream.finish()
    mel = torch.cat(fed, dim=-1)[0]
    assert mel.shape == wanted.shape
    assert (mel - wanted).abs().mean() < 0.02  # 0.17 dB; another draw of noise changes it by 10 dB


def _heard(model: BaichuanAudio, fed: list[Tensor]) -> SimpleNamespace:
    vocoder = model.vocoder

    def stream(mel: Tensor, state: object, last: bool = False) -> Tensor:
        fed.append(mel)
        return mel.new_zeros(1, 0)

    quiet = SimpleNamespace(sample_rate=24000, init_state=vocoder.init_state, stream=stream)
    return SimpleNamespace(tokenizer=model.tokenizer, flow=model.flow, vocoder=quiet)
