"""Peers as systems under test: an ASR, and a language model that is typed to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from baichuan_audio.cli import main
from baichuan_audio.evaluation.results import EvaluationError, read_results
from baichuan_audio.evaluation.suites.items import Item
from baichuan_audio.evaluation.suites.run import run_suite
from baichuan_audio.evaluation.systems.recognisers import WhisperRecogniser, WhisperSystem
from baichuan_audio.evaluation.systems.text_model import TextModelSystem

from .layouts import librispeech, openaudiobench

QUESTION = Item("s/1", "s", None, "abc abd", (), "", "en", choices=("ab", "cdefg"))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Llama of a few letters with ChatML's tokens, in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp("llm")
    tokenizer = Tokenizer(models.BPE({chr(97 + i): i for i in range(14)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"], "vocab_size": 16, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 256,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    shapes = {
        "self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32),
        "self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48),
    }  # fmt: skip
    tensors = {f"model.layers.0.{name}.weight": 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    norms = ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm")
    tensors |= {f"{name}.weight": torch.ones(32) for name in norms}
    embeddings = torch.randn(16, 32)
    embeddings[14:] = 0.0  # a mark is never the likeliest, so no reply ends early
    save_file(tensors | {"model.embed_tokens.weight": embeddings}, folder / "model.safetensors")
    return folder


def test_a_typed_model(chat_model: Path, tmp_path: Path) -> None:
    system = TextModelSystem(chat_model)
    reply = system.answer(QUESTION, spoken=False, typed=True).text
    assert reply and system.answer(QUESTION, spoken=False, typed=True).text == reply
    assert system.answer(QUESTION, spoken=False, typed=True, earlier=(QUESTION, "abcabc")).text != reply
    first, second = system.losses(QUESTION, spoken=False)
    assert 0 < first != second > 0
    for wrong in (lambda: system.answer(QUESTION, False), lambda: system.losses(QUESTION, True)):
        with pytest.raises(EvaluationError, match="ask for --settings t2t"):
            wrong()
    (tmp_path / "data").mkdir()
    openaudiobench(tmp_path / "data")
    options = ["--data", str(tmp_path / "data"), "--system", f"llm:{chat_model}", "--output", str(tmp_path / "out")]
    assert main(["eval", "openaudiobench", *options, "--settings", "t2t", "--limit", "1"]) == 0
    header, rows = read_results(tmp_path / "out" / "openaudiobench.jsonl")
    assert header["system"]["kind"] == "text model" and rows[0]["replies"]["t2t"]["text"]


def test_an_asr(tmp_path: Path) -> None:
    class Heard(WhisperRecogniser):
        def transcribe(self, waveform: np.ndarray, language: str) -> str:
            assert waveform.dtype == np.float32 and language == "en"
            return "GOOD MORNING"

    librispeech(tmp_path / "data")
    system: Any = WhisperSystem(Heard("base"))
    figures = run_suite("librispeech", tmp_path / "data", system, tmp_path / "r.jsonl", log=lambda _: None)
    assert figures["provenance"]["system"]["kind"] == "whisper" and figures["time"]["system_s"] >= 0
    with pytest.raises(EvaluationError, match="it does not reply"):
        system.answer(QUESTION, False)
