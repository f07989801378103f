"""A second module over the same tensors, as the base of an inference copy."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def module_copy(module: M) -> M:
    """A second module of the same class over the same tensors and children; its children can be exchanged."""
    return module_copy_as(type(module), module)


def module_copy_as(kind: type[M], module: nn.Module) -> M:
    """`module_copy` as an object of `kind`, a subclass of the module's class."""
    copied = kind.__new__(kind)
    copied.__dict__.update(module.__dict__)
    for name in ("_modules", "_parameters", "_buffers"):
        copied.__dict__[name] = dict(module.__dict__[name])
    return copied
