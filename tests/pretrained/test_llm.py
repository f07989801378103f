"""Published language model files -> the backbone's tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from baichuan_audio.errors import CheckpointError
from baichuan_audio.language_model.backbone import Backbone, BackboneConfig
from baichuan_audio.pretrained.gguf import undo_rotary_permutation
from baichuan_audio.pretrained.llm import PretrainedLLM, read_llm

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'baichuan-audio[pretrained]'")

LAYERS, WIDTH, HEADS, GROUPS, INNER, WORDS = 2, 32, 4, 2, 48, 300
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "intermediate_size": INNER,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e5,
    "max_position_embeddings": 64,
}


def published(bias: bool) -> dict[str, torch.Tensor]:
    """Random tensors under the published names."""
    draw = torch.Generator().manual_seed(0)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * 0.1

    tensors = {"model.embed_tokens.weight": values(WORDS, WIDTH), "model.norm.weight": values(WIDTH)}
    rows = {"q": WIDTH, "k": GROUPS * WIDTH // HEADS, "v": GROUPS * WIDTH // HEADS}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, size in rows.items():
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = values(size, WIDTH)
            if bias:
                tensors[f"{prefix}self_attn.{name}_proj.bias"] = values(size)
        tensors[f"{prefix}self_attn.o_proj.weight"] = values(WIDTH, WIDTH)
        tensors[f"{prefix}mlp.gate_proj.weight"] = values(INNER, WIDTH)
        tensors[f"{prefix}mlp.up_proj.weight"] = values(INNER, WIDTH)
        tensors[f"{prefix}mlp.down_proj.weight"] = values(WIDTH, INNER)
        tensors[f"{prefix}input_layernorm.weight"] = values(WIDTH)
        tensors[f"{prefix}post_attention_layernorm.weight"] = values(WIDTH)
    return tensors


def hugging_face(folder: Path, architecture: str, bias: bool) -> Path:
    folder.mkdir()
    config = SIZES | {"architectures": [architecture], "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    save_file(published(bias), folder / "model.safetensors")
    return folder


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """What the converter of GGUF does to Llama's query and key."""
    return weight.view(heads, 2, weight.shape[0] // heads // 2, -1).transpose(1, 2).reshape(weight.shape)


def gguf_file(path: Path, kind: str, bias: bool, pre: str = "smollm", quantization: str | None = None) -> Path:
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    letters = ["<|endoftext|>", *"abcdefghij", "ab", "<tool>", *(f"<{number}>" for number in range(WORDS - 13))]
    writer.add_token_list(letters)
    writer.add_token_types([3] + [1] * 11 + [4] + [1] * (WORDS - 13))
    writer.add_token_merges(["a b"])
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, tensor in published(bias).items():
        parts = name.split(".")
        if parts[1] != "layers":
            top = {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[1]]
            writer.add_tensor(f"{top}.weight", tensor.numpy())
            continue
        if kind == "llama" and parts[-2] in ("q_proj", "k_proj"):
            tensor = interleave(tensor, HEADS if parts[-2] == "q_proj" else GROUPS)
        target, data = f"blk.{parts[2]}.{names[parts[-2]]}.{parts[-1]}", tensor.numpy()
        if quantization is None or tensor.ndim < 2 or tensor.shape[1] % 32:
            writer.add_tensor(target, data)
        else:
            form = gguf.GGMLQuantizationType[quantization]
            writer.add_tensor(target, gguf.quantize(data, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same(first: PretrainedLLM, second: PretrainedLLM) -> None:
    assert first.config == pytest.approx(second.config, rel=1e-6)
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        other = second.tensors[name]
        assert tensor.shape == tuple(tensor.read().shape) == other.shape and tensor.dtype == other.dtype
        torch.testing.assert_close(tensor.read(), other.read(), rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "architecture", "bias"), [
    ("llama", "LlamaForCausalLM", False), ("qwen2", "Qwen2ForCausalLM", True),
])  # fmt: skip
def test_both_layouts_give_the_same_backbone(tmp_path: Path, kind: str, architecture: str, bias: bool) -> None:
    directory = read_llm(hugging_face(tmp_path / "published", architecture, bias))
    file = read_llm(gguf_file(tmp_path / "model.gguf", kind, bias))
    assert_same(directory, file)
    backbone = Backbone(BackboneConfig.from_config(file.config))
    tensors = {name: tensor.read() for name, tensor in file.tensors.items()}
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(("layers", "norm"))}
    assert not any(backbone.load_state_dict(own))
    packed = tensors["layers.1.self_attn.W_pack.bias"]
    assert bool(packed.any()) == bias
    assert torch.equal(tensors["lm_head.weight"], tensors["embed_tokens.weight"])


def test_each_tensor_is_read_when_it_is_needed_in_the_type_of_the_file(tmp_path: Path) -> None:
    directory = hugging_face(tmp_path / "half", "Qwen2ForCausalLM", True)
    save_file({name: t.half() for name, t in published(True).items()}, directory / "model.safetensors")
    llm = read_llm(directory)
    assert {tensor.dtype for tensor in llm.tensors.values()} == {torch.float16}
    assert {tensor.read().dtype for tensor in llm.tensors.values()} == {torch.float16}
    (directory / "model.safetensors").unlink()  # nothing was read before
    with pytest.raises(FileNotFoundError):
        llm.tensors["norm.weight"].read()
    mixed = save_mixed(hugging_face(tmp_path / "mixed", "LlamaForCausalLM", False))
    packed = read_llm(mixed).tensors["layers.0.self_attn.W_pack.weight"]
    assert packed.dtype == torch.float32  # the type that loses nothing of q, k and v


def save_mixed(directory: Path) -> Path:
    tensors = published(False)
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file(tensors | {name: tensors[name].bfloat16()}, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_types_of_gguf_tensors(tmp_path: Path, kind: str) -> None:
    plain = read_llm(gguf_file(tmp_path / "plain.gguf", "llama", False)).tensors
    quantised = read_llm(gguf_file(tmp_path / "model.gguf", "llama", False, quantization=kind)).tensors
    due = {"F16": torch.float16, "BF16": torch.bfloat16, "Q8_0": torch.float32}[kind]
    for name in ("layers.1.self_attn.W_pack.weight", "layers.0.mlp.gate_proj.weight"):
        tensor = quantised[name]
        assert tensor.dtype == due == tensor.read().dtype and tensor.shape == plain[name].shape
        torch.testing.assert_close(tensor.read().float(), plain[name].read(), rtol=0.01, atol=2e-3)


def test_qwen2_text_is_normalised_and_its_tokens_are_whole(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    path = gguf_file(tmp_path / "model.gguf", "qwen2", True, pre="qwen2")
    tokenizer = Tokenizer.from_str(read_llm(path).tokenizer)
    assert tokenizer.encode("a<tool>b").tokens == ["a", "<tool>", "b"]
    assert tokenizer.decode(tokenizer.encode("<tool>").ids, skip_special_tokens=True) == "<tool>"
    assert type(tokenizer.normalizer).__name__ == "NFC"


def test_permutation_is_undone() -> None:
    weight = torch.arange(24.0).view(8, 3)
    assert torch.equal(undo_rotary_permutation(interleave(weight, 2), 2), weight)
    assert not torch.equal(interleave(weight, 2), weight)


def test_the_tokenizer_of_a_gguf_file(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(read_llm(gguf_file(tmp_path / "model.gguf", "llama", False)).tokenizer)
    assert tokenizer.encode("abc").tokens == ["ab", "c"]
    assert tokenizer.encode("<|endoftext|>a").tokens == ["<|endoftext|>", "a"]


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a \.gguf file or a directory"):
        read_llm(tmp_path / "none")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(CheckpointError, match=r"bad\.gguf"):
        read_llm(tmp_path / "bad.gguf")
    with pytest.raises(CheckpointError, match="not Llama or Qwen2"):
        read_llm(hugging_face(tmp_path / "other", "BertModel", False))
    with pytest.raises(CheckpointError, match="pre-tokenizer 'other'"):
        read_llm(gguf_file(tmp_path / "pre.gguf", "llama", False, pre="other"))
    folder = hugging_face(tmp_path / "part", "LlamaForCausalLM", False)
    tensors = published(False)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        read_llm(folder)
