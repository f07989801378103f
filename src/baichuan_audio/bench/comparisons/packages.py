"""Other packages that run a Llama of random weights; each is optional, and imported where it is used.

A peer reads a prompt of `history` ids once and then decodes text ids, one step at a time, on one thread or more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ...language_model.backbone import BackboneConfig


class Seconds(NamedTuple):
    """Of one token: wall time, and CPU time of the whole process, which other programs hardly change."""

    wall: float
    cpu: float


class Peer(Protocol):
    """name: as in the table. weight_bytes: of what a token reads."""

    name: str
    weight_bytes: float

    def decode(self, count: int) -> Seconds:
        """Decode `count` ids after the history -> the time of one."""
        ...


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """The list becomes [wall seconds, CPU seconds] at the end."""
    result: list[float] = []
    wall, cpu = time.perf_counter(), time.process_time()
    yield result
    result += [time.perf_counter() - wall, time.process_time() - cpu]


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes, and how much it reads before it decodes."""

    config: BackboneConfig
    history: int
    threads: int

    @property
    def elements(self) -> int:
        """Weights that a token reads: the layers and the text logits."""
        config, width = self.config, self.config.hidden_size
        attention = (2 * config.num_attention_heads + 2 * config.key_value_heads) * config.head_width
        layer = width * attention + 3 * width * config.intermediate_size
        return config.num_hidden_layers * layer + width * config.vocab_size

    def prompt(self) -> list[int]:
        """Ids that every package has."""
        return [3 + 7 * i % 1000 for i in range(self.history)]


class TransformersPeer:
    """`LlamaForCausalLM` of transformers, eager."""

    def __init__(self, shape: Shape, dtype: torch.dtype) -> None:
        from transformers import DynamicCache

        self.name = f"transformers, {str(dtype).removeprefix('torch.')}"
        self.weight_bytes = float(shape.elements * dtype.itemsize)
        self._model, self._shape, self._cache = _llama(shape).to(dtype), shape, DynamicCache()
        with torch.inference_mode():
            self._model(torch.tensor([shape.prompt()]), past_key_values=self._cache, use_cache=True)

    @torch.inference_mode()
    def decode(self, count: int) -> Seconds:
        """See Peer."""
        decoded = self._cache.get_seq_length() - self._shape.history
        if decoded:
            self._cache.crop(-decoded)
        token = torch.tensor([[5]])
        with stopwatch() as seconds:
            for _ in range(count):
                token = self._model(token, past_key_values=self._cache, use_cache=True).logits[:, -1:].argmax(-1)
        return Seconds(seconds[0] / count, seconds[1] / count)


def _llama(shape: Shape) -> Any:
    """A Llama of transformers with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = shape.config
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.key_value_heads,
            head_dim=config.head_width,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
        )
    ).eval()


class CTranslate2Peer:
    """A Generator of CTranslate2, whose model is converted from transformers'."""

    def __init__(self, shape: Shape, kind: str, folder: Path) -> None:
        import ctranslate2
        from ctranslate2.converters.transformers import LlamaLoader

        self.name = f"CTranslate2, {kind}"
        self.weight_bytes = float(shape.elements * (4 if kind == "float32" else 1))
        spec = LlamaLoader().get_model_spec(_llama(shape))  # which takes the model apart
        spec.register_vocabulary([str(i) for i in range(shape.config.vocab_size)])
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
        spec.config.layer_norm_epsilon = shape.config.rms_norm_eps
        spec.validate()
        spec.optimize(quantization=kind)
        target = folder / f"ctranslate2-{kind}"
        target.mkdir()
        spec.save(str(target))
        self._generator = ctranslate2.Generator(str(target), compute_type=kind, intra_threads=shape.threads)
        self._prompt = [str(i) for i in shape.prompt()]

    def decode(self, count: int) -> Seconds:
        """See Peer; the prompt is read each time, and its time is taken off."""
        long, short = self._seconds(count + 1), self._seconds(1)
        return Seconds((long[0] - short[0]) / count, (long[1] - short[1]) / count)

    def _seconds(self, count: int) -> list[float]:
        with stopwatch() as seconds:
            self._generator.generate_batch(
                [self._prompt], max_length=count, min_length=count, sampling_topk=1, include_prompt_in_result=False
            )
        return seconds


class LlamaCppPeer:
    """llama.cpp, by xllamacpp's wheels, of a GGUF file."""

    def __init__(self, shape: Shape, file: Path, name: str, weight_bytes: float) -> None:
        import xllamacpp

        self.name, self.weight_bytes = name, weight_bytes
        settings = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx, settings.n_parallel, settings.warmup, settings.verbosity = 1024, 1, False, -1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = shape.threads
        self._server, self._prompt = xllamacpp.Server(settings), shape.prompt()
        self.decode(1)

    def decode(self, count: int) -> Seconds:
        """See Peer; one more token, the prompt's last, is counted and read."""
        request = {"prompt": self._prompt, "n_predict": count, "temperature": 0.0, "cache_prompt": True}
        with stopwatch() as seconds:
            done = self._server.handle_completions(request | {"ignore_eos": True})
        times = done["timings"]
        return Seconds((times["prompt_ms"] + times["predicted_ms"]) / 1e3 / count, seconds[1] / count)


def _add_vocabulary(writer: Any, size: int) -> None:
    """Any words: ids are given and read. llama.cpp's server ends the process on a file that has none."""
    import gguf

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256]
    words = [f"w{i}" for i in range(max(0, size - len(tokens)))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list((tokens + words)[:size])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types((types + [kind.NORMAL] * len(words))[:size])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def write_gguf(shape: Shape, kind: str, file: Path) -> None:
    """A Llama of random weights as a GGUF file; kind: "Q8_0" or "Q4_0"."""
    import gguf

    config, quantization = shape.config, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_vocabulary(writer, config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        weight = random.standard_normal((rows, columns), np.float32) * 0.02
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weight, quantization), raw_dtype=quantization)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(config.hidden_size, np.float32))

    width, inner = config.hidden_size, config.intermediate_size
    heads, groups = config.num_attention_heads * config.head_width, config.key_value_heads * config.head_width
    matrix("token_embd", config.vocab_size, width)
    for layer in range(config.num_hidden_layers):
        norm(f"blk.{layer}.attn_norm")
        norm(f"blk.{layer}.ffn_norm")
        sizes = {"attn_q": (heads, width), "attn_k": (groups, width), "attn_v": (groups, width)}
        sizes |= {"attn_output": (width, heads), "ffn_gate": (inner, width), "ffn_up": (inner, width)}
        for name, (rows, columns) in (sizes | {"ffn_down": (width, inner)}).items():
            matrix(f"blk.{layer}.{name}", rows, columns)
    norm("output_norm")
    matrix("output", config.vocab_size, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
