"""Backends by name: `whisper:base` is the backend `whisper` with the argument `base`."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ....errors import ConfigError, MissingDependencyError
from ...store.atomic import file_digest
from ..engine.stage import code_digest

MODULES = {
    "vad": "vad",
    "speakers": "speakers",
    "overlap": "overlap",
    "language": "language",
    "mos": "mos",
    "asr": "asr",
    "aligner": "aligners",
    "tts": "tts",
    "text": "text_models",
}
"""The module of each kind; it holds BACKENDS, name -> function of the argument."""


@functools.lru_cache(maxsize=64)
def load_backend(kind: str, name: str) -> Any:
    """The backend of a kind, loaded once a process.

    Raises:
        ConfigError: there is no such backend, or its model cannot be had.
        MissingDependencyError: its library is not installed.
    """
    return _maker(kind, name)(name.partition(":")[2])


def check_backend(kind: str, name: str) -> None:
    """Raises ConfigError where there is no backend of that name; loads none."""
    _maker(kind, name)


def _maker(kind: str, name: str) -> Any:
    module = importlib.import_module(f"{__package__}.{MODULES[kind]}")
    base = name.partition(":")[0]
    if base not in module.BACKENDS:
        near = difflib.get_close_matches(base, module.BACKENDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(module.BACKENDS))}."
        raise ConfigError(f"no {kind} backend '{base}'; {hint}")
    return module.BACKENDS[base]


@functools.cache
def backend_identity(kind: str, name: str) -> str:
    """What decides a backend's output: its name, its code, also that of a module of its name, and the files of a model
    that lies in a folder."""
    modules, base = [MODULES[kind]], name.partition(":")[0]
    if Path(__file__).with_name(f"{base}.py").is_file():
        modules.append(base)
    parts = [name, *(code_digest(f"{__package__}.{module}") for module in modules)]
    argument = Path(name.partition(":")[2].partition("@")[0])
    if name.partition(":")[2] and argument.exists():
        files = sorted(argument.rglob("*")) if argument.is_dir() else [argument]
        parts += [file_digest(path) for path in files if path.is_file()]
    return "/".join(parts)


def require(library: str, purpose: str, install: str) -> Any:
    """Import a library that is an extra.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs {library.partition('.')[0]}: pip install {install} ({error})."
        ) from error


def package_file(package: str, *names: str, install: str) -> Path:
    """A file that a package brings, without importing the package.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(f"this stage needs {package}: pip install {install}.")
    return Path(spec.origin).parent.joinpath(*names)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: more add up in another order, and the same sound would have another embedding."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def onnx_session(path: Path) -> Any:
    """An ONNX network on the CPU, on one thread, so that a worker is one core.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    onnxruntime = require("onnxruntime", "this network", "'baichuan-audio[data]'")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
