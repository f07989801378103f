"""A loaded model -> the same model for inference: fewer and larger products, nothing stored twice that need not be."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ..language_model.audio_head import AudioHead, DepthLayer
from ..language_model.backbone import DecoderLayer
from ..language_model.model import LanguageModel
from ..pipeline import BaichuanAudio
from .modules import JoinedFeedForward, SplitDepthLayer, quick_norm, shell


@torch.no_grad()
def accelerate(model: BaichuanAudio) -> BaichuanAudio:
    """A twin of `model` that computes the same more quickly, for inference only (it cannot be trained or saved).

    The twin shares the encoder, the decoders and nearly all weights with `model`, which stays as it was. Outputs agree
    to the rounding of float32 (tests hold it to a relative error of 1e-5).
    """
    twin = shell(model)
    twin.inference_only = True
    twin.language_model = inference_language_model(model.language_model)
    twin.audio_head = inference_audio_head(model.audio_head)
    twin.audio_head.attach_embeddings(twin.language_model.audio_embed_layers)
    twin.tokenizer = shell(model.tokenizer)
    twin.tokenizer.attach_synthesis(twin._synthesize, twin.sample_rate)
    return twin.eval()


def inference_language_model(model: LanguageModel) -> LanguageModel:
    twin = shell(model)
    twin.norm = quick_norm(model.norm)  # type: ignore[assignment]
    twin.layers = nn.ModuleList([_decoder_layer(cast(DecoderLayer, layer)) for layer in model.layers])
    return twin


def _decoder_layer(source: DecoderLayer) -> DecoderLayer:
    twin = shell(source)
    twin.mlp = JoinedFeedForward(source.mlp)  # type: ignore[assignment]
    twin.input_layernorm = quick_norm(source.input_layernorm)  # type: ignore[assignment]
    twin.post_attention_layernorm = quick_norm(source.post_attention_layernorm)  # type: ignore[assignment]
    return twin


def inference_audio_head(head: AudioHead) -> AudioHead:
    twin = shell(head)
    twin.transformer_layers = nn.ModuleList(
        [SplitDepthLayer(cast(DepthLayer, layer)) for layer in head.transformer_layers]
    )
    twin.headnorm = quick_norm(head.headnorm)  # type: ignore[assignment]
    return twin
