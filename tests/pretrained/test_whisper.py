"""Whisper files of both layouts -> the audio tokenizer's encoder."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from baichuan_audio.audio_tokenizer.config import AudioConfig
from baichuan_audio.audio_tokenizer.encoder import AudioEncoder
from baichuan_audio.errors import CheckpointError
from baichuan_audio.pretrained.ctranslate2 import read_variables
from baichuan_audio.pretrained.whisper import read_whisper
from baichuan_audio.pretrained.whisper_decoder import WhisperTextDecoder

WIDTH, LAYERS, INNER, MELS, WORDS = 16, 2, 32, 8, 20


def published() -> dict[str, torch.Tensor]:
    """Random tensors under Hugging Face's names."""
    draw = torch.Generator().manual_seed(0)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).half().float()

    tensors = {"encoder.conv1.weight": values(WIDTH, MELS, 3), "encoder.conv1.bias": values(WIDTH)}
    tensors |= {"encoder.conv2.weight": values(WIDTH, WIDTH, 3), "encoder.conv2.bias": values(WIDTH)}
    tensors |= {"decoder.embed_tokens.weight": values(WORDS, WIDTH), "proj_out.weight": values(WORDS, WIDTH)}
    for part in ("encoder", "decoder"):
        tensors[f"{part}.embed_positions.weight"] = values(12, WIDTH)
        norms = [f"{part}.layer_norm"]
        for layer in range(LAYERS):
            prefix = f"{part}.layers.{layer}."
            norms += [f"{prefix}self_attn_layer_norm", f"{prefix}final_layer_norm"]
            attentions = ["self_attn"] + ["encoder_attn"] * (part == "decoder")
            norms += [f"{prefix}encoder_attn_layer_norm"] * (part == "decoder")
            for attention in attentions:
                for name in ("q", "k", "v", "out"):
                    tensors[f"{prefix}{attention}.{name}_proj.weight"] = values(WIDTH, WIDTH)
                    if name != "k":
                        tensors[f"{prefix}{attention}.{name}_proj.bias"] = values(WIDTH)
            tensors |= {f"{prefix}fc1.weight": values(INNER, WIDTH), f"{prefix}fc1.bias": values(INNER)}
            tensors |= {f"{prefix}fc2.weight": values(WIDTH, INNER), f"{prefix}fc2.bias": values(WIDTH)}
        for norm in norms:
            tensors |= {f"{norm}.weight": values(WIDTH), f"{norm}.bias": values(WIDTH)}
    return tensors


def hugging_face(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"encoder_attention_heads": 4}))
    save_file({f"model.{name}": tensor for name, tensor in published().items()}, folder / "model.safetensors")
    return folder


def variables() -> dict[str, np.ndarray]:
    """The same as CTranslate2 stores it."""
    source = published()
    result = {"encoder/num_heads": np.array(4, "<i2"), "decoder/num_heads": np.array(4, "<i2")}

    def put(target: str, *names: str) -> None:
        parts = [source[name] if name in source else torch.zeros(WIDTH) for name in names]
        result[target] = torch.cat(parts).numpy().astype("<f2")

    for number in (1, 2):
        for kind in ("weight", "bias"):
            put(f"encoder/conv{number}/{kind}", f"encoder.conv{number}.{kind}")
    put("decoder/embeddings/weight", "decoder.embed_tokens.weight")
    put("decoder/projection/weight", "proj_out.weight")
    for part in ("encoder", "decoder"):
        put(f"{part}/position_encodings/encodings", f"{part}.embed_positions.weight")
        norms = {f"{part}/layer_norm": f"{part}.layer_norm"}
        for layer in range(LAYERS):
            here, there = f"{part}/layer_{layer}", f"{part}.layers.{layer}"
            norms |= {f"{here}/self_attention/layer_norm": f"{there}.self_attn_layer_norm"}
            norms |= {f"{here}/ffn/layer_norm": f"{there}.final_layer_norm"}
            for kind in ("weight", "bias"):
                put(f"{here}/self_attention/linear_0/{kind}", *(f"{there}.self_attn.{n}_proj.{kind}" for n in "qkv"))
                put(f"{here}/self_attention/linear_1/{kind}", f"{there}.self_attn.out_proj.{kind}")
                put(f"{here}/ffn/linear_0/{kind}", f"{there}.fc1.{kind}")
                put(f"{here}/ffn/linear_1/{kind}", f"{there}.fc2.{kind}")
                if part == "decoder":
                    put(f"{here}/attention/linear_0/{kind}", f"{there}.encoder_attn.q_proj.{kind}")
                    put(f"{here}/attention/linear_1/{kind}", *(f"{there}.encoder_attn.{n}_proj.{kind}" for n in "kv"))
                    put(f"{here}/attention/linear_2/{kind}", f"{there}.encoder_attn.out_proj.{kind}")
            if part == "decoder":
                norms |= {f"{here}/attention/layer_norm": f"{there}.encoder_attn_layer_norm"}
        for here, there in norms.items():
            put(f"{here}/gamma", f"{there}.weight")
            put(f"{here}/beta", f"{there}.bias")
    return result


def model_bin(arrays: dict[str, np.ndarray], aliases: dict[str, str] | None = None) -> bytes:
    types = {"<f4": 0, "|i1": 1, "<i2": 2, "<i4": 3, "<f2": 4}

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        data += string(name) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        data += struct.pack("<BI", types[array.dtype.str], array.nbytes) + array.tobytes()
    aliases = aliases or {}
    return data + struct.pack("<I", len(aliases)) + b"".join(string(a) + string(b) for a, b in aliases.items())


def ctranslate2(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.bin").write_bytes(model_bin(variables()))
    return folder


def test_both_layouts_give_the_same_tensors(tmp_path: Path) -> None:
    first, second = read_whisper(hugging_face(tmp_path / "a")), read_whisper(ctranslate2(tmp_path / "b"))
    assert first.encoder == second.encoder and first.encoder["encoder_attention_heads"] == 4
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert second.tensors[name].dtype == torch.float16  # as stored
        torch.testing.assert_close(second.tensors[name].float(), tensor, rtol=0, atol=0)
    assert all(name.startswith("encoder.") for name in read_whisper(tmp_path / "a", decoder=False).tensors)


def test_the_encoder_takes_every_tensor(tmp_path: Path) -> None:
    whisper = read_whisper(ctranslate2(tmp_path / "model"))
    others = {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 8}
    encoder = AudioEncoder(AudioConfig(**whisper.encoder, **others))
    missing, unexpected = encoder.load_state_dict(whisper.encoder_state(), strict=False)
    assert (missing, unexpected) == (["positional_embedding"], [])
    features = encoder(torch.randn(1, MELS, 40))
    assert features.shape == (1, 20, WIDTH) and bool(features.isfinite().all())


def test_aliases_are_the_same_array(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(model_bin({"a": np.ones((2, 3), "<f4")}, {"b": "a"}))
    read = read_variables(tmp_path / "model.bin")
    assert read["b"] is read["a"] and read["a"].shape == (2, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no readable CTranslate2 model"),
        (struct.pack("<I", 3), "format version 3"),
        (model_bin({"a": np.ones(4, "<f4")})[:-9], "ends within a"),
        (model_bin({"a": np.ones(4, "<f4")}).replace(b"\4\0\0\0\0\20", b"\5\0\0\0\0\20"), "do not fit its shape"),
        (model_bin({"a": np.ones(4, "<f4")}), "is this a Whisper model"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        read_whisper(tmp_path)


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a directory"):
        read_whisper(tmp_path / "none")


def test_the_text_decoder_reads_features(tmp_path: Path) -> None:
    decoder = WhisperTextDecoder.from_pretrained(read_whisper(ctranslate2(tmp_path / "model"))).eval()
    ids, features = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.randn(2, 7, WIDTH)
    logits = decoder(ids, features)
    assert logits.shape == (2, 3, WORDS)
    later = ids.clone()
    later[:, 2] = 9
    torch.testing.assert_close(decoder(later, features)[:, :2], logits[:, :2])  # causal
    padded = features.clone()
    padded[1, 4:] = 100.0
    lengths = torch.tensor([7, 4])
    torch.testing.assert_close(decoder(ids, padded, lengths)[1:], decoder(ids[1:], features[1:, :4]))
    assert not torch.allclose(decoder(ids, padded), logits)


def test_a_decoder_that_does_not_fit_is_named(tmp_path: Path) -> None:
    whisper = read_whisper(ctranslate2(tmp_path / "model"))
    del whisper.tensors["decoder.layers.1.fc2.bias"]
    with pytest.raises(CheckpointError, match="text decoder cannot be built"):
        WhisperTextDecoder.from_pretrained(whisper)
