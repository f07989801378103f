"""What validation finds wrong in a request, told in the client's terms: the field as it was sent, and what is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_KINDS = {
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
"""Faults of kind; where a field may have one of several, all of them are found at once."""
_TEXTS = {
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "finite_number": "must be a finite number",
    "int_parsing_size": "has too many digits",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "too_short": "must not be empty",
    "too_long": "may have at most {max_length} entries",
    "string_too_short": "must not be empty",
    "string_too_long": "may have at most {max_length} characters",
    "string_unicode": "holds half a character (a lone surrogate)",
}
_AN_UPLOAD = "send it in multipart/form-data, with a file name"
_LONGEST_TAG = 40


class FieldRefusal(ValueError):
    """What a validator of ours raises. reason: what comes after the field's name. param: the field, where it is not
    the one being validated."""

    def __init__(self, reason: str, param: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.param = reason, param


Fault = Mapping[str, Any]
Step = str | int


def explain(faults: Sequence[Fault], body: Any) -> tuple[str, str | None]:
    """pydantic's faults and the body they were found in -> one sentence, and the field at fault.

    Of several faults the first field counts. Where it may be of several kinds pydantic names each of them with its
    fault: the deepest one is of the kind that was meant. Nothing that the client sent is repeated but names of types.
    """
    if not faults:
        return "the request is not valid.", None
    located = [(_location(fault, body), fault) for fault in faults]
    first = located[0][0]
    of_first = [(location, fault) for location, fault in located if location[: len(first)] == first]
    deepest = max(len(location) for location, _ in of_first)
    candidates = [(location, fault) for location, fault in of_first if len(location) == deepest]
    location, fault = next((c for c in candidates if c[1]["type"] not in _KINDS), candidates[0])
    same = [other for where, other in candidates if where == location]
    if fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
        location = (*location, fault["ctx"]["discriminator"].strip("'"))
    refusal = (fault.get("ctx") or {}).get("error")
    param = (refusal.param if isinstance(refusal, FieldRefusal) else None) or path(location) or None
    if param is None:
        return _whole_body(fault), None
    return f"'{param}' {_what(fault, same)}.", param


def path(location: Sequence[Step]) -> str:
    """Steps into an object -> the path as clients write it: `messages[0].content`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).removeprefix(".")


def _location(fault: Fault, body: Any) -> tuple[Step, ...]:
    """The steps of a fault's location that are in the body; others are pydantic's own, such as branches of a union."""
    steps, here, location = list(fault["loc"])[1:], body, []
    for number, step in enumerate(steps):
        if isinstance(step, int):
            is_there = isinstance(here, Sequence) and not isinstance(here, str) and step < len(here)
        else:
            is_there = isinstance(here, Mapping) and step in here
        if is_there:
            here = here[step]
            location.append(step)
        elif fault["type"] == "missing" and number == len(steps) - 1:
            location.append(step)
    return tuple(location)


def _what(fault: Fault, same: Sequence[Fault]) -> str:
    """What is wrong with the field. same: all faults at the same place."""
    kind, context = fault["type"], fault.get("ctx") or {}
    if kind == "missing":
        return "is missing" + (f"; {_AN_UPLOAD}" if fault["loc"][-1] == "file" else "")
    if kind in _KINDS:
        kinds = dict.fromkeys(_KINDS[other["type"]] for other in same if other["type"] in _KINDS)
        return "must be " + " or ".join(kinds)
    if kind == "union_tag_not_found":
        return "is missing"
    if kind == "union_tag_invalid":
        return f"must be {_either(context['expected_tags'])}{_not_this(context['tag'])}"
    if kind in _TEXTS:
        return _TEXTS[kind].format(**{name: _plain(value) for name, value in context.items()})
    if isinstance(context.get("error"), FieldRefusal):
        return str(context["error"].reason)
    if kind == "value_error" and fault["loc"][-1] == "file":
        return f"is no file; {_AN_UPLOAD}"
    return "is not valid"


def _plain(bound: Any) -> Any:
    """2.0 -> 2."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _whole_body(fault: Fault) -> str:
    if fault["type"] == "missing":
        return "the request has no body; send a JSON object."
    return "the body must be a JSON object, sent with 'Content-Type: application/json'."


def _either(tags: str) -> str:
    """pydantic's "'a', 'b', 'c'" -> "'a', 'b' or 'c'"."""
    return " or ".join(tags.rsplit(", ", 1))


def _not_this(tag: str) -> str:
    """The type that was sent, where it is a word that may be repeated."""
    is_word = tag.replace("_", "").replace(".", "").replace("-", "").isalnum() and tag.isascii()
    return f"; this model cannot take '{tag}'" if is_word and len(tag) <= _LONGEST_TAG else ""
