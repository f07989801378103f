"""The golden case: logits, hidden states and the greedy run of tests/fixtures/tiny-a (docs/model.md)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from baichuan_audio.generation.session import Session
from baichuan_audio.language_model.audio_head import AudioHead
from baichuan_audio.language_model.model import LanguageModel
from baichuan_audio.language_model.prompt import SpecialTokens
from baichuan_audio.language_model.sampling import Sampling


@torch.inference_mode()
def test_backbone(golden: dict[str, Tensor], language_model: LanguageModel, error: Any) -> None:
    hidden, logits = language_model(golden["prompt_ids"], golden["codes.0"].T)
    assert error(logits, golden["lm_logits"]) < 1e-4
    assert error(hidden[:, -1], golden["lm_hidden_last"]) < 1e-4


@torch.inference_mode()
def test_audio_head(golden: dict[str, Tensor], audio_head: AudioHead, error: Any) -> None:
    logits = audio_head.logits(golden["head_hidden"], golden["head_tokens"])
    assert len(logits) == audio_head.num_codebooks
    for level, tensor in enumerate(logits):
        assert error(tensor, golden[f"head_logits.{level}"]) < 1e-4


def test_greedy_run(
    golden: dict[str, Tensor],
    run: dict[str, Any],
    language_model: LanguageModel,
    audio_head: AudioHead,
    special: SpecialTokens,
) -> None:
    session = Session(language_model, audio_head, special)
    session.prefill(golden["prompt_ids"][0], golden["codes.0"].T)
    prompt = golden["prompt_ids"].shape[1]
    text = session.write_text(run["n_text"] - 1, Sampling(repetition_penalty=run["text_repetition_penalty"]))
    assert torch.equal(text, golden["greedy_text_ids"][0, prompt:-1])
    codes = session.write_codes(run["n_audio"], Sampling(repetition_penalty=run["audio_repetition_penalty"]))
    assert torch.equal(codes.T, golden["greedy_audio_frames"][0, : run["n_audio"]])
    session.write_text(run["n_text"], Sampling(repetition_penalty=run["text2_repetition_penalty"]))
    assert session.ids == golden["greedy_text2_ids"][0].tolist()
