"""Makes an inference copy of a loaded model: fewer and larger matrix products, weights shared where possible."""

from __future__ import annotations

import ctypes
import logging
import os
from typing import cast

import torch
from torch import nn

from ..checkpoint import open_checkpoint
from ..errors import ConfigError
from ..flow_decoder.model import FlowDecoder
from ..generation.session import Session, SessionFactory
from ..language_model.audio_head import AudioHead, DepthLayer
from ..language_model.backbone import DecoderLayer
from ..language_model.model import LanguageModel
from ..layers.module_copy import module_copy
from ..model import BaichuanAudio
from .cpu.kernels import library
from .cpu.layers import Fp32Linear, FusedAudioHead, FusedLanguageModel, LinearFactory, transposed_linear
from .cpu.model import NativeAudioHead, NativeLanguageModel, is_packed, with_compiled_linears
from .cuda.flow import StaticFlow
from .cuda.session import DecoderSessions
from .modules import FusedFeedForward, SplitDepthLayer, deep_module_copy
from .quantization import Int8Linear, check_kind, with_torchao
from .weights import IN_MEMORY, StoredWeights, Weights, return_free_memory

_log = logging.getLogger(__name__)
_MAX_SESSIONS, _MAX_POSITIONS = 4, 4096  # of the Decoder that sessions share on CUDA
_MAX_NATIVE_BYTES = 4 << 30
"""Decoder weights up to this size are copied for the C kernels; larger models need more than one core."""
_MAX_CACHED_BYTES = 64 << 20
"""Decoder weights up to this size may fit the processor's cache: torch has them transposed, C uses one core."""


@torch.no_grad()
def optimize_for_inference(model: BaichuanAudio, quantization: str | None = None) -> BaichuanAudio:
    """Make a faster copy of `model` for inference only (it cannot be trained or saved).

    The copy shares the encoder, the decoders and nearly all weights with `model` (on a CPU those of a small model are
    copied), which is not changed; its outputs agree to rounding. On CUDA, sessions and the flow decoder use graphs.
    quantization: None, "int8", "int4" or "fp8" for the weights of backbone and audio head, which are then new memory;
    on a CPU keys and values then have 8 bits. Raises ConfigError for a kind that this device does not support,
    MissingDependencyError without torchao on CUDA.
    """
    compiled = _native_kernels(model, IN_MEMORY, quantization)
    if compiled is not None:
        return native_copy(model, compiled, quantization).eval()
    weight = model.language_model.embed_tokens.weight
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        return fused_copy(model, linear_layout(model) if quantization is None else Int8Linear).eval()
    sessions: SessionFactory = Session
    flow: FlowDecoder | None = None
    if weight.is_cuda:
        sessions = DecoderSessions(_MAX_SESSIONS, min(model.context, _MAX_POSITIONS))
        if model.flow.config.diffusion_steps:  # else there is no ODE to solve
            flow = StaticFlow.from_flow(model.flow)
    optimized = joined_copy(model, sessions, flow)
    if quantization is not None:
        with_torchao(optimized, quantization)
    return optimized.eval()


@torch.no_grad()
def load_for_inference(
    path_or_hub_id: str | os.PathLike[str],
    quantization: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    vocoder: str | os.PathLike[str] | None = None,
) -> BaichuanAudio:
    """`optimize_for_inference(load(...), quantization)` in less memory; arguments and errors are theirs.

    On a CPU with a C compiler each matrix is packed when it is read, so no weight is in memory twice, and the text
    embeddings stay in the checkpoint's file.
    """
    opened = open_checkpoint(path_or_hub_id, dtype, device, vocoder)
    weights = StoredWeights(opened)
    compiled = _native_kernels(opened.model, weights, quantization) if opened.device.type == "cpu" else None
    if compiled is None:
        opened.read(opened.names)
        return optimize_for_inference(opened.model.eval().requires_grad_(False), quantization)
    weights.read_rest(is_packed)
    optimized = native_copy(opened.model, compiled, quantization, weights).eval().requires_grad_(False)
    del opened, weights
    return_free_memory()
    return optimized


def _native_kernels(model: BaichuanAudio, weights: Weights, quantization: str | None) -> ctypes.CDLL | None:
    """The compiled kernels, if they are to run this model. Raises ConfigError for an impossible quantization."""
    table = model.language_model.embed_tokens
    dtype, device = weights.dtype(table), weights.device(table)
    if quantization is not None:
        check_kind(quantization, device)
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return None
    small = quantization is not None or _decode_bytes(model, dtype) <= _MAX_NATIVE_BYTES
    compiled = library() if small else None
    if compiled is None and quantization is not None:
        if quantization != "int8" or dtype != torch.float32:
            raise ConfigError(f"{quantization} of a model in {dtype} needs a C compiler on a CPU; install one.")
        _log.warning("int8 without a C compiler may be slower than no quantization; install one.")
    return compiled


def linear_layout(model: BaichuanAudio) -> LinearFactory:
    """The faster float32 Linear on a CPU for the backbone and audio head of this model."""
    return transposed_linear if _decode_bytes(model, torch.float32) <= _MAX_CACHED_BYTES else Fp32Linear


def _decode_bytes(model: BaichuanAudio, dtype: torch.dtype) -> int:
    """Bytes of the weights that decoding reads, in `dtype`."""
    parts = (model.language_model.layers, model.language_model.lm_head, model.audio_head)
    return sum(tensor.numel() for part in parts for tensor in part.state_dict().values()) * dtype.itemsize


def fused_copy(model: BaichuanAudio, make: LinearFactory) -> BaichuanAudio:
    """A copy with fused layers, for float32 on a CPU."""
    language_model = FusedLanguageModel.from_model(model.language_model, make)
    return model.with_parts(language_model=language_model, audio_head=FusedAudioHead.from_head(model.audio_head, make))


def native_copy(
    model: BaichuanAudio, compiled: ctypes.CDLL, kind: str | None = None, weights: Weights = IN_MEMORY
) -> BaichuanAudio:
    """A copy with decode steps in C, for float32 or bfloat16 on a CPU; kind: None, "int8" or "int4".

    weights: those of `model`.
    """
    language_model = NativeLanguageModel.from_model_with_kernels(model.language_model, compiled, kind, weights)
    head = NativeAudioHead.from_head_with_kernels(model.audio_head, compiled, kind, weights)
    dtype = weights.dtype(model.language_model.embed_tokens)
    language_model.share_steps = head.share_steps = _decode_bytes(model, dtype) > _MAX_CACHED_BYTES
    source = module_copy(model)
    source.tokenizer = with_compiled_linears(model.tokenizer, compiled, weights)
    source.vocoder = with_compiled_linears(model.vocoder, compiled, weights)
    flow = with_compiled_linears(model.flow, compiled, weights)
    return source.with_parts(language_model=language_model, audio_head=head, flow=flow)


def joined_copy(
    model: BaichuanAudio, sessions: SessionFactory = Session, flow: FlowDecoder | None = None
) -> BaichuanAudio:
    """A copy with the layers that a Decoder and torchao need; with `sessions` and `flow`, if given."""
    return model.with_parts(sessions, _joined_language_model(model.language_model), _split_head(model.audio_head), flow)


def _joined_language_model(model: LanguageModel) -> LanguageModel:
    """Gate and up as one matrix product."""
    copied = deep_module_copy(model)
    for layer, source in zip(copied.layers, model.layers, strict=True):
        assert isinstance(source, DecoderLayer)
        layer.mlp = FusedFeedForward(source.mlp)
    return copied


def _split_head(head: AudioHead) -> AudioHead:
    """The weights of each position contiguous."""
    copied = module_copy(head)
    layers = [SplitDepthLayer(cast(DepthLayer, layer)) for layer in head.transformer_layers]
    copied.transformer_layers, copied.heads = nn.ModuleList(layers), deep_module_copy(head.heads)
    return copied
