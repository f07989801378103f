"""The inference forms against the layers they are made from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import baichuan_audio
from baichuan_audio.errors import CheckpointError
from baichuan_audio.language_model.sampling import Sampling
from baichuan_audio.language_model.session import Session
from baichuan_audio.obvious import ObviousSession
from baichuan_audio.pipeline import BaichuanAudio

TEXT, CODES = Sampling(0.9, 20, 0.9, 1.1), Sampling(0.9, 5, 0.9, 1.3)


@torch.inference_mode()
def test_backbone_and_text_logits_agree(plain: BaichuanAudio, fast: BaichuanAudio, close: dict[str, Any]) -> None:
    ids = torch.randint(0, 200, (2, 17), device=plain.language_model.norm.weight.device)
    for mine, theirs in zip(fast.language_model(ids), plain.language_model(ids), strict=True):
        torch.testing.assert_close(mine, theirs, **close)


@torch.inference_mode()
def test_audio_head_agrees_in_every_form(plain: BaichuanAudio, fast: BaichuanAudio, close: dict[str, Any]) -> None:
    head, twin = plain.audio_head, fast.audio_head
    device = head.headnorm.weight.device
    hidden = torch.randn(3, head.width, device=device)
    codes = torch.stack([torch.randint(0, size, (3,), device=device) for size in head.codebook_sizes], dim=1)
    for mine, theirs in zip(twin.logits(hidden, codes), head.logits(hidden, codes), strict=True):
        torch.testing.assert_close(mine, theirs, **close)
    cache, x = twin.init_cache(3), hidden
    for level in range(head.num_codebooks):
        torch.testing.assert_close(twin.step(x, level, cache), head.logits_at(hidden, codes[:, :level]), **close)
        embedded = head.embedding(level)(codes[:, level])
        x = x + embedded if level else embedded


@pytest.mark.parametrize("kind", ["greedy", "drawn"])
def test_writes_what_the_obvious_path_writes(plain: BaichuanAudio, fast: BaichuanAudio, kind: str) -> None:
    text, codes = (TEXT, CODES) if kind == "drawn" else (Sampling(0.0, repetition_penalty=1.1), Sampling())

    def write(session: Session) -> tuple[list[int], list[list[int]]]:
        session.extend([5, 6, 7, 8])
        session.write_text(4, text)
        written = [session.write_codes(5, codes).tolist(), session.write_codes(3, codes).tolist()]
        return session.ids, written

    parts = plain.language_model, plain.audio_head, plain.special
    expected = write(ObviousSession(*parts, seed=3))
    assert write(Session(*parts, seed=3)) == expected
    assert write(Session(fast.language_model, fast.audio_head, fast.special, seed=3)) == expected


def test_memory_is_shared_and_the_model_stays_whole(plain: BaichuanAudio, fast: BaichuanAudio) -> None:
    def storages(model: BaichuanAudio) -> dict[int, int]:
        tensors = [*model.parameters(), *model.buffers()]
        return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}

    own = storages(plain)
    added = sum(size for place, size in storages(fast).items() if place not in own)
    depth = sum(
        layer.linear1.weight.nbytes + layer.linear2.weight.nbytes for layer in plain.audio_head.transformer_layers
    )
    norms = 40_000  # gains of the norms
    assert added <= depth + norms
    assert fast.flow is plain.flow and fast.vocoder is plain.vocoder
    assert not plain.inference_only and type(plain.language_model.layers[0].mlp).__name__ == "FeedForward"


def test_an_accelerated_model_is_not_saved(fast: BaichuanAudio, tmp_path: Any) -> None:
    with pytest.raises(CheckpointError, match="inference"):
        baichuan_audio.save(fast, tmp_path / "checkpoint")
