"""A checkpoint put together from training outputs; the weights of one in a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from ...checkpoint import VOCOS_FILE, load, save
from ...errors import TrainingError
from ...model import BaichuanAudio
from ...safetensors_io import read_json
from ...vocoder.vocos import Vocos, save_vocos
from ..flow.train import load_vocoder
from .checkpointing import load_part, modules_of
from .weights_file import MODULES, write_weights_file

_SECTIONS = (
    "vocoder_config", "flow_matching_config", "mel_vocoder_config", "voices", "reply_sampling",
    "text_input_normalization",
)  # fmt: skip


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
    tokenizer, flow: a training output, a file of `export_weights` or a checkpoint directory; None: the base's own.
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


def _config(base: dict[str, Any], template: str | Path | None) -> dict[str, Any]:
    """The base's config with the template's sizes of everything but the language model, and its voices and sampling."""
    config = copy.deepcopy(base)
    if template is None:
        return config
    sizes = read_json(Path(template))
    try:
        config |= {name: sizes[name] for name in _SECTIONS if name in sizes}
        of_base = {"audio_head_transformer_layers", "audio_head_dim", "vq_config"}
        config["audio_config"] |= {name: value for name, value in sizes["audio_config"].items() if name not in of_base}
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{template}: not a model's config.json: it has no audio_config.") from error
    return config


def export_weights(output: str | Path, file: str | Path) -> None:
    """Write what the training output `output` has learnt for later stages to `file`, large matrices in 8 bits.

    Raises TrainingError where nothing in it is read by a later stage, CheckpointError where `file` cannot be written.
    """
    modules = modules_of(output, MODULES)
    if not modules:
        raise TrainingError(f"{output}: holds none of {', '.join(MODULES)}, so no later stage reads it.")
    write_weights_file(modules, Path(file))
