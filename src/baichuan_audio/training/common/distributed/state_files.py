"""A training state on disk: a folder of torch.distributed.checkpoint, complete once its marker file stands in it.

It is written under another name and renamed. The marker has size and SHA-256 of every file, so a state that a stopped
process or a full disk has torn is never chosen.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from ....errors import TrainingError
from .world import ALONE, World, world

MARKER = "complete.json"
_METADATA, _PATHS = "torch.distributed.checkpoint.metadata", ("PosixPath", "WindowsPath")
_PICKLED = {
    *(f"{_METADATA}.{name}" for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata")),
    *(f"{_METADATA}.{name}" for name in ("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING")),
    *(f"pathlib.{name}" for name in _PATHS),
    *("torch.distributed.checkpoint.filesystem._StorageInfo", "torch.Size", "torch.serialization._get_layout"),
}
_FAILURES = (OSError, RuntimeError, CheckpointException)


def write_state(path: Path, step: int, tensors: Mapping[str, Tensor], run: World) -> None:
    """Write `tensors` as the state `path`; every process of the run calls it. Raises TrainingError on all of them."""
    aside = path.with_suffix(".part")
    problem = None
    try:
        if run.is_main:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
    except OSError as error:
        problem = _reason(error)
    problem = _first(_gather(problem, run))
    files: dict[str, Any] = {}
    if problem is None:
        try:
            _save(aside, tensors, run)
            files = {file.name: _size_and_hash(file) for file in sorted(aside.iterdir()) if _is_of(file, run)}
        except _FAILURES as error:
            problem = _reason(error)
    results = _gather((problem, files), run)
    problem = _first([one for one, _ in results])
    if problem is None and run.is_main:
        try:
            marker = {
                "step": step,
                "processes": run.size,
                "files": {k: v for _, part in results for k, v in part.items()},
            }
            _write_durably(aside / MARKER, json.dumps(marker, indent=1))
            shutil.rmtree(path, ignore_errors=True)
            os.replace(aside, path)
        except OSError as error:
            problem = _reason(error)
    problem = _first(_gather(problem, run))
    if problem is not None:
        if run.is_main:
            shutil.rmtree(aside, ignore_errors=True)
        raise TrainingError(f"{path}: the training state could not be written ({problem}); the one before it is kept.")


def is_complete(path: Path) -> bool:
    """Whether the state has its marker, and every file the size that the marker says."""
    marker = _marker(path)
    try:
        return marker is not None and all((path / name).stat().st_size == size for name, (size, _) in marker.items())
    except (OSError, TypeError, ValueError):
        return False


def is_intact(path: Path) -> bool:
    """`is_complete`, and every file has its hash; the processes share the reading."""
    run = world()
    good = is_complete(path)
    if good:
        names = run.part(sorted((_marker(path) or {}).items()))
        good = all(_size_and_hash(path / name) == tuple(entry) for name, entry in names)
    return all(run.gather(good))


def metadata_of(path: Path) -> dict[str, TensorStorageMetadata]:
    """Name -> size and type of every tensor of a state; raises what reading a damaged file raises."""
    entries = _Reader(path).read_metadata().state_dict_metadata
    return {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def read_state(path: Path, tensors: Mapping[str, Tensor], together: bool) -> None:
    """Fill `tensors` in place, each this process's part of what the state has by its name.

    together: all processes read at once, each what it needs; otherwise this process reads alone.
    """
    run = world() if together else ALONE
    with _alone(run):
        load(dict(tensors), storage_reader=_Reader(path), process_group=run.writers, no_dist=run.size == 1)


def _save(folder: Path, tensors: Mapping[str, Tensor], run: World) -> None:
    with _alone(run):
        writer = FileSystemWriter(folder)
        save(dict(tensors), storage_writer=writer, process_group=run.writers, no_dist=run.size == 1)


@contextmanager
def _alone(run: World) -> Iterator[None]:
    """torch warns a process that is alone that it is."""
    with warnings.catch_warnings() if run.size == 1 else nullcontext():
        if run.size == 1:
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


class _Reader(FileSystemReader):
    """Reads the list of tensors without running code that a pickle file names; tensors are read by `weights_only`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata = _Unpickler(io.BytesIO((Path(self.path) / ".metadata").read_bytes())).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("not the list of a state's tensors")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class _Unpickler(pickle.Unpickler):
    """Knows the classes of a list of tensors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in _PICKLED:
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a state")


def _marker(path: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker["files"] if isinstance(marker, dict) and isinstance(marker.get("files"), dict) else None


def _is_of(file: Path, run: World) -> bool:
    """Whether this process has written the file: its data, and of the first process the list."""
    return file.name.startswith(f"__{run.rank}_") or (run.is_main and file.name == ".metadata")


def _size_and_hash(file: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return file.stat().st_size, digest.hexdigest()


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _gather(value: Any, run: World) -> list[Any]:
    """The value of every process, in the group of those that write."""
    if run.size == 1:
        return [value]
    values = [value] * run.size
    dist.all_gather_object(values, value, group=run.writers)
    return values


def _first(problems: list[str | None]) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _reason(error: BaseException) -> str:
    """One line: what the first process that failed met."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return " ".join(str(error).split()) or type(error).__name__
