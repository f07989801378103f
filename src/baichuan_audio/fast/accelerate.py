"""A loaded model -> the same model for inference: fewer and larger products, nothing stored twice that need not be."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ..language_model.audio_head import AudioHead, DepthLayer
from ..language_model.backbone import DecoderLayer
from ..language_model.model import LanguageModel
from ..language_model.session import Session
from ..pipeline import BaichuanAudio
from .modules import JoinedFeedForward, SplitDepthLayer, deep_shell, joined, shell
from .quantize import quantize
from .quick import QuickDecoderLayer, QuickHead, QuickNorm
from .session import DecoderSessions

_SESSIONS = 4
_POSITIONS = 4096


@torch.no_grad()
def accelerate(model: BaichuanAudio, quantization: str | None = None) -> BaichuanAudio:
    """A twin of `model` that computes the same more quickly, for inference only (it cannot be trained or saved).

    The twin shares the encoder, the decoders and nearly all weights with `model`, which stays as it was; its outputs
    agree to rounding. On CUDA its sessions decode by captured graphs. quantization: None, "int8", "int4" or "fp8"
    for the weights of backbone and audio head (see `quantize`, which raises ConfigError); these are new memory.
    """
    weight = model.language_model.embed_tokens.weight
    twin = twin_of(model, quick=quantization is None and weight.device.type == "cpu" and weight.dtype == torch.float32)
    if quantization is not None:
        quantize(twin, quantization)
    if weight.is_cuda:
        twin.session_type = DecoderSessions(_SESSIONS, min(twin.context, _POSITIONS))
    return twin.eval()


def twin_of(model: BaichuanAudio, quick: bool) -> BaichuanAudio:
    """`model` with layers of few operations, for a CPU (`quick`), or with those that a Decoder and `quantize` take."""
    twin = shell(model)
    twin.inference_only, twin.session_type = True, Session
    twin.language_model = (_quick_language_model if quick else _language_model)(model.language_model)
    twin.audio_head = (_quick_audio_head if quick else _audio_head)(model.audio_head)
    twin.audio_head.attach_embeddings(twin.language_model.audio_embed_layers)
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


def _quick_language_model(model: LanguageModel) -> LanguageModel:
    twin = shell(model)
    sources = [cast(DecoderLayer, layer) for layer in model.layers]
    twin.layers = nn.ModuleList([QuickDecoderLayer(source, joined(source.mlp)) for source in sources])
    twin.norm = QuickNorm(model.norm)  # type: ignore[assignment]
    return twin


def _quick_audio_head(head: AudioHead) -> AudioHead:
    twin = shell(head)
    twin.__class__ = QuickHead
    cast(QuickHead, twin).prepare()
    return twin
