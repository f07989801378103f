"""Many sequences in one batch, against the session that writes one alone."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch

from baichuan_audio import BaichuanAudio, ReplySampling, Sampling
from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.acceleration.cuda.session import DecoderSessions
from baichuan_audio.acceleration.optimize import joined_copy
from baichuan_audio.engine.batch import Batch, BatchRow, DecoderBatch, batch_for
from baichuan_audio.engine.kv_slots import SlotCache, SlotTokens
from baichuan_audio.generation.reply import spoken_reply, text_reply
from baichuan_audio.generation.runner import ProgramRunner, ReplyProgram, run_to_end
from baichuan_audio.generation.sequence import Token, TokenSequence

LIMITS: dict[str, Any] = {"max_segments": 3, "max_segment_tokens": 4, "max_segment_frames": 5}
GREEDY = ReplySampling(**LIMITS).greedy()
HOT = ReplySampling(Sampling(1.0, 20, 0.9, 1.1), Sampling(0.9, 0, 0.9), Sampling(0.8, 8, 0.9, 1.3), **LIMITS)
NO_PENALTY = ReplySampling(Sampling(), Sampling(), Sampling(), **LIMITS)


@pytest.fixture(params=[False, True], ids=["rows", "together"])
def cache(model: BaichuanAudio, request: pytest.FixtureRequest) -> SlotCache:
    """Both ways in which attention treats rows of different lengths."""
    cache = SlotCache(model.language_model, 5, 200)
    cache.batched_attention = request.param
    return cache


def prompt(model: BaichuanAudio, number: int) -> list[Token]:
    """Prompts of different lengths, some with audio."""
    builder = model.prompt_builder().system("s" * number).user().text(f"question {number}, " * (1 + number % 3))
    if number % 2:
        codes = torch.randint(0, 16, (8, 3 + number), generator=torch.Generator().manual_seed(number))
        builder.audio(codes)
    built = builder.reply(spoken=True).build()
    return list(model.language_model.tokens(built.ids, built.codes))


def program(model: BaichuanAudio, sequence: TokenSequence, number: int, sampling: ReplySampling) -> ReplyProgram:
    if number % 4 == 3:
        return text_reply(sequence, model.text_tokenizer, sampling.first, 12)
    return spoken_reply(sequence, model.text_tokenizer, sampling)


def alone(model: BaichuanAudio, number: int, sampling: ReplySampling) -> list[Token]:
    """The whole sequence as the session writes it."""
    session = model.start([0], seed=number)
    session.truncate(0)
    session.extend(prompt(model, number))
    run_to_end(session, program(model, session, number, sampling))
    return session.tokens


class Rows:
    """Runs rows on a batch by hand."""

    def __init__(
        self, model: BaichuanAudio, cache: SlotCache, sampling: ReplySampling, kind: type[Batch | DecoderBatch] = Batch
    ) -> None:
        self.model, self.cache, self.sampling = model, cache, sampling
        self.batch = kind(model, cache)
        self.rows: dict[int, BatchRow] = {}
        self.free = list(range(cache.slots))
        self.written: dict[int, list[Token]] = {}

    def join(self, number: int, slot: int) -> None:
        language_model, tokens = self.model.language_model, prompt(self.model, number)
        sizes = language_model.codebook_sizes
        sequence = TokenSequence(
            self.model.special, language_model.config.vocab_size, sizes, Random(number), self.cache.store.device
        )
        sequence.extend(tokens)
        sequence.read = self.cache.prepare(slot, tokens)
        row = BatchRow(slot, sequence, ProgramRunner(program(self.model, sequence, number, self.sampling)))
        self.rows[number] = row
        self._send(row, None)

    def step(self, chosen: list[int], positions: int = 7) -> None:
        for row, answer in self.batch.step([self.rows[number] for number in chosen], positions):
            self._send(row, answer)

    def _send(self, row: BatchRow, answer: Any) -> None:
        for _ in row.runner.advance(answer):
            pass
        if row.runner.finished:
            number = next(number for number, each in self.rows.items() if each is row)
            self.written[number] = self.leave(number).sequence.tokens

    def leave(self, number: int) -> BatchRow:
        row = self.rows.pop(number)
        self.free.append(row.slot)
        return row


@pytest.mark.parametrize("sampling", [GREEDY, HOT, NO_PENALTY], ids=["greedy", "seeded", "no penalty"])
@torch.inference_mode()
def test_batched_equals_single_whoever_joins_and_leaves(
    model: BaichuanAudio, cache: SlotCache, sampling: ReplySampling
) -> None:
    _come_and_go(model, Rows(model, cache, sampling), sampling)


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "seeded"])
@torch.inference_mode()
def test_an_accelerated_model_says_the_same_in_a_batch(model: BaichuanAudio, sampling: ReplySampling) -> None:
    fast = optimize_for_inference(model)
    _come_and_go(model, Rows(fast, SlotCache(fast.language_model, 5, 200), sampling), sampling)


@pytest.fixture(scope="module")
def decoding(plain: BaichuanAudio) -> BaichuanAudio:
    """In the forms that a Decoder takes, and with sessions on one: what `optimize_for_inference` makes where there is
    CUDA."""
    return joined_copy(plain, DecoderSessions(rows=1, capacity=200))


@torch.inference_mode()
def test_a_decoder_under_the_batch_says_the_same(plain: BaichuanAudio, decoding: BaichuanAudio) -> None:
    """Greedy what any session writes; seeded what a session on a decoder does, whose chance is another."""
    for sampling, oracle in ((GREEDY, plain), (HOT, decoding)):
        cache = SlotCache(decoding.language_model, 5, 200)
        _come_and_go(oracle, Rows(decoding, cache, sampling, DecoderBatch), sampling)


@torch.inference_mode()
def test_slots_know_what_a_decoder_has_read(decoding: BaichuanAudio) -> None:
    """What follows reads on where it stopped, and in another slot a copy of it."""
    run = Rows(decoding, SlotCache(decoding.language_model, 2, 200), GREEDY, DecoderBatch)
    run.join(1, 0)
    run.join(2, 1)
    while run.rows:
        run.step(sorted(run.rows))
    cache, tokens = run.cache, [*run.written[1], 3]
    known = cache.length(0)
    assert len(tokens) - 5 <= known == cache.prepare(1, tokens)
    fresh = SlotCache(decoding.language_model, 1, 200).read([SlotTokens(0, tokens)])
    torch.testing.assert_close(cache.read([SlotTokens(1, tokens[known:])]), fresh, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cache.read([SlotTokens(0, tokens[known:])]), fresh, rtol=1e-4, atol=1e-5)


def test_an_accelerated_model_on_cuda_has_a_decoder(plain: BaichuanAudio) -> None:
    captured = plain.language_model.norm.weight.is_cuda
    fast = optimize_for_inference(plain)
    assert type(batch_for(fast, SlotCache(fast.language_model, 1, 20))) is (DecoderBatch if captured else Batch)
    assert type(batch_for(plain, SlotCache(plain.language_model, 1, 20))) is Batch


def _come_and_go(model: BaichuanAudio, run: Rows, sampling: ReplySampling) -> None:
    """What `run` writes, while replies begin and one is abandoned, is what a session of `model` writes of each."""
    random = Random(1)
    coming, left = list(range(9)), []
    while coming or run.rows:
        while coming and run.free and random.random() < 0.4:
            run.join(coming.pop(0), run.free.pop(random.randrange(len(run.free))))
        if len(run.rows) > 2 and not left:  # one leaves in the midst of its reply
            left.append(random.choice(sorted(run.rows)))
            run.leave(left[0]).runner.close()
        if run.rows:
            run.step([number for number in run.rows if random.random() < 0.8] or list(run.rows))
    assert len(run.written) == 8 and len(left) == 1
    for number, tokens in run.written.items():
        assert tokens == alone(model, number, sampling), number


@torch.inference_mode()
def test_known_beginnings_are_not_read_again(model: BaichuanAudio, cache: SlotCache) -> None:
    tokens = prompt(model, 5)
    first = cache.read([SlotTokens(0, tokens)])
    other = [*tokens[:9], 3, *tokens[9:]]
    assert cache.prepare(3, other) == 9  # copied from slot 0
    copied = cache.read([SlotTokens(3, other[9:])])
    fresh = SlotCache(model.language_model, 1, 200)
    torch.testing.assert_close(copied, fresh.read([SlotTokens(0, other)]), rtol=1e-4, atol=1e-5)
    assert cache.prepare(0, tokens) == len(tokens) - 1  # the last one gives the hidden state
    torch.testing.assert_close(cache.read([SlotTokens(0, tokens[-1:])]), first, rtol=1e-4, atol=1e-5)
    changed = [tuple(0 for _ in token) if isinstance(token, tuple) else token for token in tokens]
    assert cache.prepare(0, changed) == next(i for i, token in enumerate(tokens) if isinstance(token, tuple))


@torch.inference_mode()
def test_a_long_prompt_does_not_hold_up_the_others(model: BaichuanAudio, cache: SlotCache) -> None:
    run = Rows(model, cache, GREEDY)
    run.join(0, 0)
    while len(run.rows[0].sequence.unread) > 3:
        run.step([0])
    run.join(8, 1)
    pieces = -(-len(prompt(model, 8)) // 7)
    for _ in range(pieces - 1):
        before = len(run.rows[0].sequence)
        run.step([0, 8])
        assert len(run.rows[0].sequence) > before and run.rows[8].sequence.unread
    run.step([0, 8])
    assert len(run.rows[8].sequence) > len(prompt(model, 8))


@torch.inference_mode()
def test_a_slot_holds_no_more_than_it_can(model: BaichuanAudio, cache: SlotCache) -> None:
    with pytest.raises(ValueError, match="200"):
        cache.read([SlotTokens(0, [1] * 201)])
    assert cache.length(0) == 0
