"""A very small model and corpus, and recipes over them, to test the language model and what it is fed with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

import baichuan_audio
from baichuan_audio.data.dialogues import write_dialogues
from baichuan_audio.data.mixture.config import MixtureConfig
from baichuan_audio.data.store.codes_store import encode_corpus
from baichuan_audio.data.store.manifest import ClipStore, ClipWriter
from baichuan_audio.language_model.build_tokenizer import build_text_tokenizer
from baichuan_audio.language_model.text_tokenizer import TextTokenizer
from baichuan_audio.model import BaichuanAudio
from baichuan_audio.training.common.initialise import complete_config, initialise_language_model
from baichuan_audio.training.common.recipe import OptimizerRecipe
from baichuan_audio.training.language_model.recipe import LanguageModelRecipe
from baichuan_audio.vocoder.vocos import Vocos

ROOT = Path(__file__).parents[2]
SIZES = [80, 76, 76, 76]
WORDS = ["What", " is", " hot", " Cold", " yes"]
TEXTS = ["What is hot? Cold, yes.", "将语音转录为文本:请用【邻家女声】这个声音回答问题。"]


def random_model(config: dict[str, Any], tokenizer: Tokenizer, directory: Path) -> BaichuanAudio:
    """Write a model with a config's sizes, random weights and this text tokenizer."""
    config = complete_config(config, tokenizer)
    torch.manual_seed(0)
    model = BaichuanAudio(config, TextTokenizer(tokenizer.to_str()), Vocos.from_config(config))
    initialise_language_model(model)
    baichuan_audio.save(model, directory)
    return model


def make_workspace(root: Path) -> Path:
    """A very small model, and a corpus of three clips with codes and one dialogue a split."""
    config = json.loads((ROOT / "models/nano/config.json").read_text())
    config |= {"hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config |= {"intermediate_size": 64, "voices": ["邻家女声", "Ada"], "torch_dtype": "float32"}
    config["audio_config"] |= {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16}
    config["audio_config"] |= {"decoder_ffn_dim": 16, "vq_config": {"codebook_sizes": SIZES}}
    config["flow_matching_config"] |= {"prenet_in_dim": 16, "prenet_d_model": 16, "prenet_nlayers": 1}
    config["flow_matching_config"] |= {"prenet_ffn_dim": 16, "channels": [8], "num_mid_blocks": 1}
    config["mel_vocoder_config"] |= {"dim": 8, "ffn_dim": 8, "num_layers": 1}
    (root / "template.json").write_text(json.dumps(config))
    random_model(config, build_text_tokenizer(TEXTS, WORDS), root / "model")
    rows = []
    with ClipWriter(root / "corpus") as writer:
        for split in ("train", "validation"):
            for name, text in (("q", "What is hot?"), ("a", "Cold,"), ("b", "yes.")):
                writer.add(
                    np.sin(np.arange(12_000) / (9 + len(text))).astype(np.float32) / 4,
                    id=f"{split}-{name}", language="en", speaker="Ada" if name != "q" else "someone",
                    transcript=text, source="synthetic", license="CC0",
                    split=split, kind="answer" if name != "q" else "question",
                )  # fmt: skip
            segments = [{"text": "Cold,", "audio": f"{split}-a"}, {"text": "yes.", "audio": f"{split}-b"}]
            messages = [
                {"role": "user", "content": "What is hot?", "audio": f"{split}-q"},
                {"role": "assistant", "content": "Cold, yes.", "segments": segments},
            ]
            row = {"id": split, "split": split, "language": "en", "skill": "s", "voice": "Ada"}
            rows.append(row | {"messages": messages})
    write_dialogues(rows, root / "corpus" / "dialogues.jsonl")
    sounds = [
        json.dumps([f"{split}-{name}", [0, 40, 41], [10, 20, 50]])
        for split in ("train", "validation")
        for name in "qab"
    ]
    (root / "corpus" / "alignments.jsonl").write_text("\n".join(sounds) + "\n")
    model = baichuan_audio.load(root / "model")
    count = encode_corpus(model.tokenizer, ClipStore(root / "corpus"), root / "codes")
    assert count == 6
    return root


def recipe(root: Path, output: Path, **changes: Any) -> LanguageModelRecipe:
    values: dict[str, Any] = {
        "stage": "sft", "init_from": str(root / "model"), "dialogues": (str(root / "corpus" / "dialogues.jsonl"),),
        "dataset": str(root / "corpus"), "codes": str(root / "codes"),
        "output": str(output), "steps": 8, "log_every": 1, "sample_every": 4, "checkpoint_every": 4, "threads": 1,
        "tokens_per_step": 150, "audio_head_fraction": 0.5, "validation_sequences": 4, "read_back": (),
        "mixture": MixtureConfig(tasks={"spoken_dialogue": 1.0, "asr": 1.0, "tts": 1.0, "text_dialogue": 0.5},
                     default_voice_is="Ada"),
        "optimizer": OptimizerRecipe(learning_rate=5e-3, warmup_steps=2),
    }  # fmt: skip
    return LanguageModelRecipe(**(values | changes))


def log_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
