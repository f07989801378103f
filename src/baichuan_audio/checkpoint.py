"""Released checkpoint directories <-> modules: one table of names, `load` and `save`.

A directory holds `config.json`, the weights (`model.safetensors`, or shards with their index),
`tokenizer.json` with `tokenizer_config.json`, and the vocoder (`hift.pt` or `vocoder.safetensors`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import select
from .errors import CheckpointError, ConfigError
from .language_model.text_tokenizer import TextTokenizer
from .layers.shapes import shapes_only
from .model import BaichuanAudio
from .safetensors_io import INDEX_FILE, SINGLE_FILE, ScaledRows, TensorSource, find_tensors, read_json, write_tensors
from .vocoder.hift import Hift, load_hift, save_hift
from .vocoder.vocos import Vocos, load_vocos, save_vocos

logger = logging.getLogger("baichuan_audio")

# Released prefix -> module. The first match counts, so longer prefixes come first. Below a prefix, parameters have
# the same names in both.
PREFIXES = (
    ("audio_tokenizer.audio_model.", "tokenizer.encoder."),
    ("audio_tokenizer.audio_bridge_model.", "tokenizer.bridge."),
    ("audio_tokenizer.audio_decoder.", "tokenizer.decoder."),
    ("audio_tokenizer.audio_flow_matching_decoder.", "flow."),
    ("audio_head.", "audio_head."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model."),
)
_WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
IGNORED = ("model.visual_", "model.video_", "visual_", "video_")
"""Tensors of the vision modules of the model family, which this implementation does not have."""

HIFT_FILE = "hift.pt"
VOCOS_FILE = "vocoder.safetensors"
_CHECKPOINT_FILES = re.compile(
    r"config\.json|tokenizer(_config)?\.json|hift\.pt|vocoder\.safetensors|base_adapters\.safetensors"
    r"|model.*\.safetensors(\.index\.json)?"
)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
MAX_SHARD_BYTES = 5_000_000_000
_MAX_LISTED = 6  # names listed in an error message


class TensorMismatchError(CheckpointError):
    """The checkpoint's tensors are not those of the model its `config.json` describes.

    `missing` and `unexpected` hold released names; `misshapen` maps a name to (stored, expected) shape.
    """

    def __init__(
        self,
        where: Path,
        missing: Iterable[str],
        unexpected: Iterable[str],
        misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    ) -> None:
        self.missing, self.unexpected, self.misshapen = sorted(missing), sorted(unexpected), dict(misshapen)
        shapes = [
            f"{name} ({list(stored)} instead of {list(expected)})"
            for name, (stored, expected) in sorted(misshapen.items())
        ]
        groups = (("missing", self.missing), ("unexpected", self.unexpected), ("misshapen", shapes))
        details = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in groups if names)
        super().__init__(f"{where}: the tensors do not fit this config.json ({details}).")


def _some(names: list[str]) -> str:
    rest = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def module_name(released: str) -> str | None:
    """The model's name of a released tensor; None for one that belongs to no part of the model."""
    for prefix, module in PREFIXES:
        if released.startswith(prefix):
            return module + released.removeprefix(prefix)
    return None


def released_name(name: str) -> str:
    """The released name of a parameter or buffer of BaichuanAudio (without its vocoder)."""
    for prefix, module in PREFIXES:
        if name.startswith(module):
            return prefix + name.removeprefix(module)
    raise CheckpointError(f"'{name}' belongs to no part of the released layout.")


def released_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and stored buffers by released name, without the vocoder, which has a separate file."""
    return {
        released_name(name): tensor for name, tensor in model.state_dict().items() if not name.startswith("vocoder.")
    }


# ------------------------------------------------------------------------------------------------ load


def load(
    path_or_hub_id: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    vocoder: str | os.PathLike[str] | None = None,
    adapters: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
) -> BaichuanAudio:
    """Read a released checkpoint and return the model, ready for inference.

    path_or_hub_id: a checkpoint directory, or an id like `owner/name` on the Hugging Face hub.
    dtype: floating-point weights are converted to it; None keeps the stored type. The vocoder keeps its type in
        any case. On a CPU without fast bfloat16, `torch.float32` is much faster.
    vocoder: path of `hift.pt` or `vocoder.safetensors`, if not in the directory.
    adapters: a file, or several, that `adapters.save_adapters` wrote; their LoRA or DoRA changes are merged into the
        weights, in order.

    Where `config.json` names a `base_model`, the backbone is read from there and fetched once (assembled.py).

    Needs no more memory than the weights and the largest single tensor. Raises CheckpointError (ConfigError for
    an invalid `config.json`) that names the file.
    """
    opened = open_checkpoint(path_or_hub_id, dtype, device, vocoder, adapters)
    opened.read(opened.names)
    return opened.model.eval().requires_grad_(False)  # training enables the gradients that it needs


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint whose tensors are checked and not read yet: `model` is on the meta device, but for its vocoder.

    tensors: by their released names. dtype, device: see `load`.
    """

    model: BaichuanAudio
    tensors: Mapping[str, TensorSource]
    dtype: torch.dtype | None
    device: torch.device

    @property
    def names(self) -> list[str]:
        """Names of the model's parameters and stored buffers, without the vocoder's."""
        return [name for name in self.model.state_dict() if not name.startswith("vocoder.")]

    def source(self, name: str) -> TensorSource:
        """The stored tensor of a parameter or buffer of the model."""
        return self.tensors[released_name(name)]

    def dtype_of(self, name: str) -> torch.dtype:
        """The type in which the model has a tensor, however it is stored."""
        stored = self.source(name).dtype
        return self.dtype if self.dtype is not None and stored.is_floating_point else stored

    def read(self, names: Iterable[str], widen: bool = True) -> None:
        """Give these parameters and buffers their tensors, one at a time.

        widen: False leaves those that are stored in fewer bits than `dtype` has, and exact in it, as they are.
        """
        for name in names:
            tensor, kept = self.source(name).read(), self.dtype_of(name)
            if not widen and torch.promote_types(tensor.dtype, kept) == kept:
                kept = tensor.dtype
            _replace(self.model, name, tensor.to(self.device, kept))
            del tensor  # free it before the next read


def open_checkpoint(
    path_or_hub_id: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    vocoder: str | os.PathLike[str] | None = None,
    adapters: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
) -> OpenedCheckpoint:
    """Open a checkpoint for reading; the arguments and errors are those of `load`."""
    target = checked_device(device)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ConfigError(f"dtype must be a floating-point type such as torch.float32, not {dtype!r}.")
    directory = checkpoint_directory(path_or_hub_id)
    config = read_json(directory / "config.json")
    for part in ("audio_config", "vocoder_config", "flow_matching_config"):
        if not isinstance(config.get(part), dict):
            raise ConfigError(f"{directory / 'config.json'}: '{part}' is missing or holds no named entries.")
    mel_vocoder = load_vocoder(directory, config, vocoder)
    text_tokenizer = TextTokenizer.from_file(directory / "tokenizer.json")
    _check_tokenizer(directory, config, text_tokenizer)
    files = [] if adapters is None else [adapters] if isinstance(adapters, (str, os.PathLike)) else list(adapters)
    stored = stored_tensors(directory, config, dtype, files)
    model = _empty_model(directory, config, text_tokenizer, mel_vocoder)
    _check_tensors(model, stored, directory)
    mel_vocoder.to(target)
    return OpenedCheckpoint(model, stored, dtype, target)


def model_without_weights(path: str | os.PathLike[str]) -> BaichuanAudio:
    """The model of a checkpoint directory on the meta device: its sizes, text tokenizer and vocoder.

    Raises CheckpointError and ConfigError as `load` does.
    """
    directory = checkpoint_directory(path)
    config = read_json(directory / "config.json")
    config.pop("base_model", None)
    text_tokenizer = TextTokenizer.from_file(directory / "tokenizer.json")
    return _empty_model(directory, config, text_tokenizer, load_vocoder(directory, config, None))


def stored_tensors(
    directory: Path, config: dict[str, Any], dtype: torch.dtype | None, adapters: Sequence[str | os.PathLike[str]]
) -> Mapping[str, TensorSource]:
    """All tensors by their released names, with those of the base model that `config` names and with `adapters`."""
    stored: Mapping[str, TensorSource] = own_tensors(directory)
    if "base_model" in config:
        from .assembled import assembled_tensors

        stored = assembled_tensors(directory, config, stored, dtype)
    if adapters:
        from .adapters.files import adapted_tensors

        stored = adapted_tensors(stored, adapters, dtype)
    return stored


def own_tensors(directory: Path) -> dict[str, TensorSource]:
    """The tensors of a checkpoint's own files by their released names, with what a compressed one leaves out."""
    return with_sums_of_entries(find_tensors(directory))


def with_sums_of_entries(tensors: dict[str, TensorSource]) -> dict[str, TensorSource]:
    """`tensors` with the sums that codebooks learn from, which a compressed file leaves out."""
    if not any(isinstance(tensor, ScaledRows) for tensor in tensors.values()):
        return tensors
    for name, entries in list(tensors.items()):
        codebook, _, leaf = name.rpartition(".")
        sizes = tensors.get(f"{codebook}.cluster_size")
        if leaf == "embed" and sizes is not None and sizes.shape == entries.shape[:1]:
            tensors.setdefault(f"{codebook}.embed_avg", ScaledRows(entries, sizes))
    return tensors


def checked_device(device: str | torch.device) -> torch.device:
    """The device, if it can be used here; else ConfigError."""
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"the device '{device}' cannot be used here; 'cpu' always can.") from error
    return target


def checkpoint_directory(path_or_hub_id: str | os.PathLike[str]) -> Path:
    path = Path(path_or_hub_id)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path}: there is no config.json in it, so it is no checkpoint directory.")
        return path
    if path.exists():
        raise CheckpointError(f"{path}: this is a file; give the checkpoint's directory.")
    name = str(path_or_hub_id)
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{path}: there is no such checkpoint directory.")
    return _download(name)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.pt"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{hub_id}: no such directory here, and the hub gave no model of that name ({type(error).__name__})."
        ) from error


@dataclass(frozen=True)
class _MelRates:
    """Rates of the mel, which hift.pt does not hold."""

    hop_length: int = 480
    sampling_rate: int = 24000


def load_vocoder(directory: Path, config: Mapping[str, Any], given: str | os.PathLike[str] | None) -> Hift | Vocos:
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such vocoder file.")
    else:
        candidates = [directory / name for name in (VOCOS_FILE, HIFT_FILE) if (directory / name).is_file()]
        if not candidates:
            raise CheckpointError(
                f"{directory}: holds no vocoder ({HIFT_FILE} or {VOCOS_FILE}); put it there, or name the file "
                "(vocoder=..., on the command line --vocoder)."
            )
        path = candidates[0]
    if path.suffix == ".safetensors":
        return load_vocos(path, config)
    rates = select(_MelRates, config.get("flow_matching_config", {}), "config.json: flow_matching_config")
    return load_hift(path, rates.hop_length, rates.sampling_rate)


def _check_tokenizer(directory: Path, config: Mapping[str, Any], text_tokenizer: TextTokenizer) -> None:
    """Raise CheckpointError for the tokenizer of another model, whose ids would be wrong or out of range."""
    file = directory / "tokenizer.json"
    size = config.get("vocab_size")
    if isinstance(size, int) and text_tokenizer.vocab_size > size:
        raise CheckpointError(
            f"{file}: has {text_tokenizer.vocab_size} ids, but vocab_size is {size} in config.json; "
            "it belongs to another model."
        )
    audio_config = config.get("audio_config")
    for key, expected in audio_config.items() if isinstance(audio_config, dict) else ():
        token = f"<{key.removesuffix('_token_id')}_baichuan>"
        token_id = text_tokenizer.token_id(token) if key.endswith("_token_id") else None
        if token_id is not None and token_id != expected:
            raise CheckpointError(
                f"{file}: '{token}' has id {token_id}, but {expected} in config.json; it belongs to another model."
            )


def _empty_model(
    directory: Path, config: dict[str, Any], text_tokenizer: TextTokenizer, vocoder: Hift | Vocos
) -> BaichuanAudio:
    """The model on the meta device: shapes without memory."""
    try:
        with shapes_only():
            return BaichuanAudio(config, text_tokenizer, vocoder)
    except ConfigError as error:
        raise ConfigError(f"{directory / 'config.json'}: {error}") from error
    except (KeyError, TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise ConfigError(f"{directory / 'config.json'}: no model can be built from it ({error!r}).") from error


def _check_tensors(model: BaichuanAudio, stored: Mapping[str, TensorSource], where: Path) -> None:
    """Raise TensorMismatchError, and CheckpointError for weights of an unsupported type, before any data is read."""
    expected = released_tensors(model)
    ignored = {name for name in stored if name.startswith(IGNORED)}
    if ignored:
        logger.info("%s: ignored %d vision tensors; this implementation has speech and text only.", where, len(ignored))
    misshapen = {
        name: (stored[name].shape, tuple(tensor.shape))
        for name, tensor in expected.items()
        if name in stored and stored[name].shape != tuple(tensor.shape)
    }
    missing, unexpected = expected.keys() - stored.keys(), stored.keys() - expected.keys() - ignored
    if missing or unexpected or misshapen:
        raise TensorMismatchError(where, missing, unexpected, misshapen)
    for name, tensor in expected.items():
        if tensor.is_floating_point() and stored[name].dtype not in _WEIGHT_DTYPES:
            kind = str(stored[name].dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{where}: tensor '{name}' is of type {kind}; weights must be floats of 16 bits or more."
            )


def _replace(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = module._parameters.get(leaf)
    if old is not None:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        module._buffers[leaf] = tensor


# ------------------------------------------------------------------------------------------------ save


def save(model: BaichuanAudio, directory: str | os.PathLike[str], max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write `model` in the layout that `load` reads; the tensors keep their types, bit for bit.

    Weights above `max_shard_bytes` are split into shards with an index. The files are written to a temporary directory
    that is then renamed, so `directory` is always complete; other files in it (a model card) stay.
    Raises CheckpointError when `directory` exists and is no checkpoint, or cannot be written.
    """
    if model.inference_only:
        raise CheckpointError(
            "this is an inference copy, which cannot be saved; save the model from which it was made."
        )
    if any(name.endswith(".lora_A") for name in model.state_dict()):
        raise CheckpointError("this model has adapters; save those by save_adapters, or what merge_adapters gives.")
    replace_checkpoint(Path(directory), lambda temporary: _write(model, temporary, max_shard_bytes))


def replace_checkpoint(directory: Path, write: Callable[[Path], None]) -> None:
    """Make a temporary folder, which `write` fills, the checkpoint `directory` (see `save`)."""
    target = directory.resolve()  # resolves links and "."
    if target.exists() and not (target.is_dir() and (not any(target.iterdir()) or (target / "config.json").is_file())):
        raise CheckpointError(f"{target}: exists and is no checkpoint directory; choose another name.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        _swap(temporary, target)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{target}: the checkpoint could not be written ({reason}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(model: BaichuanAudio, directory: Path, max_shard_bytes: int) -> None:
    write_settings(model, model.config, directory)
    write_weights(released_tensors(model), directory, max_shard_bytes)


def write_settings(model: BaichuanAudio, config: Mapping[str, Any], directory: Path) -> None:
    """`config.json`, the text tokenizer and the vocoder."""
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
    model.text_tokenizer.save(directory)
    if isinstance(model.vocoder, Hift):
        save_hift(model.vocoder, directory / HIFT_FILE)
    elif isinstance(model.vocoder, Vocos):
        save_vocos(model.vocoder, directory / VOCOS_FILE)


def write_weights(tensors: Mapping[str, Tensor], directory: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """`model.safetensors`, or shards with their index."""
    shards = list(_shards(tensors, max_shard_bytes))
    if len(shards) == 1:
        write_tensors(_storable(shards[0]), directory / SINGLE_FILE, metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(_storable(shard), directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _shards(tensors: Mapping[str, Tensor], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Consecutive groups of at most `max_bytes`, or of one tensor that alone is larger."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _swap(temporary: Path, target: Path) -> None:
    """Replace the old directory by the new one, keeping files that do not belong to a checkpoint."""
    if not target.exists():
        temporary.rename(target)
        return
    for old in target.iterdir():
        if not _CHECKPOINT_FILES.fullmatch(old.name):
            if old.is_dir():
                shutil.copytree(old, temporary / old.name, symlinks=True)
            else:
                shutil.copy2(old, temporary / old.name, follow_symlinks=False)
    replaced = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(replaced)
    temporary.rename(target)
    shutil.rmtree(replaced)
