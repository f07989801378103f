"""Random initialisation: a checkpoint in the released layout with the sizes of a config.json; audio embeddings."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from ...audio_tokenizer import AudioTokenizer
from ...audio_tokenizer.quantizer import codebooks
from ...checkpoint import save
from ...data.alignment.phone_alignment import PHONES_PER_FRAME, Alignment, frame_phonemes
from ...data.store.codes_store import CodesStore
from ...errors import ConfigError, DataError
from ...language_model.build_tokenizer import token_id_entries
from ...language_model.text_tokenizer import TextTokenizer
from ...model import BaichuanAudio
from ...safetensors_io import read_json
from ...vocoder.vocos import Vocos

_FITTED_CLIPS = 3000
_RIDGE = 1e-3  # of the vectors' mean variance


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


def initialise(template: str | Path, tokenizer: Tokenizer, directory: str | Path, seed: int = 0) -> BaichuanAudio:
    """Write a randomly initialised model with `template`'s sizes and this text tokenizer; returns it.

    Raises CheckpointError when the template cannot be read or `directory` cannot be written, ConfigError when an entry
    is missing or impossible.
    """
    config = complete_config(read_json(Path(template)), tokenizer)
    torch.manual_seed(seed)
    model = BaichuanAudio(config, TextTokenizer(tokenizer.to_str()), Vocos.from_config(config))
    initialise_language_model(model)
    save(model, directory)
    return model


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


@torch.no_grad()
def embed_codes_like_sounds(
    model: BaichuanAudio,
    tokenizer: AudioTokenizer,
    codes: CodesStore,
    alignments: Mapping[str, Alignment],
    seed: int = 0,
) -> float:
    """Initialise `audio_embed_layers` so that true codes have the embeddings of the pseudo-codes of their phonemes.

    After training on pseudo-codes, embeddings of the first codebooks stand for phonemes. The quantised vector of a
    frame is mapped to the sum of the embeddings of the frame's aligned phonemes by ridge regression; as the
    vector is the sum of codebook entries, each entry gets its share. Returns the share of variance explained (R^2).
    Raises DataError when no aligned clip has codes.
    """
    embeddings = [cast(nn.Embedding, layer) for layer in model.language_model.audio_embed_layers]
    books = [book.embed.double() for book in codebooks(tokenizer.bridge.vq_list)]
    vectors, targets = [], []
    for name in _shuffled([name for name in alignments if name in codes], seed)[:_FITTED_CLIPS]:
        clip = codes[name]
        vectors.append(torch.stack([book[row] for book, row in zip(books, clip, strict=True)]).sum(0))
        sounds = torch.from_numpy(frame_phonemes(alignments[name], clip.shape[1], tokenizer.frame_rate))
        targets.append(
            torch.stack([embeddings[k].weight[sounds[:, k]] for k in range(PHONES_PER_FRAME)]).sum(0).double()
        )
    if not vectors:
        raise DataError(
            "no clip has both codes and an alignment; make them with `baichuan-audio data encode` and `data align`."
        )
    x, y = torch.cat(vectors), torch.cat(targets)
    voices = sum(embedding.weight[:-1].mean(0).double() for embedding in embeddings[PHONES_PER_FRAME:])
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    ridge = _RIDGE * x.square().sum() / x.shape[1] * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(x.T @ x + ridge, x.T @ y)
    explained = 1 - float((y - x @ weight).square().sum() / y.square().sum())
    shift = (y_mean + voices - x_mean @ weight) / len(books)
    for embedding, book in zip(embeddings, books, strict=True):
        embedding.weight[:-1] = (book @ weight + shift).to(embedding.weight)
    return explained


def _shuffled(names: list[str], seed: int) -> list[str]:
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def texts_of(rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Every text of dialogue rows, question or reply, for building a text tokenizer."""
    for row in rows:
        for message in row["messages"]:
            yield str(message["content"])
