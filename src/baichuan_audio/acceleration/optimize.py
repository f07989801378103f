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
from .cpu.layers import (
    Fp32Linear,
    FusedAudioHead,
    FusedDecoderLayer,
    FusedLanguageModel,
    FusedRMSNorm,
    LinearFactory,
    transposed_linear,
)
from .cpu.model import native_audio_head, native_language_model
from .cuda.flow import static_flow
from .cuda.session import DecoderSessions
from .modules import FusedFeedForward, SplitDepthLayer, deep_module_copy, module_copy
from .quantization import Int8Linear, check_kind, weight_bytes, with_torchao

_SESSIONS = 4
_POSITIONS = 4096
_NATIVE_BYTES = 4 << 30
"""Weights of which a second copy is made for native steps; those of a larger model are for more than one core."""
_CACHE_BYTES = 64 << 20
"""Weights that a processor's cache may hold; those of a larger model are read from memory, and lie as they lie."""


@torch.no_grad()
def optimize_for_inference(model: BaichuanAudio, quantization: str | None = None) -> BaichuanAudio:
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
            return native_copy(model, compiled).eval()
    if on_cpu and weight.dtype == torch.float32:
        return fused_copy(model, linear_layout(model) if quantization is None else Int8Linear).eval()
    optimized = joined_copy(model)
    if quantization is not None:
        with_torchao(optimized, quantization)
    if weight.is_cuda:
        optimized.session_type = DecoderSessions(_SESSIONS, min(optimized.context, _POSITIONS))
        if model.flow.config.diffusion_steps:  # else there is nothing to solve
            optimized.flow = static_flow(model.flow)
    return optimized.eval()


def linear_layout(model: BaichuanAudio) -> LinearFactory:
    """How the products of a model's backbone and audio head are best made on a CPU in float32."""
    return transposed_linear if _decode_bytes(model) <= _CACHE_BYTES else Fp32Linear


def _decode_bytes(model: BaichuanAudio) -> int:
    """Of the weights that decoding reads."""
    parts = (model.language_model.layers, model.language_model.lm_head, model.audio_head)
    return sum(weight_bytes(part) for part in parts)


def fused_copy(model: BaichuanAudio, make: LinearFactory) -> BaichuanAudio:
    """`model` with layers of few operations, for float32 on a CPU."""
    return _inference_copy(
        model, _fused_language_model(model.language_model, make), _fused_audio_head(model.audio_head, make)
    )


def native_copy(model: BaichuanAudio, compiled: ctypes.CDLL) -> BaichuanAudio:
    """`model` with steps in C, for float32 or bfloat16 on a CPU."""
    head = native_audio_head(model.audio_head, compiled)
    return _inference_copy(model, native_language_model(model.language_model, compiled), head)


def joined_copy(model: BaichuanAudio) -> BaichuanAudio:
    """`model` with the layers that a Decoder and torchao take."""
    return _inference_copy(model, _language_model(model.language_model), _audio_head(model.audio_head))


def _inference_copy(model: BaichuanAudio, language_model: LanguageModel, head: AudioHead) -> BaichuanAudio:
    optimized = module_copy(model)
    optimized.inference_only, optimized.session_type = True, Session
    optimized.language_model, optimized.audio_head = language_model, head
    head.attach_embeddings(language_model.audio_embed_layers)
    optimized.tokenizer = module_copy(model.tokenizer)
    optimized.tokenizer.attach_synthesis(optimized._synthesize, optimized.sample_rate)
    return optimized


def _language_model(model: LanguageModel) -> LanguageModel:
    """Gate and up as one product."""
    optimized = deep_module_copy(model)
    for layer, source in zip(optimized.layers, model.layers, strict=True):
        assert isinstance(source, DecoderLayer)
        layer.mlp = FusedFeedForward(source.mlp)
    return optimized


def _audio_head(head: AudioHead) -> AudioHead:
    """Each position's weights laid together."""
    optimized = module_copy(head)
    layers = [SplitDepthLayer(cast(DepthLayer, layer)) for layer in head.transformer_layers]
    optimized.transformer_layers, optimized.heads = nn.ModuleList(layers), deep_module_copy(head.heads)
    return optimized


def _fused_language_model(model: LanguageModel, make: LinearFactory) -> LanguageModel:
    optimized = module_copy(model)
    optimized.__class__ = FusedLanguageModel
    optimized.layers = nn.ModuleList([FusedDecoderLayer(cast(DecoderLayer, layer), make) for layer in model.layers])
    optimized.norm, optimized.lm_head = FusedRMSNorm(model.norm), make(model.lm_head)  # type: ignore[assignment]
    cast(FusedLanguageModel, optimized).prepare()
    return optimized


def _fused_audio_head(head: AudioHead, make: LinearFactory) -> AudioHead:
    optimized = module_copy(head)
    optimized.__class__ = FusedAudioHead
    cast(FusedAudioHead, optimized).prepare(make)
    return optimized
