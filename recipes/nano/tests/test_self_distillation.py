"""Questions that a chat model asks by itself, with its replies: batched as single, resumable, speakable."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from baichuan_audio.data.pipeline.sources import read_texts
from baichuan_audio.errors import CheckpointError
from baichuan_audio.training.chat_model import ChatModel
from nano.questions.forms import formed_question
from nano.questions.self_distillation import Pair, pairs, spoken_question, spoken_reply, write_pairs

SPECIAL = ("<|im_start|>", "<|im_end|>")


def chat_model(folder: Path, special: tuple[str, ...] = SPECIAL) -> Path:
    """An untrained Llama of a few letters, in Hugging Face's layout."""
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE({chr(97 + i): i for i in range(14)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 16, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
    (folder / "config.json").write_text(json.dumps(config | sizes | {"max_position_embeddings": 128}))
    torch.manual_seed(0)
    tensors = {"model.embed_tokens.weight": torch.randn(16, 32), "model.norm.weight": torch.ones(32)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (("q", 32, 32), ("k", 16, 32), ("v", 16, 32), ("o", 32, 32)):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = 0.3 * torch.randn(rows, columns)
        for name, rows, columns in (("gate", 48, 32), ("up", 48, 32), ("down", 32, 48)):
            tensors[f"{prefix}mlp.{name}_proj.weight"] = 0.3 * torch.randn(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = torch.ones(32)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_batch_continues_each_prompt_as_alone(tmp_path: Path):
    model = ChatModel(chat_model(tmp_path / "llm"))
    model.model.float()  # bfloat16 rounds a batch otherwise than a row
    prompts = ["<|im_start|>a b c", "<|im_start|>d e f g h a a", "b"]
    draw = torch.Generator().manual_seed(1)
    together = model.continue_all(prompts, 12, 0.0, draw)
    assert together == [model.continue_all([prompt], 12, 0.0, draw)[0] for prompt in prompts]
    assert any(ended for _, ended in model.continue_all(prompts * 20, 40, 3.0, draw))


def test_what_can_be_spoken():
    assert spoken_question('"Why is the sky blue?"\nBecause') == "Why is the sky blue?"
    assert spoken_question("What is a question?") is None and spoken_question("Why 2 + 2?") is None
    assert spoken_question("Why?") is None and spoken_question("") is None
    assert spoken_reply(" It’s  blue. ", True) == "It's blue."
    assert spoken_reply("1. Blue", True) is None and spoken_reply("Blue, and", True) is None
    assert spoken_reply("", True) is None and spoken_reply("It is. It is.", True) is None
    assert spoken_reply("it is blue. At night it is", False) == "It is blue." and spoken_reply("Blue", False) is None
    assert spoken_reply(f"Yes. {'very ' * 40}blue.", True) == "Yes."


def test_forms_of_questions_that_training_never_sees_stay_apart():
    def asked(held_out: bool) -> set[str]:
        return {formed_question(random.Random(seed), ("dogs", "the sun"), held_out) for seed in range(400)}

    assert len(asked(False)) > 200 and not asked(False) & asked(True)
    questions = asked(False) | asked(True)
    assert all(question[0].isupper() and question[-1] in ".?" and "{" not in question for question in questions)
    assert not any(" a o" in question for question in questions)


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def some(model: object, topics: object, seed: int, batch: int) -> list[Pair]:
        return [Pair(f"Is {letter} in batch {'x' * batch}?", "Yes.") for letter in "abc"]

    monkeypatch.setattr("nano.questions.self_distillation.pairs", some)
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    assert list(write_pairs(None, ["dogs"], whole, 7, 0, "CC0-1.0"))[-1] == 9  # type: ignore[arg-type]
    list(write_pairs(None, ["dogs"], parts, 2, 0, "CC0-1.0"))  # type: ignore[arg-type]
    list(write_pairs(None, ["dogs"], parts, 7, 0, "CC0-1.0"))  # type: ignore[arg-type]
    assert whole.read_bytes() == parts.read_bytes()
    items = read_texts(whole)
    assert len(items) == 9 and items[0].kind == "sft" and items[0].turns[0].reply == "Yes."


def test_pairs_depend_on_seed_and_batch_alone(tmp_path: Path):
    model = ChatModel(chat_model(tmp_path / "llm"))
    assert pairs(model, ["dogs", "cats"], 0, 3, rows=8) == pairs(model, ["dogs", "cats"], 0, 3, rows=8)


def test_a_model_without_chat_tokens_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="a ChatML model is needed"):
        ChatModel(chat_model(tmp_path / "llm", ("<s>",)))
