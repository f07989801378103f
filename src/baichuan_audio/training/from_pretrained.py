"""A first checkpoint of the released layout from a published language model and a Whisper encoder."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from ..audio_tokenizer import AudioTokenizer
from ..checkpoint import load_vocoder, save
from ..errors import CheckpointError, ConfigError
from ..flow_decoder import FlowDecoder
from ..language_model.build_tokenizer import CONTROL_TOKENS, token_id_entries
from ..language_model.model import LanguageModel
from ..language_model.text_tokenizer import TextTokenizer
from ..layers.shapes import shapes_only
from ..model import BaichuanAudio
from ..pretrained.fetch import local_or_hub
from ..pretrained.llm import PretrainedLLM, read_llm
from ..pretrained.whisper import read_whisper
from ..safetensors_io import read_json
from ..vocoder.hift import Hift, HiftConfig
from ..vocoder.vocos import Vocos
from .common.initialise import initialise_audio, initialise_language_model


def from_pretrained(
    template: str | Path,
    llm: str | Path,
    output: str | Path,
    encoder: str | Path | None = None,
    vocoder: str | Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> BaichuanAudio:
    """Write a model whose backbone is `llm` and whose audio encoder is that of the Whisper model `encoder`.

    llm, encoder: folders, a GGUF file, or hub ids. template: a config.json; its sizes of the backbone are replaced by
    those of `llm`, and its control tokens are added to that model's text tokenizer; so are its `phrase_tokens`, texts
    of many ids that become one, which begins as the mean embedding of a text that means the same: an instruction in a
    language that `llm` does not know costs no room then. encoder: None leaves it random.
    vocoder: `hift.pt` or `vocoder.safetensors`; None: random. All else is random. dtype: of the weights as they are
    stored. The codebooks are to be trained: the stage `tokenizer` starts them by k-means on the encoder's features.

    Raises CheckpointError or ConfigError where a part cannot be read, or does not fit the template.
    """
    torch.manual_seed(seed)
    source = read_llm(local_or_hub(llm))
    config = read_json(Path(template))
    phrases = _phrases(config.pop("phrase_tokens", {}))
    tokenizer = with_control_tokens(source.tokenizer, phrases)
    config = complete(config, source, tokenizer)
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    text_tokenizer = TextTokenizer(tokenizer.to_str(), json.dumps({"chat_template": source.chat_template}))
    with shapes_only():
        model = BaichuanAudio(config, text_tokenizer, _vocoder(config, vocoder))
    model.tokenizer, model.flow = (
        AudioTokenizer.from_config(config).to(dtype),
        FlowDecoder.from_config(config).to(dtype),
    )
    model.vocoder = _vocoder(config, vocoder)
    for part in (model.language_model, model.audio_head):
        part.to(dtype).to_empty(device="cpu")
    model.audio_head.attach_embeddings(model.language_model.audio_embed_layers)
    initialise_language_model(model)
    initialise_audio(model)
    fill_backbone(model.language_model, source)
    embed_phrases(model.language_model, text_tokenizer, phrases)
    if encoder is not None:
        load_encoder(model.tokenizer, encoder)
    save(model, output)
    return model


def _phrases(entry: Any) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(
        isinstance(text, str) and text for pair in entry.items() for text in pair
    ):
        raise ConfigError("phrase_tokens must give each phrase a text that means the same.")
    return entry


def with_control_tokens(source: str, phrases: Iterable[str] = ()) -> Tokenizer:
    """The tokenizer of the text of a `tokenizer.json`; after its own tokens this model's control tokens that it lacks,
    and the phrases as one token each."""
    try:
        tokenizer = Tokenizer.from_str(source)
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"the language model's tokenizer.json cannot be read ({error}).") from error
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in phrases])
    return tokenizer


def complete(template: dict[str, Any], llm: PretrainedLLM, tokenizer: Tokenizer) -> dict[str, Any]:
    """The template with the sizes of the language model, and the ids of the control tokens."""
    if not isinstance(template.get("audio_config"), dict):
        raise ConfigError("the template of the config.json has no audio_config.")
    config = copy.deepcopy(template)
    config.pop("head_dim", None)
    config |= llm.config
    ids = token_id_entries(tokenizer)
    needed = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    config["vocab_size"] = max(config["vocab_size"], needed)
    config["audio_config"] |= ids
    config["multimodal_special_token_list"] = sorted(ids.values())
    return config


def _vocoder(config: dict[str, Any], path: str | Path | None) -> Hift | Vocos:
    if path is not None:
        return load_vocoder(Path(path).parent, config, path)
    return Vocos.from_config(config) if "mel_vocoder_config" in config else Hift(HiftConfig())


@torch.no_grad()
def fill_backbone(language_model: LanguageModel, llm: PretrainedLLM) -> None:
    """Copy the tensors, one at a time; rows that the tables have beyond the source's are drawn around its mean."""
    for name, target in language_model.state_dict().items():
        if name not in llm.tensors:
            continue
        tensor = llm.tensors[name].read()
        rows = tensor.shape[0]
        if tensor.shape[1:] != target.shape[1:] or rows > target.shape[0]:
            raise CheckpointError(f"the language model's {name} is {list(tensor.shape)}, not {list(target.shape)}.")
        target[:rows] = tensor
        if rows < target.shape[0]:
            target[rows:] = _more_rows(tensor, target.shape[0] - rows).to(target.dtype)


@torch.no_grad()
def embed_phrases(language_model: LanguageModel, tokenizer: TextTokenizer, phrases: Mapping[str, str]) -> None:
    """Give the one token of each phrase the mean embedding of the text that means the same."""
    table = language_model.embed_tokens.weight
    for phrase, meaning in phrases.items():
        (row,) = tokenizer.encode(phrase)
        table[row] = table[tokenizer.encode(meaning)].float().mean(0).to(table.dtype)


def _more_rows(table: Tensor, count: int) -> Tensor:
    """[rows, D] -> [count, D] from the normal distribution that its columns have."""
    mean, std = table.float().mean(0), table.float().std(0)
    return mean + std * torch.randn(count, table.shape[1])


@torch.no_grad()
def load_encoder(tokenizer: AudioTokenizer, whisper: str | Path) -> None:
    """Give the audio tokenizer the encoder of a Whisper model. Raises CheckpointError where its sizes are others."""
    source = read_whisper(local_or_hub(whisper), decoder=False)
    for name, size in source.encoder.items():
        due = getattr(tokenizer.config, name)
        if size != due:
            raise CheckpointError(f"{whisper}: its {name} is {size}, but {due} in the config.json.")
    state = {**source.encoder_state(), "positional_embedding": tokenizer.encoder.positional_embedding}
    tokenizer.encoder.load_state_dict(state)
