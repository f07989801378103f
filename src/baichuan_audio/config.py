"""Dataclasses from mappings: lenient for a checkpoint's `config.json`, strict for a recipe, which is a YAML file."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .errors import ConfigError, DataError, MissingDependencyError
from .text.lines import read_text

T = TypeVar("T")
_MAX_LAYERS, _MAX_SIZE = 1 << 10, 1 << 24


def select(cls: type[T], mapping: Mapping[str, Any], where: str = "config.json") -> T:
    """Build dataclass `cls` from the keys it knows; other keys of a released config are ignored.

    Raises ConfigError when a field without a default is missing, or a value has the wrong type or is no size: below 1
    (0 where the class lists the field in MAY_BE_ZERO), or absurdly large.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where} must hold named entries, not {mapping!r}.")
    known = {field.name: mapping[field.name] for field in _fields(cls) if field.name in mapping}
    values = _values(cls, known, where)
    for name, value in values.items():
        for number in value if isinstance(value, tuple) else (value,):
            check_size(name, number, where, 0 if name in getattr(cls, "MAY_BE_ZERO", ()) else 1)
    return cls(**values)


def check_size(name: str, number: object, where: str, minimum: int = 1) -> None:
    """Raises ConfigError for an integer below `minimum` or absurdly large, and for a float that is not finite."""
    maximum = _MAX_LAYERS if name.endswith(("layers", "blocks")) else _MAX_SIZE
    if type(number) is int and not minimum <= number <= maximum:
        raise ConfigError(f"{where}: {name} must lie between {minimum} and {maximum}, not {number}.")
    if isinstance(number, float) and not math.isfinite(number):
        raise ConfigError(f"{where}: {name} must be a finite number, not {number}.")


def renamed_key(mapping: Mapping[str, Any], name: str, old: str) -> Any:
    """The value under `name`, or under its old name, which is read for one release with a warning; else None."""
    if name not in mapping and old in mapping:
        warnings.warn(f"config.json: '{old}' is now called '{name}'; rename it.", FutureWarning, stacklevel=3)
        return mapping[old]
    return mapping.get(name)


def strict(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build dataclass `cls` from a recipe; an unknown key is an error that names the nearest valid one."""
    known = [field.name for field in _fields(cls)]
    for key in mapping:
        if key not in known:
            raise ConfigError(f"{where}: unknown entry '{key}'; {nearest(key, known)}")
    return cls(**_values(cls, mapping, where))


def nearest(name: object, known: Sequence[str]) -> str:
    """The end of an error message about an unknown name: the valid name nearest to it, or all of them."""
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"valid names are {', '.join(known)}."


def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _values(cls: type, mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of the fields of `cls`, converted to their types."""
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in _fields(cls):
        if field.name in mapping:
            values[field.name] = _convert(hints[field.name], mapping[field.name], f"{where}: {field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: the entry '{field.name}' is missing; add it.")
    return values


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Convert a JSON or YAML value to the type of the annotation (nested dataclass, tuple, number)."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must hold named entries, not {type(value).__name__}.")
        return strict(hint, value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        choices = [argument for argument in arguments if argument is not type(None)]
        lists = [argument for argument in choices if typing.get_origin(argument) is tuple]
        return _convert((lists if lists and isinstance(value, (list, tuple)) else choices)[0], value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, not {value!r}.")
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must hold named entries, not {value!r}.")
        return {str(key): _convert(arguments[1], item, where) for key, item in value.items()}
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float:
        try:  # YAML reads 1e-4 (without a dot) as text
            if not isinstance(value, bool):
                return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
        raise ConfigError(f"{where} must be a number, not {value!r}.")
    if isinstance(hint, type) and hint in (int, str, bool) and type(value) is not hint:
        raise ConfigError(f"{where} must be of type {hint.__name__}, not {value!r}.")
    return value


def load_recipe(path: str | os.PathLike[str], cls: type[T], overrides: Sequence[str] = ()) -> T:
    """Read a YAML recipe with overrides (see `read_recipe`) into `cls`.

    Raises ConfigError for a missing file, broken YAML, or an unknown entry (named, with the nearest valid one).
    """
    return strict(cls, read_recipe(path, overrides), str(path))


def read_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The entries of a YAML recipe, with overrides like `steps=10` or `optimizer.learning_rate=1e-4` applied.

    Raises ConfigError for a missing file or broken YAML.
    """
    yaml = _yaml()
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such recipe.")
    try:
        content = yaml.safe_load(read_text(path))
    except DataError as error:
        raise ConfigError(str(error)) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({str(error).splitlines()[0]}).") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: a recipe must hold named entries (key: value).")
    values: dict[str, Any] = dict(content)
    for override in overrides:
        _apply(values, override, yaml)
    return values


def _apply(values: dict[str, Any], override: str, yaml: Any) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"override '{override}': write it as name=value.")
    *groups, last = name.split(".")
    for group in groups:
        inner = values.get(group) or {}
        if not isinstance(inner, Mapping):
            raise ConfigError(f"override '{override}': '{group}' holds {inner!r} and no named entries.")
        values[group] = dict(inner)
        values = values[group]
    try:
        values[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"override '{override}': {text!r} is no value in YAML.") from error


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("recipes need PyYAML: pip install 'baichuan-audio[train]'.") from error
    return yaml
