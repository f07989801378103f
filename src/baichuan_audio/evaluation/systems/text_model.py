"""A published language model that is typed to: the ceiling of a speech model built on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...data.store.atomic import file_digest
from ...training.chat_model import START, VOICE_SYSTEM, ChatModel, chatml
from ..results import EvaluationError, weights_digest
from ..suites.items import Item
from .base import Earlier, Reply
from .local import CONTEXT_PROMPTS

_TOKENS = 96


class TextModelSystem:
    """A ChatML model, a GGUF file or a Hugging Face folder, that answers typed questions without chance."""

    def __init__(self, path: Path) -> None:
        self._model, self._weights = ChatModel(path), weights_digest(path) if path.is_dir() else file_digest(path)

    def provenance(self) -> dict[str, Any]:
        return {"kind": "text model", "weights": self._weights, "system": VOICE_SYSTEM, "tokens": _TOKENS}

    def answer(
        self, item: Item, spoken: bool, typed: bool = False, instruction: str = "", earlier: Earlier | None = None
    ) -> Reply:
        if spoken or not typed:
            raise EvaluationError("a text model takes and gives text only; ask for --settings t2t.")
        before = "" if earlier is None else chatml("user", earlier[0].question) + chatml("assistant", earlier[1])
        prompt = f"{chatml('system', VOICE_SYSTEM)}{before}{chatml('user', item.question)}{START}assistant\n"
        ((text, _),) = self._model.continue_all([prompt], _TOKENS, 0.0, torch.Generator())
        return Reply(text.strip())

    def transcribe(self, item: Item) -> str:
        raise EvaluationError("a text model transcribes nothing; name another system.")

    def losses(self, item: Item, spoken: bool) -> list[float]:
        if spoken:
            raise EvaluationError("a text model hears nothing; ask for --settings t2t_loss.")
        before = CONTEXT_PROMPTS[item.language] + item.question
        return [self._model.mean_loss(before, choice) for choice in item.choices]
