"""What HTTP and Realtime requests have in common: limits of their fields, and the sentence for a fault in one.

pydantic validates both. `describe` turns its errors into one sentence that names the field as the client sent it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

MAX_TEXT_CHARACTERS = 65_536
MAX_ID_CHARACTERS = 512
MAX_AUDIO_BYTES = 15 * 1024**2
"""Of one Realtime event, decoded: OpenAI's limit. Over HTTP the size of the request's body is the limit."""
_MAX_JSON_CHARACTERS = 131_072
_MAX_METADATA = 16
_MAX_PATH_CHARACTERS = 200
_MAX_TAG_CHARACTERS = 40

Fault = Mapping[str, Any]
Step = str | int

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
"""Wrong types. Where a field may have one of several, all of them are reported at once."""
_TEXTS = {
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
    "refused": "{reason}",
}
_CODES = {
    "missing": "missing_required_parameter",
    "union_tag_not_found": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "renamed": "unknown_parameter",
    "string_too_long": "string_above_max_length",
    "too_long": "array_above_max_length",
}
_UPLOAD_HINT = "send it in multipart/form-data, with a file name"


def refusal(reason: str, *steps: Step, code: str = "invalid_value") -> PydanticCustomError:
    """What a validator of ours raises. reason: what follows the field's name. steps: from the value being validated to
    the field at fault. code: for programs."""
    return PydanticCustomError("refused", "{reason}", {"reason": reason, "steps": steps, "code": code})


def missing(name: str) -> PydanticCustomError:
    """A required field of the object being validated is not there."""
    return PydanticCustomError("missing", "", {"steps": (name,)})


def renamed(old: str, new: str) -> PydanticCustomError:
    """A field under a name that the protocol once had. new: path of today's field beside it."""
    return PydanticCustomError("renamed", "{new}", {"steps": (old,), "new": new})


def between(low: float, high: float) -> AfterValidator:
    """Bounds of a number, reported together."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise refusal(f"must lie between {low:g} and {high:g}")
        return value

    return AfterValidator(check)


def _check_text(text: str) -> str:
    """JSON can spell halves of characters (a lone \\ud800), which no text encoder takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refusal(_TEXTS["string_unicode"]) from None
    return text


def check_json(value: Any) -> Any:
    """JSON of bounded size and depth, as it is."""
    try:
        too_large = len(json.dumps(value)) > _MAX_JSON_CHARACTERS
    except RecursionError:
        too_large = True
    if too_large:
        raise refusal(f"may have at most {_MAX_JSON_CHARACTERS} characters of JSON")
    return value


Text = Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS), AfterValidator(_check_text)]
Identifier = Annotated[str, Field(max_length=MAX_ID_CHARACTERS), AfterValidator(_check_text)]
JsonValue = Annotated[Any, AfterValidator(check_json)]
"""Any JSON of bounded size, kept as it is."""
Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=64), AfterValidator(_check_text)],
        Annotated[str, Field(max_length=512), AfterValidator(_check_text)],
    ],
    Field(max_length=_MAX_METADATA),
]


@dataclass(frozen=True)
class Wording:
    """The sentences in which OpenAI's two interfaces differ. options: of a choice, each in quotation marks."""

    missing: str
    options: Callable[[Sequence[str]], str]


def _or(options: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(options[:-1]), options[-1])))


def _one_of(options: Sequence[str]) -> str:
    return f"one of {', '.join(options)}" if len(options) > 1 else options[0]


HTTP = Wording("'{param}' is missing", _or)
REALTIME = Wording("Missing required parameter: '{param}'", _one_of)


@dataclass(frozen=True)
class Description:
    """One fault: a sentence, the path of the field (None: the whole body), and Realtime's code for this kind."""

    message: str
    param: str | None
    code: str


def describe(faults: Sequence[Fault], body: Any, wording: Wording) -> Description:
    """pydantic's errors (at least one) and the body in which they are -> the one that is reported.

    Of several fields the first counts. Where a field may be of several kinds pydantic has errors for each: the deepest
    one is of the kind that was meant. No value that the client sent is repeated, except names of types.
    """
    located = [(_location(fault, body), fault) for fault in faults]
    first = located[0][0]
    of_first = [(location, fault) for location, fault in located if location[: len(first)] == first]
    deepest = max(len(location) for location, _ in of_first)
    candidates = [(location, fault) for location, fault in of_first if len(location) == deepest]
    location, fault = next((c for c in candidates if c[1]["type"] not in _KINDS), candidates[0])
    same = [other for other_location, other in candidates if other_location == location]
    kind, context = fault["type"], fault.get("ctx") or {}
    code = context.get("code") or _CODES.get(kind, "invalid_type" if kind in _KINDS else "invalid_value")
    param = path(location) or None
    if param is None:
        return Description(_whole_body(fault), None, code)
    if kind in ("missing", "union_tag_not_found"):
        hint = f"; {_UPLOAD_HINT}" if location[-1] == "file" else ""
        return Description(f"{wording.missing.format(param=param)}{hint}.", param, code)
    if kind == "extra_forbidden":
        return Description(f"Unknown parameter: '{param}'.", param, code)
    if kind == "renamed":
        new = path((*location[:-1], context["new"]))
        return Description(f"Unknown parameter: '{param}'; its name is '{new}' now.", param, code)
    return Description(f"'{param}' {_what(fault, same, wording)}.", param, code)


def explain(faults: Sequence[Fault], body: Any) -> tuple[str, str | None]:
    """FastAPI's errors, whose locations begin with the part of the request, and the body -> message, field at fault."""
    if not faults:
        return "the request is not valid.", None
    description = describe([{**fault, "loc": fault["loc"][1:]} for fault in faults], body, HTTP)
    return description.message, description.param


def path(location: Sequence[Step]) -> str:
    """Steps into an object -> the path as clients write it: `messages[0].content`."""
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return steps.removeprefix(".")[:_MAX_PATH_CHARACTERS]


def _location(fault: Fault, body: Any) -> tuple[Step, ...]:
    """The steps of a fault's location that are in the body; others are pydantic's own, such as branches of a union."""
    steps, value, location = list(fault["loc"]), body, []
    for number, step in enumerate(steps):
        if isinstance(step, int):
            exists = isinstance(value, Sequence) and not isinstance(value, str) and step < len(value)
        else:
            exists = isinstance(value, Mapping) and step in value
        if exists:
            value = value[step]
            location.append(step)
        elif fault["type"] == "missing" and number == len(steps) - 1:
            location.append(step)
    context = fault.get("ctx") or {}
    if fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
        location.append(context["discriminator"].strip("'"))
    return (*location, *context.get("steps", ()))


def _what(fault: Fault, same: Sequence[Fault], wording: Wording) -> str:
    """What is wrong with the field. same: all faults of this field."""
    kind, context = fault["type"], fault.get("ctx") or {}
    if kind in _KINDS:
        kinds = dict.fromkeys(_KINDS[other["type"]] for other in same if other["type"] in _KINDS)
        return "must be " + " or ".join(kinds)
    if kind in ("literal_error", "enum"):
        return f"must be {wording.options(context['expected'].replace(' or ', ', ').split(', '))}"
    if kind == "union_tag_invalid":
        return f"must be {wording.options(context['expected_tags'].split(', '))}{_not_this(context['tag'])}"
    if kind in _TEXTS:
        return _TEXTS[kind].format(**{name: _plain(value) for name, value in context.items()})
    if kind == "value_error" and fault["loc"][-1] == "file":
        return f"is no file; {_UPLOAD_HINT}"
    return "is not valid"


def _plain(bound: Any) -> Any:
    """2.0 -> 2."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _whole_body(fault: Fault) -> str:
    if fault["type"] == "missing":
        return "the request has no body; send a JSON object."
    return "the body must be a JSON object, sent with 'Content-Type: application/json'."


def _not_this(tag: str) -> str:
    """The type that was sent, where it is a word that may be repeated."""
    is_word = tag.replace("_", "").replace(".", "").replace("-", "").isalnum() and tag.isascii()
    return f"; this model cannot take '{tag}'" if is_word and len(tag) <= _MAX_TAG_CHARACTERS else ""
