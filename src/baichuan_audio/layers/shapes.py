"""Modules without memory (meta device), whose tensors are loaded afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_INITIALIZERS = {"normal_", "uniform_", "kaiming_uniform_"}


class _NoInitialization(TorchFunctionMode):
    """Skips the random initialization of weights."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _INITIALIZERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules built inside are on the meta device, without initialization.

    Random initialization on the meta device would import torch's compiler, which takes two seconds.
    """
    with torch.device("meta"), _NoInitialization():
        yield
