"""The inference forms against the layers they are made from."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

import baichuan_audio
from baichuan_audio.acceleration import optimize_for_inference
from baichuan_audio.acceleration.optimize import joined_copy
from baichuan_audio.errors import CheckpointError
from baichuan_audio.generation.session import Session
from baichuan_audio.language_model.sampling import Sampling
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.reference import ReferenceSession

TEXT, CODES = Sampling(0.9, 20, 0.9, 1.1), Sampling(0.9, 5, 0.9, 1.3)


@torch.inference_mode()
def test_backbone_and_text_logits_agree(plain: BaichuanAudio, optimized: BaichuanAudio, close: dict[str, Any]) -> None:
    ids = torch.randint(0, 200, (2, 17), device=plain.language_model.norm.weight.device)
    for mine, theirs in zip(optimized.language_model(ids), plain.language_model(ids), strict=True):
        torch.testing.assert_close(mine, theirs, **close)


@torch.inference_mode()
def test_audio_head_agrees_in_every_form(plain: BaichuanAudio, optimized: BaichuanAudio, close: dict[str, Any]) -> None:
    head, other = plain.audio_head, optimized.audio_head
    device = head.headnorm.weight.device
    hidden = torch.randn(3, head.width, device=device)
    codes = torch.stack([torch.randint(0, size, (3,), device=device) for size in head.codebook_sizes], dim=1)
    for mine, theirs in zip(other.logits(hidden, codes), head.logits(hidden, codes), strict=True):
        torch.testing.assert_close(mine, theirs, **close)
    cache, x = other.init_cache(3), hidden
    for level in range(head.num_codebooks):
        torch.testing.assert_close(other.step(x, level, cache), head.logits_at(hidden, codes[:, :level]), **close)
        embedded = head.embedding(level)(codes[:, level])
        x = x + embedded if level else embedded


@torch.inference_mode()
def test_rows_that_end_are_dropped_in_the_midst_of_a_batch(plain: BaichuanAudio, optimized: BaichuanAudio) -> None:
    end, count = plain.audio_head.codebook_sizes[0], plain.audio_head.num_codebooks
    hidden = torch.randn(4, plain.audio_head.width, device=plain.audio_head.headnorm.weight.device)

    def choose(level: int, rows: list[int], logits: torch.Tensor) -> list[int]:
        assert logits.shape[0] == len(rows)
        return [
            end if level == 0 and row in ending else int(row_logits[:end].argmax())
            for row, row_logits in zip(rows, logits, strict=True)
        ]

    for ending, count_of_rows in (([], 4), ([1], 4), ([0, 3], 4), ([0, 1, 2, 3], 4), ([], 1), ([0], 1)):
        hidden = hidden[:count_of_rows]
        mine, theirs = (
            part.frames(hidden, part.init_cache(4), choose) for part in (optimized.audio_head, plain.audio_head)
        )
        assert mine[0] == theirs[0] and [row for row, frame in enumerate(mine[0]) if frame is None] == ending
        torch.testing.assert_close(mine[1], theirs[1], rtol=1e-4, atol=1e-5)
        assert all(frame is None or len(frame) == count for frame in mine[0])


@pytest.mark.parametrize("kind", ["greedy", "drawn"])
def test_writes_what_the_obvious_path_writes(plain: BaichuanAudio, optimized: BaichuanAudio, kind: str) -> None:
    text, codes = (TEXT, CODES) if kind == "drawn" else (Sampling(0.0, repetition_penalty=1.1), Sampling())

    def write(session: Session) -> tuple[list[int], list[list[int]]]:
        session.prefill([5, 6, 7, 8])
        session.write_text(4, text)
        written = [session.write_codes(5, codes).tolist(), session.write_codes(3, codes).tolist()]
        return session.ids, written

    parts = plain.language_model, plain.audio_head, plain.special
    expected = write(ReferenceSession(*parts, seed=3))
    assert write(Session(*parts, seed=3)) == expected
    assert write(Session(optimized.language_model, optimized.audio_head, optimized.special, seed=3)) == expected


def test_memory_is_shared_and_the_model_stays_whole(plain: BaichuanAudio, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("baichuan_audio.acceleration.optimize")
    monkeypatch.setattr(module, "_MAX_CACHED_BYTES", 0)  # as for a model that fits no cache
    monkeypatch.setattr(module, "_MAX_NATIVE_BYTES", 0)
    fast = optimize_for_inference(plain)

    def storages(model: BaichuanAudio) -> dict[int, int]:
        tensors = [*model.parameters(), *model.buffers()]
        return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}

    own = storages(plain)
    added = sum(size for place, size in storages(fast).items() if place not in own)
    depth = sum(
        layer.linear1.weight.nbytes + layer.linear2.weight.nbytes for layer in plain.audio_head.transformer_layers
    )
    assert added <= depth
    again, owned = storages(optimize_for_inference(plain)), storages(plain) | storages(fast)
    assert sum(size for place, size in again.items() if place not in owned) <= depth
    assert fast.vocoder is plain.vocoder
    assert not plain.inference_only and type(plain.language_model.layers[0].mlp).__name__ == "FeedForward"


def test_a_small_model_is_laid_out_anew_and_stays_as_it_was(
    model: BaichuanAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("baichuan_audio.acceleration.optimize")
    monkeypatch.setattr(module, "library", lambda: None)  # as without a compiler
    before = {name: (tensor.stride(), tensor.clone()) for name, tensor in model.language_model.state_dict().items()}
    weight = optimize_for_inference(model).language_model.layers[0].mix.weight
    assert (
        weight.T.is_contiguous()
        and weight.data_ptr() != model.language_model.layers[0].self_attn.o_proj.weight.data_ptr()
    )
    after = model.language_model.state_dict()
    assert all(
        after[name].stride() == stride and torch.equal(after[name], own) for name, (stride, own) in before.items()
    )


def test_an_accelerated_model_is_not_saved(fast: BaichuanAudio, tmp_path: Any) -> None:
    with pytest.raises(CheckpointError, match="inference"):
        baichuan_audio.save(fast, tmp_path / "checkpoint")


def test_a_model_can_be_trained_after_it_was_optimized_in_inference_mode(tiny_dir: Path) -> None:
    plain = baichuan_audio.load(tiny_dir, dtype=torch.float32)
    with torch.inference_mode():
        joined_copy(plain)
    assert not any(parameter.is_inference() for parameter in plain.parameters())
