"""Reading a JSON object field by field, each with its kind and bounds, so that every fault has a name and a place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from ....errors import BaichuanAudioError
from ...errors import as_api_error

_LONGEST_JSON = 131_072
_LONGEST_TEXT = 65_536


class WireError(BaichuanAudioError):
    """What a client sent cannot be used; the session stays open.

    code: a word for programs. param: the field at fault, as a path.
    """

    def __init__(self, message: str, code: str, param: str | None = None, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.message, self.code, self.param, self.kind = message, code, param, kind


def as_wire_error(error: Exception, code: str) -> WireError:
    """What went wrong -> what the client is told, with `code` where it has none of its own."""
    if isinstance(error, WireError):
        return error
    told = as_api_error(error)
    return WireError(told.message, told.code or code, told.param, told.type)


class Fields:
    """One JSON object. Every reader returns None for a field that is absent or null; `done` refuses what is left.

    Raises WireError: invalid_type, invalid_value, missing_required_parameter or unknown_parameter.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            name = f"'{path}'" if path else "An event"
            raise WireError(f"{name} must be an object.", "invalid_type", path or None)
        self._rest: dict[str, Any] = dict(value)
        self.path = path

    def __contains__(self, name: str) -> bool:
        return name in self._rest

    def __iter__(self) -> Iterator[str]:
        return iter(self._rest)

    def where(self, name: str) -> str:
        """The path of one field."""
        return f"{self.path}.{name}" if self.path else name

    def is_null(self, name: str) -> bool:
        """Whether the field is there and null; it then counts as read."""
        if name in self._rest and self._rest[name] is None:
            del self._rest[name]
            return True
        return False

    def text(self, name: str, longest: int = _LONGEST_TEXT) -> str | None:
        """A string of at most `longest` characters that UTF-8 can write."""
        value = self._rest.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._fault(name, "must be a string", "invalid_type")
        if len(value) > longest:
            raise self._fault(name, f"is longer than {longest} characters", "string_above_max_length")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._fault(name, "holds half a surrogate pair") from None
        return value

    def needed_text(self, name: str, longest: int = _LONGEST_TEXT) -> str:
        """The same where it has to be there."""
        value = self.text(name, longest)
        if value is None:
            raise self.missing(name)
        return value

    def flag(self, name: str) -> bool | None:
        """true or false."""
        value = self._rest.pop(name, None)
        if value is not None and not isinstance(value, bool):
            raise self._fault(name, "must be true or false", "invalid_type")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A finite number in [low, high]."""
        value = self._rest.pop(name, None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._fault(name, "must be a number", "invalid_type")
        if not (low <= value <= high and math.isfinite(value)):
            raise self._fault(name, _range(low, high))
        return float(value)

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number in [low, high]."""
        value = self._rest.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self._fault(name, "must be a whole number", "invalid_type")
        number = self.number(name, low, high)
        return None if number is None else int(number)

    def choice(self, name: str, *options: str) -> str | None:
        """One of a few words."""
        value = self._rest.pop(name, None)
        if value is not None and value not in options:
            words = ", ".join(f"'{option}'" for option in options)
            raise self._fault(name, f"must be one of {words}")
        return value

    def inner(self, name: str) -> Fields | None:
        """An object inside."""
        value = self._rest.pop(name, None)
        return None if value is None else Fields(value, self.where(name))

    def list(self, name: str, most: int) -> list[Any] | None:
        """A list of at most `most` things."""
        value = self._rest.pop(name, None)
        if value is not None and not isinstance(value, list):
            raise self._fault(name, "must be a list", "invalid_type")
        if value is not None and len(value) > most:
            raise self._fault(name, f"has more than {most} entries", "array_above_max_length")
        return value

    def word_or_inner(self, name: str) -> str | Fields | None:
        """A string, or an object inside."""
        value = self._rest.get(name)
        if isinstance(value, str):
            return self.text(name)
        if value is not None and not isinstance(value, dict):
            raise self._fault(name, "must be a string or an object", "invalid_type")
        return self.inner(name)

    def json(self, name: str) -> Any:
        """Anything of a sensible size, kept as it is."""
        value = self._rest.pop(name, None)
        try:
            too_long = len(json.dumps(value)) > _LONGEST_JSON
        except RecursionError:
            too_long = True
        if too_long:
            raise self._fault(name, "is too large")
        return value

    def ignore(self, *names: str) -> None:
        """Fields of the protocol that mean nothing here."""
        for name in names:
            self._rest.pop(name, None)

    def done(self) -> None:
        """Refuse the fields that nobody has read: a typing mistake shall not pass unseen."""
        for name in self._rest:
            place = self.where(name)
            raise WireError(f"Unknown parameter: '{place[:200]}'.", "unknown_parameter", place[:200])

    def missing(self, name: str) -> WireError:
        """What to raise when a field is not there."""
        place = self.where(name)
        return WireError(f"Missing required parameter: '{place}'.", "missing_required_parameter", place)

    def _fault(self, name: str, what: str, code: str = "invalid_value") -> WireError:
        return WireError(f"'{self.where(name)}' {what}.", code, self.where(name))


def _range(low: float, high: float) -> str:
    """What a number must be, without a bound that nobody reaches."""
    if low == high:
        return f"must be {low:g}"
    return f"must be at least {low:g}" if high >= 2**53 else f"must lie between {low:g} and {high:g}"
