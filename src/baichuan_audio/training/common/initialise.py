"""Random initialisation of the language model and of what reads and writes codes in it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from ...audio_tokenizer import AudioTokenizer
from ...audio_tokenizer.quantizer import codebooks
from ...errors import ConfigError
from ...language_model.build_tokenizer import token_id_entries
from ...model import BaichuanAudio


def complete_config(template: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The template with what depends on the text tokenizer: vocab_size and the control tokens' ids."""
    config = copy.deepcopy(dict(template))
    ids = token_id_entries(tokenizer)
    config["vocab_size"] = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if not isinstance(config.get("audio_config"), dict):
        raise ConfigError("the template of the config.json has no audio_config.")
    config["audio_config"] |= ids
    config["multimodal_special_token_list"] = sorted(ids.values())
    return config


@torch.no_grad()
def initialise_language_model(model: BaichuanAudio) -> None:
    """Draw backbone and audio head anew: N(0, initializer_range), less for what is added to the residual stream."""
    std = float(model.config.get("initializer_range", 0.02))
    for part in (model.language_model, model.audio_head):
        layers = len(part.layers if part is model.language_model else part.transformer_layers)  # type: ignore[arg-type]
        for name, parameter in part.named_parameters():
            if parameter.ndim < 2:
                nn.init.constant_(parameter, 1.0 if "norm" in name else 0.0)
                continue
            to_residual = name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "linear2.weight"))
            nn.init.normal_(parameter, std=std / math.sqrt(2 * layers) if to_residual else std)


@torch.no_grad()
def initialise_audio(model: BaichuanAudio) -> None:
    """Draw the audio embeddings and the audio head's output layers anew; what lies between them stays."""
    std = float(model.config.get("initializer_range", 0.02))
    for part in (model.language_model.audio_embed_layers, model.audio_head.heads):
        for parameter in part.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=std)
            else:
                nn.init.zeros_(parameter)


@torch.no_grad()
def embed_codebooks(model: BaichuanAudio, tokenizer: AudioTokenizer) -> None:
    """Initialise `audio_embed_layers` from the codebooks: by one projection of all entries.

    The sum over the levels is then the projected quantised vector. The projection takes the directions in which the
    entries differ most (their singular vectors), scaled to the embeddings' usual size; "end of audio" rows stay.
    """
    books = [book.embed.float() for book in codebooks(tokenizer.bridge.vq_list)]
    directions = torch.linalg.svd(torch.cat(books), full_matrices=False)[2]
    width = model.language_model.embed_tokens.embedding_dim
    projection = torch.zeros(books[0].shape[1], width)
    kept = min(width, directions.shape[0])
    projection[:, :kept] = directions[:kept].T
    std = float(model.config.get("initializer_range", 0.02))
    scale = std * math.sqrt(len(books)) / (books[0] @ projection).std().clamp(min=1e-8)
    for embedding, book in zip(model.language_model.audio_embed_layers, books, strict=True):
        embedding.weight[:-1] = (book @ projection) * scale  # type: ignore[index,operator]
