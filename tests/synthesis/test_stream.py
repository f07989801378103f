"""Streams of codes: the offline result, whatever the pushes; seams without a click; owned state; linear cost."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from baichuan_audio.audio.mel import natural_log_mel
from baichuan_audio.audio.waveform import crossfade
from baichuan_audio.errors import AudioError
from baichuan_audio.synthesis import SpeechStream
from baichuan_audio.synthesis.noise import segment_noise
from baichuan_audio.vocoder import hift_stream
from baichuan_audio.vocoder.hift import Hift

OVERLAP = 240


def offline(model: SimpleNamespace, clauses: list[Tensor]) -> Tensor:
    waveforms = [model.tokenizer.decode(codes) for codes in clauses]
    return functools.reduce(lambda first, second: crossfade(first, second, OVERLAP), waveforms)


def pushes(stream: SpeechStream, clauses: list[Tensor], rng: random.Random | None = None) -> Iterator[Tensor]:
    """What a stream gives at each call, codes pushed one by one or in random portions."""
    for codes in clauses:
        while codes.shape[1]:
            count = rng.choice((0, 1, 1, 2, 3, 7, 30)) if rng else 1
            yield stream.push(codes[:, :count])
            codes = codes[:, count:]
        yield stream.end_segment()
    yield stream.finish()


def streamed(stream: SpeechStream, clauses: list[Tensor], rng: random.Random | None = None) -> Tensor:
    return torch.cat(list(pushes(stream, clauses, rng)))


def relative(given: Tensor, wanted: Tensor) -> float:
    assert given.shape == wanted.shape
    return float((given - wanted).norm() / wanted.norm())


@pytest.fixture
def exact(small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """With HiFT's look-ahead as long as its reach, so that nothing stands between stream and offline result."""
    if isinstance(small.vocoder, Hift):
        look = hift_stream.reach(small.vocoder.config) + hift_stream.F0_FRAMES
        monkeypatch.setattr(hift_stream, "LOOKAHEAD_FRAMES", look)
    return small


def test_full_chunks_give_the_offline_result(exact: SimpleNamespace, clauses: list[Tensor]):
    wanted = offline(exact, clauses)
    for rng in (None, random.Random(1), random.Random(2)):
        given = streamed(SpeechStream(exact, 0, 0), clauses, rng)
        if isinstance(exact.vocoder, Hift):
            torch.testing.assert_close(given, wanted, rtol=0, atol=1e-4)
        else:  # where Vocos sums F0 to a phase, the rounding of other sizes of matrix products adds up
            assert relative(given, wanted) < 1e-2


def test_full_chunks_have_the_offline_mel(small: SimpleNamespace, clauses: list[Tensor]):
    codes = clauses[1][:, :25]
    hidden = small.tokenizer.decoder_hidden(small.tokenizer.dequantize(codes))
    with torch.no_grad():
        wanted = small.flow.sample(small.flow.prenet(hidden), segment_noise(len(hidden), 80).T)
    for rng in (None, random.Random(1), random.Random(2)):
        fed: list[Tensor] = []
        list(pushes(SpeechStream(_listening(small, fed), 0, 0), [codes], rng))
        torch.testing.assert_close(torch.cat(fed, dim=-1)[0], wanted, rtol=0, atol=1e-4)


def test_usual_lookahead_is_near_the_offline_result(small: SimpleNamespace, clauses: list[Tensor]):
    assert relative(streamed(SpeechStream(small, 0, 0), clauses), offline(small, clauses)) < 1e-2


def test_early_sound_does_not_depend_on_the_pushes(small: SimpleNamespace, clauses: list[Tensor]):
    one_by_one = streamed(SpeechStream(small, 3, 5), clauses)
    for seed in range(1):
        assert torch.equal(streamed(SpeechStream(small, 3, 5), clauses, random.Random(seed)), one_by_one)
    assert one_by_one.shape == offline(small, clauses).shape


def test_early_sound_comes_early_and_changes_nothing_later(small: SimpleNamespace, clauses: list[Tensor]):
    codes = clauses[0]
    mels: dict[int, list[Tensor]] = {0: [], 4: []}
    for first, fed in mels.items():
        given = list(pushes(SpeechStream(_listening(small, fed), first, 0), [codes]))
        sounding = next(i for i, waveform in enumerate(given, 1) if len(waveform))
        assert sounding == (first or 7)
    early, full = torch.cat(mels[4], dim=-1)[0], torch.cat(mels[0], dim=-1)[0]
    assert mels[4][0].shape[-1] == 15 and not torch.allclose(early[:, :15], full[:, :15], atol=1e-3)
    torch.testing.assert_close(early[:, 15:], full[:, 15:], rtol=0, atol=1e-4)


def _listening(model: SimpleNamespace, fed: list[Tensor]) -> SimpleNamespace:
    return SimpleNamespace(tokenizer=model.tokenizer, flow=model.flow, vocoder=_Listener(model.vocoder, fed))


class _Listener:
    """A vocoder that notes what it is fed."""

    sample_rate = 24000

    def __init__(self, vocoder: torch.nn.Module, fed: list[Tensor]) -> None:
        self.init_state, self._stream, self._fed = vocoder.init_state, vocoder.stream, fed

    def stream(self, mel: Tensor, state: object, last: bool = False) -> Tensor:
        if mel.shape[-1]:
            self._fed.append(mel)
        return self._stream(mel, state, last)


@pytest.mark.parametrize("settings", [(0, 0), (2, 4), (4, 16)])
def test_no_click_at_a_seam(small: SimpleNamespace, clauses: list[Tensor], settings: tuple[int, int]):
    pieces = [piece for piece in pushes(SpeechStream(small, *settings), clauses) if len(piece)]
    waveform = torch.cat(pieces)
    seams = torch.tensor([len(piece) for piece in pieces[:-1]]).cumsum(0)
    near = (torch.arange(len(waveform)) - seams[:, None]).abs().amin(dim=0) < 24
    bend, usual = (each.diff(n=2).abs() for each in (waveform, offline(small, clauses)))
    assert bend[near[1:-1]].mean() < 1.2 * usual[near[1:-1]].mean()
    assert bend[near[1:-1]].max() < 1.2 * usual.max()
    steps, usual = (
        natural_log_mel(each[None])[0].diff(dim=1).abs().mean(dim=0) for each in (waveform, offline(small, clauses))
    )
    across = (seams[:, None] // 480 + torch.arange(-2, 2)).clamp(0, len(steps) - 1)
    assert steps[across].mean() < 1.1 * usual[across].mean()


def test_a_stream_without_codes(small: SimpleNamespace, clauses: list[Tensor]):
    stream = SpeechStream(small)
    empty = clauses[0][:, :0]
    parts = [stream.finish(), stream.end_segment(), stream.push(empty), stream.end_segment(), stream.finish()]
    assert all(part.shape == (0,) for part in parts)
    first = streamed(stream, clauses)
    assert torch.equal(streamed(stream, clauses), first)  # finished, it is as new


def test_bad_codes_are_refused_and_harm_nothing(small: SimpleNamespace, clauses: list[Tensor]):
    stream = SpeechStream(small)
    given = [stream.push(clauses[0][:, :9])]
    for bad in (clauses[0][:2], clauses[0][:, 0], clauses[0] + 100, clauses[0].float()):
        with pytest.raises(AudioError):
            stream.push(bad)
    given += [stream.push(clauses[0][:, 9:]), stream.finish()]
    assert torch.equal(torch.cat(given), streamed(SpeechStream(small), clauses[:1]))
    with pytest.raises(ValueError, match="code frames"):
        SpeechStream(small, -1)


def test_interleaved_streams_do_not_touch_each_other(small: SimpleNamespace, clauses: list[Tensor]):
    orders = [clauses[:1], clauses[2:0:-1]]
    alone = [streamed(SpeechStream(small), order) for order in orders]
    running = [pushes(SpeechStream(small), order) for order in orders]
    given: list[list[Tensor]] = [[], []]
    rng = random.Random(0)
    while running[0] or running[1]:
        which = rng.choice([i for i in (0, 1) if running[i]])
        piece = next(running[which], None)
        if piece is None:
            running[which] = None  # type: ignore[call-overload]
        else:
            given[which].append(piece)
    for pieces, wanted in zip(given, alone, strict=True):
        assert torch.equal(torch.cat(pieces), wanted)


def test_work_grows_with_the_length_only(small: SimpleNamespace, clauses: list[Tensor], monkeypatch):
    seen: list[int] = []
    velocity, stream = small.flow.conditional_decoder, small.vocoder.stream
    hook = velocity.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    monkeypatch.setattr(small.vocoder, "stream", lambda mel, *rest: seen.append(mel.shape[-1]) or stream(mel, *rest))
    costs = []
    for length in (12, 24):
        seen.clear()
        list(pushes(SpeechStream(small), [clauses[1][:, :length]]))
        costs.append(sum(seen))
    hook.remove()
    assert costs[1] < 2.1 * costs[0]
