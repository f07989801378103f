"""Text tokenizers for training, which asks for the same texts again and again."""

from __future__ import annotations

from ..language_model.text_tokenizer import TextTokenizer


class Remembering(TextTokenizer):
    """A text tokenizer that keeps the ids of every text it has seen: training asks for the same ones again."""

    def __init__(self, source: str) -> None:
        self._known: dict[str, list[int]] = {}
        super().__init__(source)

    def encode(self, text: str) -> list[int]:
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = self._new(text)
        return known

    def _new(self, text: str) -> list[int]:
        return super().encode(text)


class Spelling(Remembering):
    """Every text character by character, as words outside the tokenizer's table are."""

    def _new(self, text: str) -> list[int]:
        return [id for character in text for id in super(Spelling, self)._new(character)]
