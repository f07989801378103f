"""Training states that resume exactly, on any number of processes: weights, optimizers, random generators, step.

Data order is a pure function of (seed, step) in every stage, so the step is the data position.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from ...checkpoint import (
    PREFIXES,
    own_tensors,
    released_tensors,
    replace_checkpoint,
    save,
    write_settings,
    write_weights,
)
from ...errors import CheckpointError, TrainingError
from ...model import BaichuanAudio
from .distributed.sharding import whole
from .distributed.state_files import is_complete, is_intact, metadata_of, read_state, write_state
from .distributed.world import world
from .weights_file import read_weights_file

_NAME = "state-{step:08d}"
Modules = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]
_FAILURES = (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError, CheckpointException)
"""What reading a damaged state, or one of other modules, ends with."""


class StateWriter:
    """Writes states of a run to `directory`, the newest `keep` of which stay.

    With several processes, or on a GPU, tensors are copied and written by a thread while training goes on; `wait` ends
    that. Raises TrainingError, at the latest in the next call, where the disk is full or the folder cannot be written.
    """

    def __init__(
        self, directory: str | os.PathLike[str], modules: Modules, optimizers: Optimizers, keep: int = 2
    ) -> None:
        self._directory, self._modules, self._optimizers, self._keep = Path(directory), modules, optimizers, keep
        run = world()
        self._thread = ThreadPoolExecutor(1) if run.size > 1 or run.device != "cpu" else None
        self._writing: Future[None] | None = None

    def save(self, step: int) -> Path:
        """Write everything that the next step depends on."""
        self.wait()
        path = self._directory / _NAME.format(step=step)
        tensors = _all_tensors(self._modules, self._optimizers)
        if self._thread is None:
            self._write(path, step, tensors)
        else:
            copies = DefaultStager(StagingOptions(False, False, False, False)).stage(tensors)
            assert isinstance(copies, dict)
            self._writing = self._thread.submit(self._write, path, step, copies)
        return path

    def wait(self) -> None:
        """Return when nothing is being written any more."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, path: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
        run = world()
        write_state(path, step, tensors, run)
        if run.is_main:
            for old in _states(self._directory)[: -self._keep]:
                _remove(old)


def save_training_state(
    directory: str | os.PathLike[str], step: int, modules: Modules, optimizers: Optimizers, keep: int = 2
) -> Path:
    """Write one state and return when it is complete (see `StateWriter`)."""
    writer = StateWriter(directory, modules, optimizers, keep)
    path = writer.save(step)
    writer.wait()
    return path


def load_training_state(directory: str | os.PathLike[str], modules: Modules, optimizers: Optimizers) -> int:
    """Put the newest intact state back in place; returns the step to go on with, 0 when there is none.

    Raises TrainingError when the state does not belong to these modules, or all states are damaged.
    """
    path = _newest(Path(directory), is_intact)
    if path is None:
        return 0
    names = {name: _parameter_names(modules, optimizer) for name, optimizer in optimizers.items()}
    try:
        stored = _stored(path, names)
        if missing := next((name for name in modules if not stored.templates(f"modules.{name}.")), None):
            raise TrainingError(
                f"{path}: holds no {missing}; it is the state of another stage. Use another output folder."
            )
        tensors = _module_tensors(modules)
        _compare(tensors, stored, modules)
        states = {name: _optimizer_state(name, stored, names[name]) for name in optimizers}
        random = stored.templates("random.")
        flat = {key: value for state in states.values() for _, _, key, value in state}
        stored.read(tensors | flat | random, True)
    except _FAILURES as error:
        raise TrainingError(
            f"{path}: cannot be resumed ({what_is_wrong(error)}); use another output folder or remove it."
        ) from error
    for name, optimizer in optimizers.items():
        optimizer.state.clear()
        for parameter, entry, _, value in states[name]:
            optimizer.state[parameter][entry] = value
    restore_random_state(random)
    return int(path.stem.partition("-")[2])


def load_module(path: str | os.PathLike[str], name: str, module: nn.Module) -> None:
    """Load one module's weights out of the newest training state under `path`; raises TrainingError."""
    fit(module, module_weights(path, name), path)


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """The weights of a module whose parameters may be split over the processes, each of which must ask; on the CPU."""
    return {name: whole(tensor.detach()).cpu() for name, tensor in module.state_dict().items()}


def save_whole(model: BaichuanAudio, directory: str | os.PathLike[str]) -> None:
    """`checkpoint.save` of a model whose parameters may be split over the processes: one of them writes."""
    run = world()
    if run.size == 1:
        save(model, directory)
        return
    tensors = {}
    for name, tensor in released_tensors(model).items():
        gathered = whole(tensor)
        if run.is_main:
            tensors[name] = gathered.cpu()
    problem = None
    if run.is_main:

        def write(temporary: Path) -> None:
            write_settings(model, model.config, temporary)
            write_weights(tensors, temporary)

        try:
            replace_checkpoint(Path(directory), write)
        except CheckpointError as error:
            problem = str(error)
    problem = next((one for one in run.gather(problem) if one is not None), None)
    if problem is not None:
        raise CheckpointError(problem)


def load_part(module: nn.Module, name: str, source: str | os.PathLike[str]) -> None:
    """Fill a model's part `name` (`tokenizer`, `flow` ...) from a training output, a file of `checkpoint export` or a
    checkpoint directory.

    Raises TrainingError or CheckpointError when the source has no such weights.
    """
    if not (Path(source) / "config.json").is_file():
        load_module(source, name, module)
        return
    weights = {}
    for released, tensor in own_tensors(Path(source)).items():
        for prefix, ours in PREFIXES:
            if ours.startswith(f"{name}.") and released.startswith(prefix):
                weights[ours.removeprefix(f"{name}.") + released.removeprefix(prefix)] = tensor.read()
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source}: its {name} does not fit the recipe's config.json ({what_is_wrong(error)})."
        ) from error


def fit(module: nn.Module, weights: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Load weights that come from `path`; raises TrainingError where they are another module's."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(f"{path}: does not fit ({what_is_wrong(error)}).") from error


def what_is_wrong(error: BaseException) -> str:
    """The first thing that is wrong: where PyTorch lists them, its first line only says that it does."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[min(1, len(lines) - 1)].strip().rstrip(".")


def module_weights(path: str | os.PathLike[str], name: str) -> dict[str, Tensor]:
    """One module's weights out of the newest training state under `path`, or out of the file of `checkpoint export`.

    Raises TrainingError where there is no such module, CheckpointError for a damaged file.
    """
    file = Path(path)
    weights = read_weights_file(file, name) if file.is_file() else modules_of(path, [name]).get(name, {})
    if not weights:
        raise TrainingError(f"{path}: holds no {name}; it is the output of another stage.")
    return weights


def modules_of(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Those of the modules that the newest training state under `path` has; raises TrainingError without one."""
    newest = _newest(Path(path), is_complete)
    if newest is None:
        raise TrainingError(f"{path}: holds no training state; train that stage first.")
    return {name: weights for name in names if (weights := _weights_in(newest, name))}


def _weights_in(state: Path, name: str) -> dict[str, Tensor]:
    """One module's weights out of a training state, none where it has no such module; raises TrainingError."""
    prefix = f"modules.{name}."
    try:
        stored = _stored(state, {})
        weights = stored.templates(prefix)
        if weights:
            stored.read(weights, False)
    except _FAILURES as error:
        raise TrainingError(
            f"{state}: not a training state, or a damaged one; remove it to go on from before."
        ) from error
    return {key.removeprefix(prefix): tensor for key, tensor in weights.items()}


def go_on_from(module: nn.Module, name: str, source: str | os.PathLike[str] | None) -> None:
    """Fill the parameters of a module that training alone has from the training output `source`, if it holds that
    module; raises TrainingError where it is one of other sizes. A checkpoint directory holds none."""
    newest = None if source is None else _newest(Path(source), is_complete)
    if source is None or newest is None:
        return
    learnt = {key for key, _ in module.named_parameters()}
    stored = {key: tensor for key, tensor in _weights_in(newest, name).items() if key in learnt}
    fit(module, module.state_dict() | stored, source)


def has_state(directory: str | os.PathLike[str]) -> bool:
    """Whether a run in this folder would be resumed."""
    return bool(_states(Path(directory)))


@dataclass(frozen=True)
class _Stored:
    """The tensors of a state: name -> size and type. `read(tensors, together)` fills tensors of those names."""

    entries: Mapping[str, tuple[torch.Size, torch.dtype]]
    read: Callable[[Mapping[str, Tensor], bool], None]

    def templates(self, prefix: str) -> dict[str, Tensor]:
        """Empty tensors for all that begin with `prefix`."""
        chosen = {name: entry for name, entry in self.entries.items() if name.startswith(prefix)}
        return {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in chosen.items()}


def _stored(path: Path, parameters: Mapping[str, Mapping[str, nn.Parameter]]) -> _Stored:
    """What is in a state; `parameters` of each optimizer, by whose order the single file of version 0.2 is read."""
    if path.is_dir():
        entries = {name: (entry.size, entry.properties.dtype) for name, entry in metadata_of(path).items()}
        return _Stored(entries, partial(read_state, path))
    tensors = _single_file(path, parameters)

    def read(targets: Mapping[str, Tensor], together: bool) -> None:
        if world().size > 1:
            raise RuntimeError("the state of an earlier version goes on in one process only")
        for name, target in targets.items():
            target.copy_(tensors[name])

    return _Stored({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}, read)


def _single_file(path: Path, parameters: Mapping[str, Mapping[str, nn.Parameter]]) -> dict[str, Tensor]:
    """The tensors of a state that version 0.2 wrote, by the names that they have now."""
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not isinstance(state.get("modules"), dict):
        raise ValueError("not a training state")
    tensors = {f"modules.{name}.{key}": t for name, module in state["modules"].items() for key, t in module.items()}
    for optimizer, by_name in parameters.items():
        names = list(by_name)
        for index, values in state["optimizers"][optimizer]["state"].items():
            tensors |= {f"optimizers.{optimizer}.{names[index]}.{key}": value for key, value in values.items()}
    return tensors | {"random.cpu": state["random"]["cpu"]}


def _newest(directory: Path, usable: Callable[[Path], bool]) -> Path | None:
    """The newest state that is `usable`, None where there is none; raises TrainingError where all are damaged."""
    states = _states(directory)
    for path in reversed(states):
        if path.is_file() or usable(path):
            return path
        if world().is_main:
            print(f"{path}: the state is damaged; the one before it is used.", file=sys.stderr)
    if states:
        raise TrainingError(f"{states[-1]}: not a training state, or a damaged one; remove it to start anew.")
    return None


def _states(directory: Path) -> list[Path]:
    """All states, oldest first: folders, and the single files of version 0.2."""
    states = [path for path in directory.glob("state-*") if path.suffix in ("", ".pt") and path.stem[6:].isdigit()]
    return sorted(states, key=lambda path: path.stem)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _module_tensors(modules: Modules) -> dict[str, Tensor]:
    return {
        f"modules.{name}.{key}": tensor.detach()
        for name, module in modules.items()
        for key, tensor in module.state_dict().items()
    }


def _parameter_names(modules: Modules, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """Name -> parameter of what an optimizer changes, in its order."""
    names = {id(p): f"{name}.{key}" for name, module in modules.items() for key, p in module.named_parameters()}
    return {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}


def _all_tensors(modules: Modules, optimizers: Optimizers) -> dict[str, Tensor]:
    """Everything that the next step depends on, by the names that a state has."""
    tensors = _module_tensors(modules) | random_state()
    for name, optimizer in optimizers.items():
        for key, parameter in _parameter_names(modules, optimizer).items():
            state = optimizer.state.get(parameter, {})
            tensors |= {f"optimizers.{name}.{key}.{entry}": value.detach() for entry, value in state.items()}
    return tensors


def _compare(tensors: Mapping[str, Tensor], stored: _Stored, modules: Modules) -> None:
    """Raise ValueError where a state's modules are not those that `tensors` are of."""
    prefixes = tuple(f"modules.{name}." for name in modules)
    names = {name for name in stored.entries if name.startswith(prefixes)}
    for name in sorted(names ^ set(tensors)):
        raise ValueError(f"{name.removeprefix('modules.')} is in only one of state and model")
    for name, tensor in tensors.items():
        if stored.entries[name][0] != tensor.shape:
            sizes = f"{tuple(stored.entries[name][0])} instead of {tuple(tensor.shape)}"
            raise ValueError(f"size mismatch for {name.removeprefix('modules.')}: {sizes}")


def _optimizer_state(
    name: str, stored: _Stored, parameters: Mapping[str, nn.Parameter]
) -> list[tuple[nn.Parameter, str, str, Tensor]]:
    """What a state has of an optimizer, to be filled: parameter, entry, name in the state, tensor."""
    prefix = f"optimizers.{name}."
    result = []
    for key, empty in stored.templates(prefix).items():
        parameter_name, _, entry = key.removeprefix(prefix).rpartition(".")
        if parameter_name not in parameters:
            raise ValueError(f"the state trains {parameter_name}, this recipe does not")
        parameter = parameters[parameter_name]
        of_its_size = empty.shape == parameter.shape
        if not of_its_size and empty.ndim:
            raise ValueError(f"size mismatch for the optimizer's {parameter_name}")
        tensor = torch.zeros_like(parameter, dtype=empty.dtype) if of_its_size else empty.to(parameter.device)
        result.append((parameter, entry, key, tensor.detach()))
    return result


def random_state() -> dict[str, Tensor]:
    """The generators' states; in step on all processes, which draw alike."""
    state = {"random.cpu": torch.get_rng_state()}
    if world().device == "cuda" or torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Put the generators into a `random_state`."""
    torch.set_rng_state(state["random.cpu"])
    if "random.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random.cuda"])
