"""Modules as shapes without memory, to be given their tensors afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWS = {"normal_", "uniform_", "kaiming_uniform_"}


class _NoDrawing(TorchFunctionMode):
    """Leaves tensors as they are where a module would draw its first weights."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """What is built inside lies on the meta device, and nothing is drawn.

    Random numbers on the meta device are torch's Python code, which imports its whole compiler: two seconds.
    """
    with torch.device("meta"), _NoDrawing():
        yield
