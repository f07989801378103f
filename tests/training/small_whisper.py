"""An untrained Whisper model in Hugging Face's layout, with a tokenizer of four words."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from baichuan_audio.audio_tokenizer.config import AudioConfig
from baichuan_audio.audio_tokenizer.encoder import AudioEncoder
from baichuan_audio.pretrained.whisper_decoder import WhisperTextDecoder

WIDTH, MELS = 32, 40
WORDS = ("one", "two", "three", "four")
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|transcribe|>", "<|notimestamps|>")
AUDIO = {
    "d_model": WIDTH,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "num_mel_bins": MELS,
    "max_audio_seconds": 4,
    "segment_norm": False,
    "vq_config": {"codebook_sizes": [16, 8, 8]},
}


def make_whisper(folder: Path) -> None:
    """Write it."""
    torch.manual_seed(0)
    config = json.dumps({"model_type": "whisper", "encoder_attention_heads": 2})
    (folder / "config.json").write_text(config)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(("?", *WORDS))}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {name: value for name, value in AUDIO.items() if name != "vq_config"}
    encoder = AudioEncoder(AudioConfig(**sizes))
    decoder = WhisperTextDecoder(WIDTH, 1, 2, 64, len(WORDS) + 1 + len(SPECIAL), 12)
    tensors = {f"model.encoder.{name}": tensor for name, tensor in encoder.state_dict().items() if "posit" not in name}
    tensors |= {f"model.decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
