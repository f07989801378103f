"""Each fast path against its slow, obvious twin, on a random model whose sizes are all unlike the golden one's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from baichuan_audio.errors import ConfigError, PromptError
from baichuan_audio.generation.session import Session
from baichuan_audio.language_model.audio_head import AudioHead
from baichuan_audio.language_model.model import LanguageModel
from baichuan_audio.language_model.prompt import SpecialTokens
from baichuan_audio.language_model.sampling import Sampling

SIZES = (24, 12, 7)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def other_config(config: dict[str, Any]) -> dict[str, Any]:
    other = copy.deepcopy(config)
    other |= {"hidden_size": 128, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16}
    other |= {"num_hidden_layers": 3, "intermediate_size": 96, "rms_norm_eps": 1e-5, "rope_theta": 5000.0}
    other["audio_config"]["audio_head_transformer_layers"] = 2
    other["audio_config"]["vq_config"]["codebook_sizes"] = list(SIZES)
    return other


@pytest.fixture(scope="module")
def parts(other_config: dict[str, Any]) -> tuple[LanguageModel, AudioHead]:
    torch.manual_seed(0)
    model, head = LanguageModel.from_config(other_config), AudioHead.from_config(other_config)
    head.attach_embeddings(model.audio_embed_layers)
    with torch.no_grad():
        for parameter in [*model.parameters(), *head.parameters()]:
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return model.eval(), head.eval()


def _frames(count: int) -> Tensor:
    return torch.stack([torch.randint(0, size, (count,)) for size in SIZES])


@torch.inference_mode()
def test_cached_head_equals_recomputed_and_training_form(parts: tuple[LanguageModel, AudioHead]) -> None:
    head = parts[1]
    hidden, codes = torch.randn(1, 128), _frames(1).T
    training = head.logits(hidden, codes)
    seen: list[Tensor] = []

    def follow(level: int, logits: Tensor) -> int:
        seen.append(logits)
        return int(codes[0, level])

    cache = head.init_cache()
    head.frame(torch.randn(1, 128), cache, lambda level, logits: 0)  # what an earlier frame left behind
    result = head.frame(hidden, cache, follow)
    assert result is not None and result[0] == codes[0].tolist()
    torch.testing.assert_close(result[1], parts[0].embed_frames(codes.T), **CLOSE)
    for level, size in enumerate(SIZES):
        recomputed = head.logits_at(hidden, codes[:, :level])
        assert recomputed.shape == (1, size + 1)
        torch.testing.assert_close(training[level], recomputed, **CLOSE)
        torch.testing.assert_close(seen[level], recomputed[0, : seen[level].shape[0]], **CLOSE)
    assert seen[0].shape[0] == SIZES[0] + 1 and seen[1].shape[0] == SIZES[1]


@torch.inference_mode()
def test_head_rows_equal_single_ones(parts: tuple[LanguageModel, AudioHead]) -> None:
    hidden, codes = torch.randn(4, 128), _frames(4).T
    together = parts[1].logits(hidden, codes)
    for row in range(4):
        for one, many in zip(parts[1].logits(hidden[row : row + 1], codes[row : row + 1]), together, strict=True):
            torch.testing.assert_close(one[0], many[row], **CLOSE)


def test_head_end_mark(parts: tuple[LanguageModel, AudioHead]) -> None:
    head = parts[1]
    assert head.frame(torch.randn(1, 128), head.init_cache(), lambda level, logits: SIZES[0]) is None


@torch.inference_mode()
def test_batched_rows_equal_single_ones(parts: tuple[LanguageModel, AudioHead]) -> None:
    model = parts[0]
    pad = model.audio_pad_id
    rows = [torch.tensor([5, 6, pad, pad, 7]), torch.tensor([pad, 9, 10])]
    codes = _frames(3)
    padded = torch.full((2, 5), 3)
    padded[0], padded[1, :3] = rows[0], rows[1]
    hidden, logits = model(padded, codes)
    for row, (ids, own) in enumerate(zip(rows, (codes[:, :2], codes[:, 2:]), strict=True)):
        single_hidden, single_logits = model(ids[None], own)
        torch.testing.assert_close(hidden[row, : len(ids)], single_hidden[0], **CLOSE)
        torch.testing.assert_close(logits[row, : len(ids)], single_logits[0], **CLOSE)


@torch.inference_mode()
def test_any_chunks_through_the_cache_equal_one_pass(parts: tuple[LanguageModel, AudioHead]) -> None:
    model = parts[0]
    x = torch.randn(2, 300, 128)
    whole = model.hidden(x)
    cache = model.init_cache(batch=2, capacity=4)
    chunks = [model.hidden(chunk, cache) for chunk in x.split([1, 5, 1, 1, 30, 2, 260], dim=1)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole, **CLOSE)
    assert cache.length == 300
    cache.truncate(10)
    torch.testing.assert_close(model.hidden(x[:, 10:12], cache), whole[:, 10:12], **CLOSE)


def test_later_positions_have_no_influence(parts: tuple[LanguageModel, AudioHead]) -> None:
    x = torch.randn(1, 9, 128, requires_grad=True)
    parts[0].hidden(x)[0, 4].sum().backward()
    assert x.grad is not None
    assert bool((x.grad[0, :5] != 0).any(dim=1).all()) and not bool(x.grad[0, 5:].any())


@torch.inference_mode()
def test_dialogue_over_the_cache_equals_full_prefill(
    parts: tuple[LanguageModel, AudioHead], special: SpecialTokens
) -> None:
    model = parts[0]
    session = Session(*parts, special, seed=1)
    first = _frames(3)
    session.prefill([1, special.audio_start, *[special.audio_pad] * 3, special.audio_end], first)
    session.write_text(4, Sampling(1.0, 20, 0.9, 1.1))
    spoken = session.write_codes(5, Sampling(1.0, 5, 0.9, 1.3))
    fed = session.ids.count(special.audio_pad) - 3
    session.append(special.end_of_text)
    second = _frames(2)
    session.prefill([special.user, *[special.audio_pad] * 2, special.assistant], second)
    codes = torch.cat([first, spoken[:, :fed], second], dim=1)
    hidden, _ = model(torch.tensor([session.ids]), codes)
    torch.testing.assert_close(session._last_hidden(), hidden[:, -1], **CLOSE)
    assert session._cache.length == len(session.ids)


def test_same_seed_same_sequence(parts: tuple[LanguageModel, AudioHead], special: SpecialTokens) -> None:
    def write(seed: int) -> tuple[list[int], Tensor]:
        session = Session(*parts, special, seed)
        session.prefill([1, 2, 3])
        session.write_text(6, Sampling(1.0))
        return session.ids, session.write_codes(6, Sampling(1.0, 5, 0.9, 1.3))

    first, again = write(3), write(3)
    assert first[0] == again[0] != write(4)[0]
    assert torch.equal(first[1], again[1])


def test_marks_masks_and_taking_back(parts: tuple[LanguageModel, AudioHead], special: SpecialTokens) -> None:
    session = Session(*parts, special, seed=0)
    session.prefill([1])
    written = session.write_text(60, Sampling(5.0)).tolist()  # hot enough for anything to come up
    assert not set(written) & set(special.control_ids)
    last = session.ids[-1]
    assert session.pop() == last and session.pop() is None
    codes = session.write_codes(4, Sampling(5.0))
    assert session.ids[-1] == special.audiogen_end
    assert bool((codes < torch.tensor(SIZES)[:, None]).all())
    stopping = Sampling(5.0, stop=tuple(range(0, 512, 2)))
    assert session.write_text(100, stopping).tolist()[-1] % 2 == 0


def test_audiogen_start_is_fed_once(parts: tuple[LanguageModel, AudioHead], special: SpecialTokens) -> None:
    session = Session(*parts, special, seed=0)
    session.prefill([1, special.audiogen_start])
    session.write_codes(2, Sampling())
    assert session.ids.count(special.audiogen_start) == 1


def test_unfit_prompts(parts: tuple[LanguageModel, AudioHead], special: SpecialTokens) -> None:
    session = Session(*parts, special)
    for ids, codes in (
        ([], None),
        ([99999], None),
        ([-1], None),
        ([special.audio_pad], None),
        ([1], _frames(1)),
        ([special.audio_pad], _frames(1)[:2]),
        ([special.audio_pad], _frames(1) + 100),
    ):
        with pytest.raises(PromptError):
            session.prefill(ids, codes)
    with pytest.raises(PromptError):
        session.write_text(1, Sampling())
    with pytest.raises(PromptError):
        session.append(special.audio_pad)


def test_impossible_configs(other_config: dict[str, Any]) -> None:
    for change in ({"use_norm_head": True}, {"num_key_value_heads": 4}, {"hidden_size": 0}, {"vocab_size": "x"}):
        with pytest.raises(ConfigError):
            LanguageModel.from_config(other_config | change)
    with pytest.raises(ConfigError):
        AudioHead.from_config(other_config | {"hidden_size": 100})
    with pytest.raises(ConfigError):
        LanguageModel.from_config(other_config | {"audio_config": {"audio_pad_token_id": 1}})
