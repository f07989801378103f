"""Checkpoints from training outputs: initialise, assemble from parts, average."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...checkpoint import VOCOS_FILE, load, save
from ...errors import DataError, TrainingError
from ...language_model.build_tokenizer import build_text_tokenizer, frequent_words
from ...model import BaichuanAudio
from ...safetensors_io import read_json
from ...text.lines import read_json_rows
from ...vocoder.vocos import Vocos, save_vocos
from ..flow.train import load_vocoder
from .checkpointing import load_part
from .initialise import initialise, texts_of

_SECTIONS = (
    "vocoder_config", "flow_matching_config", "mel_vocoder_config", "voices", "reply_sampling",
    "text_input_normalization",
)  # fmt: skip


def start(template: str | Path, dialogues: str | Path, output: str | Path, word_count: int = 12) -> BaichuanAudio:
    """A random model with `template`'s sizes, and a text tokenizer of the characters and frequent words that the
    dialogues for training have.

    dialogues: a corpus' `dialogues.jsonl`. Raises DataError when it cannot be read.
    """
    rows = [row for _, row in read_json_rows(dialogues)]
    try:
        texts = list(texts_of(row for row in rows if row.get("split", "train") == "train"))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{dialogues}: a row is no dialogue, it has no readable list of turns.") from error
    return initialise(template, build_text_tokenizer(texts, frequent_words(texts, word_count)), output)


def assemble(
    base: str | Path,
    output: str | Path,
    template: str | Path | None = None,
    tokenizer: str | None = None,
    flow: str | None = None,
    vocoder: str | None = None,
    dtype: torch.dtype | None = None,
) -> BaichuanAudio:
    """Write the model of checkpoint `base` with parts taken from elsewhere to the directory `output`.

    template: a config.json whose sizes the new parts have; None: the base's own.
    tokenizer, flow: a training output or a checkpoint directory; None: the base's own.
    vocoder: `vocoder.safetensors` or `hift.pt`; None: the base's own.
    dtype: what the weights but a HiFT's are rounded to. Round the audio tokenizer before codes are made with it:
        a rounded codebook picks other codes.

    Raises CheckpointError, ConfigError or TrainingError where a part is missing or does not fit.
    """
    original = load(base, dtype=torch.float32)
    config = _config(original.config, template)
    mel_vocoder = original.vocoder if vocoder is None else load_vocoder(vocoder, config)
    model = BaichuanAudio(config, original.text_tokenizer, mel_vocoder)
    model.language_model.load_state_dict(original.language_model.state_dict())
    model.audio_head.load_state_dict(original.audio_head.state_dict())
    for name, source in (("tokenizer", tokenizer), ("flow", flow)):
        module = getattr(model, name)
        if source is not None:
            load_part(module, name, source)
        elif template is None:
            module.load_state_dict(getattr(original, name).state_dict())
    if dtype is not None:
        for name in ("tokenizer", "flow", "language_model", "audio_head"):
            getattr(model, name).to(dtype)
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
    save(model, output)
    if dtype is not None and isinstance(model.vocoder, Vocos):
        save_vocos(model.vocoder, Path(output) / VOCOS_FILE, dtype)
    return model


@torch.no_grad()
def average(checkpoints: Sequence[str | Path], output: str | Path) -> BaichuanAudio:
    """Write the mean of several checkpoints' weights to the directory `output`.

    For runs of one recipe with other seeds from the same start: their mean errs less than each of them (Wortsman et
    al. 2022, "Model soups", arXiv 2203.05482). Sums are float64; one checkpoint at a time is in memory beside them.

    Raises CheckpointError where one cannot be read, TrainingError where they are not of one model.
    """
    if len(checkpoints) < 2:
        raise TrainingError("a mean needs two checkpoints at least.")
    mean = load(checkpoints[0], dtype=torch.float32)
    sums = {name: tensor.double() for name, tensor in mean.state_dict().items() if tensor.is_floating_point()}
    for checkpoint in checkpoints[1:]:
        other = load(checkpoint, dtype=torch.float32)
        same = _but_type(other.config) == _but_type(mean.config)
        if not same or other.text_tokenizer.source != mean.text_tokenizer.source:
            raise TrainingError(f"{checkpoint} and {checkpoints[0]} have different sizes or text tokenizers.")
        for name, tensor in other.state_dict().items():
            if name in sums:
                sums[name] += tensor
    for name, tensor in mean.state_dict().items():
        if name in sums:
            tensor.copy_(sums[name] / len(checkpoints))
    mean.config["torch_dtype"] = "float32"
    save(mean, output)
    return mean


def _but_type(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "torch_dtype"}


def _config(base: dict[str, Any], template: str | Path | None) -> dict[str, Any]:
    """The base's config with the template's sizes of everything but the language model, and its voices and sampling."""
    config = copy.deepcopy(base)
    if template is None:
        return config
    sizes = read_json(Path(template))
    try:
        config |= {name: sizes[name] for name in _SECTIONS if name in sizes}
        of_base = {"audio_head_transformer_layers", "vq_config"}
        config["audio_config"] |= {name: value for name, value in sizes["audio_config"].items() if name not in of_base}
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{template}: not a model's config.json: it has no audio_config.") from error
    return config
