"""Who cuts texts into lines: rules, or a language model behind any OpenAI-compatible address."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Protocol

from ....errors import ConfigError, DataError
from .registry import require

_ENDS = re.compile(r"(?<=[。！？!?；;…])(?![”」』\"'’])|(?<=[.])(?=\s+[A-Z“\"(])|(?<=[”」』])(?=[^，。、])")
_INNER = re.compile(r"(?<=[，、：,:;])(?!\d)")
_TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|No|Jr|Sr|[A-Z])\.$")


class Splitter(Protocol):
    """A text and its language -> lines that together are the text, each at most `longest` characters where it can be
    cut at a mark."""

    def __call__(self, text: str, language: str, longest: int) -> list[str]: ...


class Rules:
    """At the ends of sentences; a sentence that is too long at the mark nearest to its middle, again and again."""

    def __call__(self, text: str, language: str, longest: int) -> list[str]:
        sentences: list[str] = []
        for piece in _ENDS.split(" ".join(text.split())):
            if sentences and _TITLE.search(sentences[-1]):
                sentences[-1] += piece
            elif piece.strip():
                sentences.append(piece)
        return [line.strip() for sentence in sentences for line in _halves(sentence, longest) if line.strip()]


class LanguageModel:
    """A chat model behind an OpenAI-compatible address; `argument`: URL#MODEL. Lines that are not the text are refused,
    so it can choose places and nothing else."""

    def __init__(self, argument: str) -> None:
        address, _, model = argument.partition("#")
        if not address or not model:
            raise ConfigError("the text backend llm needs an address and a model: llm:http://HOST/v1#MODEL.")
        library = require("openai", "the text backend llm", "openai")
        self._client, self._model = library.OpenAI(base_url=address), model

    def __call__(self, text: str, language: str, longest: int) -> list[str]:
        prompt = (
            "Cut the text into lines where a speaker would pause. Change nothing, add nothing. "
            f"At most {longest} characters a line. Answer with a JSON array of strings.\n\n{text}"
        )
        answer = self.ask(prompt)
        try:
            lines = json.loads(answer[answer.index("[") : answer.rindex("]") + 1])
            whole = "".join("".join(str(line).split()) for line in lines)
        except (ValueError, TypeError) as error:
            raise DataError("the language model gave no JSON array of lines") from error
        if whole != "".join(text.split()):
            raise DataError("the language model changed the text it was to cut")
        return [str(line).strip() for line in lines if str(line).strip()]

    def ask(self, prompt: str) -> str:
        """One question, answered without chance."""
        completion = self._client.chat.completions.create(
            model=self._model, messages=[{"role": "user", "content": prompt}], temperature=0
        )
        return completion.choices[0].message.content or ""


def _halves(sentence: str, longest: int) -> list[str]:
    if len(sentence) <= longest:
        return [sentence]
    places = [match.start() for match in _INNER.finditer(sentence) if 0 < match.start() < len(sentence)]
    if not places:
        return [sentence]
    middle = min(places, key=lambda position: abs(position - len(sentence) / 2))
    return [*_halves(sentence[:middle], longest), *_halves(sentence[middle:], longest)]


BACKENDS: dict[str, Callable[[str], Any]] = {"rules": lambda argument: Rules(), "llm": LanguageModel}
