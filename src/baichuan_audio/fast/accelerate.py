"""A loaded model -> the same model for inference: fewer and larger products, nothing stored twice that need not be."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ..language_model.audio_head import AudioHead, DepthLayer
from ..language_model.backbone import DecoderLayer
from ..language_model.model import LanguageModel
from ..pipeline import BaichuanAudio
from .modules import JoinedFeedForward, SplitDepthLayer, deep_shell, quick_norm, shell
from .quantize import quantize
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
    twin = shell(model)
    twin.inference_only = True
    twin.language_model = inference_language_model(model.language_model)
    twin.audio_head = inference_audio_head(model.audio_head)
    twin.audio_head.attach_embeddings(twin.language_model.audio_embed_layers)
    twin.tokenizer = shell(model.tokenizer)
    twin.tokenizer.attach_synthesis(twin._synthesize, twin.sample_rate)
    if quantization is not None:
        quantize(twin, quantization)
    if twin.language_model.embed_tokens.weight.is_cuda:
        twin.session_type = DecoderSessions(_SESSIONS, min(twin.context, _POSITIONS))
    return twin.eval()


def inference_language_model(model: LanguageModel) -> LanguageModel:
    """The twin of a language model: gate and up joined, quick norms."""
    twin = deep_shell(model)
    twin.norm = quick_norm(model.norm)  # type: ignore[assignment]
    for layer, source in zip(twin.layers, model.layers, strict=True):
        assert isinstance(source, DecoderLayer)
        layer.mlp = JoinedFeedForward(source.mlp)
        layer.input_layernorm = quick_norm(source.input_layernorm)
        layer.post_attention_layernorm = quick_norm(source.post_attention_layernorm)
    return twin


def inference_audio_head(head: AudioHead) -> AudioHead:
    """The twin of an audio head: each position's weights laid together, quick norms."""
    twin = shell(head)
    twin.transformer_layers = nn.ModuleList(
        [SplitDepthLayer(cast(DepthLayer, each)) for each in head.transformer_layers]
    )
    twin.headnorm = quick_norm(head.headnorm)  # type: ignore[assignment]
    twin.heads = deep_shell(head.heads)
    return twin
