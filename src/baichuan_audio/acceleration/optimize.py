"""A loaded model -> the same model for inference: fewer and larger products, nothing stored twice that need not be."""

from __future__ import annotations

import ctypes
from typing import cast

import torch
from torch import nn

from ..generation.session import Session
from ..language_model.audio_head import AudioHead, DepthLayer
from ..language_model.backbone import DecoderLayer
from ..language_model.model import LanguageModel
from ..model import BaichuanAudio
from .cpu.kernels import library
from .cpu.layers import Exact, Make, QuickDecoderLayer, QuickHead, QuickLanguageModel, QuickNorm, laid_across
from .cpu.model import native_audio_head, native_language_model
from .cuda.flow import static_flow
from .cuda.session import DecoderSessions
from .modules import JoinedFeedForward, SplitDepthLayer, deep_shell, shell
from .quantization import Int8Linear, check_kind, weight_bytes, with_torchao

_SESSIONS = 4
_POSITIONS = 4096
_NATIVE_BYTES = 4 << 30
"""Weights of which a second copy is made for native steps; those of a larger model are for more than one core."""
_CACHE_BYTES = 64 << 20
"""Weights that a processor's cache may hold; those of a larger model are read from memory, and lie as they lie."""


@torch.no_grad()
def accelerate(model: BaichuanAudio, quantization: str | None = None) -> BaichuanAudio:
    """A twin of `model` that computes the same more quickly, for inference only (it cannot be trained or saved).

    The twin shares the encoder, the decoders and nearly all weights with `model` (on a CPU those of a small one are
    copied), which stays as it was; its outputs agree to rounding. On CUDA its sessions decode, and its flow
    decoder solves chunks, by captured graphs.
    quantization: None, "int8", "int4" or "fp8" for the weights of backbone and audio head, which are then new memory.
    Raises ConfigError for a kind that cannot be had here, MissingDependencyError without torchao on CUDA.
    """
    weight = model.language_model.embed_tokens.weight
    if quantization is not None:
        check_kind(quantization, weight)
    on_cpu = weight.device.type == "cpu"
    if on_cpu and quantization is None and weight.dtype in (torch.float32, torch.bfloat16):
        compiled = library() if _decode_bytes(model) <= _NATIVE_BYTES else None
        if compiled is not None:
            return native_twin(model, compiled).eval()
    if on_cpu and weight.dtype == torch.float32:
        return quick_twin(model, laid_out(model) if quantization is None else Int8Linear).eval()
    twin = joined_twin(model)
    if quantization is not None:
        with_torchao(twin, quantization)
    if weight.is_cuda:
        twin.session_type = DecoderSessions(_SESSIONS, min(twin.context, _POSITIONS))
        if model.flow.config.diffusion_steps:  # else there is nothing to solve
            twin.flow = static_flow(model.flow)
    return twin.eval()


def laid_out(model: BaichuanAudio) -> Make:
    """How the products of a model's backbone and audio head are best made on a CPU in float32."""
    return laid_across if _decode_bytes(model) <= _CACHE_BYTES else Exact


def _decode_bytes(model: BaichuanAudio) -> int:
    """Of the weights that decoding reads."""
    parts = (model.language_model.layers, model.language_model.lm_head, model.audio_head)
    return sum(weight_bytes(part) for part in parts)


def quick_twin(model: BaichuanAudio, make: Make) -> BaichuanAudio:
    """`model` with layers of few operations, for float32 on a CPU."""
    return _twin(model, _quick_language_model(model.language_model, make), _quick_audio_head(model.audio_head, make))


def native_twin(model: BaichuanAudio, compiled: ctypes.CDLL) -> BaichuanAudio:
    """`model` with steps in C, for float32 or bfloat16 on a CPU."""
    head = native_audio_head(model.audio_head, compiled)
    return _twin(model, native_language_model(model.language_model, compiled), head)


def joined_twin(model: BaichuanAudio) -> BaichuanAudio:
    """`model` with the layers that a Decoder and torchao take."""
    return _twin(model, _language_model(model.language_model), _audio_head(model.audio_head))


def _twin(model: BaichuanAudio, language_model: LanguageModel, head: AudioHead) -> BaichuanAudio:
    twin = shell(model)
    twin.inference_only, twin.session_type = True, Session
    twin.language_model, twin.audio_head = language_model, head
    head.attach_embeddings(language_model.audio_embed_layers)
    twin.tokenizer = shell(model.tokenizer)
    twin.tokenizer.attach_synthesis(twin._synthesize, twin.sample_rate)
    return twin


def _language_model(model: LanguageModel) -> LanguageModel:
    """Gate and up as one product."""
    twin = deep_shell(model)
    for layer, source in zip(twin.layers, model.layers, strict=True):
        assert isinstance(source, DecoderLayer)
        layer.mlp = JoinedFeedForward(source.mlp)
    return twin


def _audio_head(head: AudioHead) -> AudioHead:
    """Each position's weights laid together."""
    twin = shell(head)
    layers = [SplitDepthLayer(cast(DepthLayer, layer)) for layer in head.transformer_layers]
    twin.transformer_layers, twin.heads = nn.ModuleList(layers), deep_shell(head.heads)
    return twin


def _quick_language_model(model: LanguageModel, make: Make) -> LanguageModel:
    twin = shell(model)
    twin.__class__ = QuickLanguageModel
    twin.layers = nn.ModuleList([QuickDecoderLayer(cast(DecoderLayer, layer), make) for layer in model.layers])
    twin.norm, twin.lm_head = QuickNorm(model.norm), make(model.lm_head)  # type: ignore[assignment]
    cast(QuickLanguageModel, twin).prepare()
    return twin


def _quick_audio_head(head: AudioHead, make: Make) -> AudioHead:
    twin = shell(head)
    twin.__class__ = QuickHead
    cast(QuickHead, twin).prepare(make)
    return twin
