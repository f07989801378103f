"""Base of all that clients send: strict types, no unknown fields, null counts as absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from ...validation import renamed

T = TypeVar("T", bound="MergedModel")


class ProtocolModel(BaseModel):
    """A JSON object of the protocol, named as in `openai.types.realtime`.

    Those types are no validators: they take unknown fields and numbers out of any range, and turn strings into numbers.
    A test holds ours against them. ignored: fields of the protocol without effect here. nullable: fields where null has
    a meaning. renamed: names of the beta form, with the path of today's field.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    ignored: ClassVar[frozenset[str]] = frozenset()
    nullable: ClassVar[frozenset[str]] = frozenset()
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_fields_without_effect(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        for old, new in cls.renamed.items():
            if old in fields:
                raise renamed(old, new)
        return {name: value for name, value in fields.items() if not cls._has_no_effect(name, value)}

    @classmethod
    def _has_no_effect(cls, name: str, value: Any) -> bool:
        return name in cls.ignored or (value is None and name in cls.model_fields and name not in cls.nullable)


class MergedModel(ProtocolModel):
    """Settings of which an update names those that change."""

    def updated(self: T, change: T) -> T:
        """A copy with the fields that `change` names; settings inside are updated in turn if they are of one class."""
        values = {}
        for name in change.model_fields_set:
            old, new = getattr(self, name), getattr(change, name)
            values[name] = old.updated(new) if isinstance(old, MergedModel) and type(old) is type(new) else new
        return self.model_copy(update=values)
